"""`vrshq compare`: paired differences of two evaluations of one benchmark, their intervals, and the largest changes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.evaluate.breakdowns import MOTION
from vrshq.pipelines.evaluate.datasets.base import DatasetError
from vrshq.pipelines.evaluate.markdown import markdown
from vrshq.pipelines.evaluate.page import page
from vrshq.pipelines.evaluate.protocols import bootstrap, summarize
from vrshq.pipelines.evaluate.scores import SCORES
from vrshq.pipelines.evaluate.section import Section

SAMPLES, SEED, LEVEL = 2000, 0, 0.95
COMPARED = ("J", "F", "A", "R")
_READ = (
    *("video_id", "expression_id", "text", "group", "motion", "status", "JF_fixed"),
    *(f"{name}_fixed" for name in COMPARED),
)


class CompareError(DatasetError):
    """Two evaluations cannot be compared. The one-line message gives the reason."""


def compare(first: str, second: str, *, changes: int = 20) -> dict[str, Any]:
    """Paired differences of two evaluations, second minus first, in percent points.

    The compared measures are the fixed ones of `scores.parquet`: every expression with ground truth counts once and a missing
    answer as 0, and nothing is rounded. A difference therefore comes from the masks alone. Groups are those of the data set's
    protocol. Intervals come from a bootstrap over videos that keeps the two scores of an expression together.

    Args:
        first: folder with a `scores.parquet`.
        second: folder with a `scores.parquet` of the same data set.
        changes: largest number of expressions in `most_gained` and in `most_lost`.

    Returns:
        the content of `comparison.json`. Its measures J, F, JF, A and R are in percent points; None: not measured.

    Raises:
        CompareError: a folder has no scores, or the two have no expression in common.
        StorageError: a folder cannot be read.
    """
    return compare_tables([read_scores(uri) for uri in (first, second)], first, second, changes=changes)


def compare_tables(tables: Sequence[pa.Table], first: str, second: str, *, changes: int = 20) -> dict[str, Any]:
    """As `compare`, of two tables of `read_scores` with the names of what they are."""
    keys = [dict(zip(_keys(table), range(table.num_rows), strict=True)) for table in tables]
    shared = [key for key in keys[0] if key in keys[1]]
    if not shared:
        raise CompareError(
            f"{first} and {second} have no expression in common; expected two evaluations of one data set"
        )
    rows = [table.take([keys[side][key] for key in shared]) for side, table in enumerate(tables)]
    _check_texts(rows, first, second)
    values = {name: [_floats(side, f"{name}_fixed") for side in rows] for name in COMPARED}
    known = ~np.isnan(values["J"][0]) & ~np.isnan(values["J"][1])
    group = rows[0]["group"].to_numpy(zero_copy_only=False).copy()
    group[~known] = None
    columns = {
        "video_id": rows[0]["video_id"].to_numpy(zero_copy_only=False),
        "group": group,
        **{name: sides[1] - sides[0] for name, sides in values.items()},
    }
    about_motion = rows[0]["motion"].to_numpy(zero_copy_only=False)
    named = [MOTION if name is not None and motion else None for name, motion in zip(group, about_motion, strict=True)]
    motion = columns | {"group": np.array(named, object)}
    difference = (columns["J"] + columns["F"]) / 2
    draws: dict[str, Any] = {"samples": SAMPLES, "seed": SEED, "level": LEVEL}
    order = [int(row) for row in np.argsort(difference, kind="stable") if known[row] and difference[row]]
    changed = [_change(rows, row, difference[row]) for row in order]
    return {
        "first": first,
        "second": second,
        "expressions": int(known.sum()),
        "only_in_first": tables[0].num_rows - len(shared),
        "only_in_second": tables[1].num_rows - len(shared),
        "gained": int((difference[known] > 0).sum()),
        "lost": int((difference[known] < 0).sum()),
        "equal": int((difference[known] == 0).sum()),
        "differences": _plain(summarize(columns) | _apart(summarize(motion))),
        "intervals": _plain(bootstrap(columns, **draws) | _apart(bootstrap(motion, **draws))),
        "most_gained": [one for one in changed[::-1] if one["difference"] > 0][:changes],
        "most_lost": [one for one in changed if one["difference"] < 0][:changes],
    }


def write_comparison(output: str, result: dict[str, Any]) -> list[str]:
    """Writes `comparison.json`, `comparison.md` and `comparison.html` into `output`; returns their uris."""
    folder = Folder(output)
    title, parts = "Two evaluations compared", sections(result)
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    for name, content in (
        ("comparison.json", text + "\n"),
        ("comparison.md", markdown(title, parts)),
        ("comparison.html", page(title, parts)),
    ):
        folder.write_bytes(name, content.encode())
    return [folder.uri_of(f"comparison.{kind}") for kind in ("json", "md", "html")]


def sections(result: dict[str, Any]) -> list[Section]:
    """The comparison as tables: differences by group, and the expressions that changed most."""
    rows = []
    for group, means in result["differences"].items():
        for name in ("J", "F", "JF", "A", "R"):
            if means.get(name) is not None:
                low, high = result["intervals"][group][name]
                rows.append(
                    [group, "J&F" if name == "JF" else name, *(f"{value:+.2f}" for value in (means[name], low, high))]
                )
    lines = [
        f"First: {result['first']}",
        f"Second: {result['second']}",
        (
            f"{result['expressions']:,} expressions in both: {result['gained']:,} gained, {result['lost']:,} lost, "
            f"{result['equal']:,} equal; {result['only_in_first']:,} only in the first, {result['only_in_second']:,} only in "
            "the second. Differences are second minus first, in percent points, without rounding; a missing answer counts as 0."
        ),
    ]
    parts = [
        Section("Differences", lines, ["group", "measure", "difference", f"{LEVEL:.0%} from", "to"], rows),
    ]
    for title, name in (("Gained most", "most_gained"), ("Lost most", "most_lost")):
        changed = [
            [
                f"{one['video_id']} / {one['expression_id']}",
                one["text"],
                *(f"{one[side]:.2f}" for side in ("first", "second")),
                f"{one['difference']:+.2f}",
                one["status"],
            ]
            for one in result[name]
        ]
        if changed:
            head = ["video / expression", "text", "first J&F", "second J&F", "difference", "status"]
            parts.append(Section(title, [], head, changed))
    return parts


def read_scores(uri: str) -> pa.Table:
    """The columns of a folder's `scores.parquet` that are compared. Raises CompareError."""
    try:
        data = Folder(uri).read_bytes("scores.parquet")
    except StorageNotFoundError as error:
        raise CompareError(f"{uri} has no scores.parquet; run `vrshq evaluate` with --output {uri} first") from error
    try:
        table = pq.read_table(pa.BufferReader(data))
        return table.select(_READ).cast(pa.schema([SCORES.field(name) for name in _READ]))
    except (KeyError, ValueError, pa.ArrowException) as error:
        raise CompareError(f"{uri}/scores.parquet was not written by this version of `vrshq evaluate`") from error


def _apart(groups: dict[str, Any]) -> dict[str, Any]:
    """The group of the expressions about motion or time alone; {} without any."""
    return {name: means for name, means in groups.items() if name == MOTION}


def _keys(table: pa.Table) -> list[tuple[str, str]]:
    return list(zip(table["video_id"].to_pylist(), table["expression_id"].to_pylist(), strict=True))


def _check_texts(rows: list[pa.Table], first: str, second: str) -> None:
    texts = [side["text"].to_pylist() for side in rows]
    for place, (one, other) in enumerate(zip(*texts, strict=True)):
        if one != other:
            key = f"{rows[0]['video_id'][place]} / {rows[0]['expression_id'][place]}"
            raise CompareError(f"{first} and {second} are of different data sets: {key} has a different text in each")


def _floats(table: pa.Table, name: str) -> np.ndarray:
    values: np.ndarray = table[name].to_numpy(zero_copy_only=False).astype(np.float64)
    return values


def _change(rows: list[pa.Table], row: int, difference: float) -> dict[str, Any]:
    before, after = ({name: side[name][row].as_py() for name in ("JF_fixed", "status")} for side in rows)
    status = before["status"] if before["status"] == after["status"] else f"{before['status']} -> {after['status']}"
    named = {name: rows[0][name][row].as_py() for name in ("video_id", "expression_id", "text")}
    return {
        **named,
        "first": before["JF_fixed"],
        "second": after["JF_fixed"],
        "difference": float(difference),
        "status": status,
    }


def _plain(groups: dict[str, Any]) -> dict[str, Any]:
    """The values with NaN, of measures that the data set does not have, as None."""

    def known(value: Any) -> Any:
        if isinstance(value, tuple):
            return [known(item) for item in value]
        return None if value != value else value

    return {group: {name: known(value) for name, value in means.items()} for group, means in groups.items()}

"""All instructions of a run as columns in memory: filtered, sorted and paged in Arrow and numpy."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.errors import UserError
from vrshq.pipelines.label.tables.reviews import Key, Outcome
from vrshq.pipelines.label.tables.schema import MASKS, TRACKS

# What a page shows of an instruction; lists and the texts of errors stay on disk.
COLUMNS = (
    *("video_id", "instruction_id", "status", "answer", "num_objects", "num_frames", "start", "end", "every"),
    *("height", "width", "pixel_aspect", "keyframe_index", "presence"),
)
# Signals of trust, each with whether doubtful answers have high values. A run of an older version has none.
SIGNALS = {
    "flicker": True,
    "longest_gap": True,
    "area_jump": True,
    "score_dips": True,
    "lowest_score": False,
    "border_share": True,
}
PENDING = "pending"  # the status of what the run has not finished
OUTCOMES: tuple[Outcome, ...] = ("unjudged", "accepted", "rejected", "unsure")
LONGEST_PAGE = 200
_KEPT_ORDERS = 8
_UNIT = "\x1f"  # between the two ids of a key


@dataclass(frozen=True)
class Query:
    """Which instructions, in which order.

    Attributes:
        status: ok, empty, error or pending.
        text: a part of the instruction's text, in any case of letters.
        video: a part of the video's id.
        least: of the presence.
        most: of the presence.
        outcome: what the judges said.
        sort: a name of `Catalogue.sorts`; "": the run's own order.
    """

    status: str = ""
    text: str = ""
    video: str = ""
    least: float | None = None
    most: float | None = None
    outcome: str = ""
    sort: str = ""


class Catalogue:
    """The instructions of a run, finished or not, in the order of its manifest. Safe for several threads.

    Cost: one read of `manifest/`, of some columns of `tracks/`, and of three columns of `scores.parquet` where there is one.

    Attributes:
        table: a row for each instruction: `unit_id`, `video_uri`, `text` and those of `COLUMNS` and `SIGNALS` that are stored.
        sorts: the names that `Query.sort` takes.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._run = run
        self.table, self._keys = _read(run)
        scores = _scores(run, self._keys)
        signals = [name for name in SIGNALS if name in self.table.column_names]
        self._doubt: dict[str, np.ndarray] = {"presence": _numbers(self.table, "presence")}  # the smallest come first
        self._doubt["objects"] = -_numbers(self.table, "num_objects")
        self._doubt |= {name: _numbers(self.table, name) * (-1 if SIGNALS[name] else 1) for name in signals}
        self._doubt |= {} if scores is None else {"score": scores}
        self.sorts = ["presence", "empty", "objects", *signals, *(["score"] if scores is not None else [])]
        self._outcomes = np.zeros(len(self), np.int8)
        self._judged = 0  # how often an outcome has changed
        self._orders: dict[tuple[Query, int], np.ndarray] = {}
        self._lock, self._measuring = threading.Lock(), threading.Lock()

    def __len__(self) -> int:
        return int(self.table.num_rows)

    def row_of(self, key: Key) -> int | None:
        """The row of an instruction; None: the run has no such instruction."""
        place = pc.index(self._keys, pa.scalar(_UNIT.join(key), pa.large_string())).as_py()
        return place if place >= 0 else None

    def judged(self, outcomes: Mapping[Key, Outcome]) -> None:
        """Takes what the judges now say of some instructions."""
        keys = pa.array([_UNIT.join(key) for key in outcomes], pa.large_string())
        rows = pc.index_in(keys, value_set=self._keys).to_pylist() if outcomes else []
        with self._lock:
            for row, outcome in zip(rows, outcomes.values(), strict=True):
                if row is not None:
                    self._outcomes[row] = OUTCOMES.index(outcome)
            self._judged += 1
            self._orders = {key: order for key, order in self._orders.items() if not key[0].outcome}

    def outcomes(self, rows: Iterable[int]) -> list[Outcome]:
        """What the judges say of the instructions of some rows."""
        return [OUTCOMES[self._outcomes[row]] for row in rows]

    def order(self, query: Query) -> np.ndarray:
        """The rows that a query finds, int64, in its order. The last few answers are kept.

        Raises:
            UserError: an unknown order or outcome.
        """
        if query.sort and query.sort not in self.sorts:
            raise UserError(f"order {query.sort!r}: expected one of {', '.join(self.sorts)}")
        if query.outcome and query.outcome not in OUTCOMES:
            raise UserError(f"judgement {query.outcome!r}: expected one of {', '.join(OUTCOMES)}")
        with self._lock:
            key = (query, self._judged if query.outcome else 0)
            found = self._orders.get(key)
        if found is None:
            found = np.flatnonzero(self._matches(query))
            if query.sort:
                found = found[np.argsort(self._doubts(query.sort)[found], kind="stable")]  # NaN comes last
            with self._lock:
                self._orders[key] = found
                while len(self._orders) > _KEPT_ORDERS:
                    self._orders.pop(next(iter(self._orders)))
        return found

    def rows(self, rows: np.ndarray) -> list[dict[str, Any]]:
        """Some instructions: their columns, `row`, and `outcome`."""
        found: list[dict[str, Any]] = self.table.take(pa.array(rows, pa.int64())).to_pylist()
        outcomes = self.outcomes(rows.tolist())
        for number, outcome, row in zip(rows.tolist(), outcomes, found, strict=True):
            row |= {"row": number, "outcome": outcome}
            for name in ("empty", "score"):
                if name in self._doubt and not np.isnan(value := abs(float(self._doubt[name][number]))):
                    row[name] = value
        return found

    def counts(self) -> dict[str, int]:
        """Instructions by status."""
        counted = pc.value_counts(self.table["status"])
        return {one["values"]: one["counts"] for one in counted.to_pylist()}

    def _matches(self, query: Query) -> np.ndarray:
        matches = np.ones(len(self), bool)
        if query.status:
            matches &= _bools(pc.equal(self.table["status"], query.status))
        if query.text:
            matches &= _bools(pc.match_substring(self.table["text"], query.text, ignore_case=True))
        if query.video:
            matches &= _bools(
                pc.match_substring(self.table["video_id"].cast(pa.string()), query.video, ignore_case=True)
            )
        presence = self._doubt["presence"]
        if query.least is not None:
            matches &= presence >= query.least
        if query.most is not None:
            matches &= presence <= query.most
        if query.outcome:
            matches &= self._outcomes == OUTCOMES.index(query.outcome)
        return matches

    def _doubts(self, sort: str) -> np.ndarray:
        if sort not in self._doubt:
            with self._measuring:  # two pages that ask at once cost one pass
                if sort not in self._doubt:
                    self._doubt["empty"] = -_empty_shares(self._run, self._keys)
        return self._doubt[sort]


def _read(run: RunDirectory) -> tuple[pa.Table, pa.Array]:
    """The table of a catalogue, and the keys of its rows."""
    manifest = run.read_manifest().select(["unit_id", "video_id", "video_uri", "instruction_ids", "texts"])
    manifest = manifest.combine_chunks()
    units = pc.list_parent_indices(manifest["instruction_ids"])
    asked = {name: pc.take(manifest[name], units) for name in ("unit_id", "video_id", "video_uri")}
    asked["instruction_id"] = pc.list_flatten(manifest["instruction_ids"])
    asked["text"] = pc.list_flatten(manifest["texts"])
    table = pa.table(asked)
    reader = run.reader("tracks", TRACKS)
    stored = set(reader.stored_schema().names)
    # declared ones that the run has stored; signals are read by their names, too
    names = [name for name in (*COLUMNS, *SIGNALS) if name in stored and name in TRACKS.names]
    tracks = reader.read(columns=[*dict.fromkeys(("video_id", "instruction_id", *names))])
    keys = _keys(table)
    places = pc.index_in(keys, value_set=_keys(tracks))
    for name in names:
        if name not in table.column_names:
            table = table.append_column(name, pc.take(tracks[name], places))
    status = pc.fill_null(table["status"], PENDING) if "status" in names else pa.repeat(PENDING, table.num_rows)
    for name in ("unit_id", "video_id", "video_uri"):  # few values, each in many rows
        table = table.set_column(table.column_names.index(name), name, pc.dictionary_encode(table[name]))
    table = table.set_column(table.column_names.index("status"), "status", status)
    return table.combine_chunks(), keys


def _keys(table: pa.Table, instruction: str = "instruction_id") -> pa.Array:
    columns = [pc.cast(table[name], pa.large_string()) for name in ("video_id", instruction)]
    joined = pc.binary_join_element_wise(*columns, pa.scalar(_UNIT, pa.large_string()))
    return joined.combine_chunks() if isinstance(joined, pa.ChunkedArray) else joined


def _scores(run: RunDirectory, keys: pa.Array) -> np.ndarray | None:
    """J&F of each row in percent, NaN without one; None where the folder holds no evaluation of this run."""
    try:
        with run.folder.open_read("scores.parquet") as file:
            scores = pq.read_table(file, columns=["video_id", "expression_id", "JF"])
    except (StorageNotFoundError, pa.ArrowInvalid):
        return None
    places = pc.index_in(keys, value_set=_keys(scores, "expression_id"))
    found = pc.take(scores["JF"], places)
    return None if found.null_count == len(found) else _floats(found)


def _empty_shares(run: RunDirectory, keys: pa.Array) -> np.ndarray:
    """Share of each row's frames without a mask, NaN without an answer. One pass over three columns of `masks/`."""
    frames = np.zeros(len(keys), np.int64)
    shown = np.zeros(len(keys), np.int64)
    reader = run.reader("masks", MASKS)
    for batch in reader.batches(["video_id", "instruction_id", "frame_index", "area"]):
        batch = batch.append_column("key", _keys(batch))
        by_frame = batch.group_by(["key", "frame_index"]).aggregate([("area", "max")])
        by_key = (
            pa.table({"key": by_frame["key"], "shown": pc.cast(pc.greater(by_frame["area_max"], 0), pa.int64())})
            .group_by("key")
            .aggregate([("shown", "sum"), ("shown", "count")])
        )
        places = pc.index_in(by_key["key"], value_set=keys)
        known = _bools(pc.is_valid(places))
        rows = places.to_numpy()[known].astype(np.int64)
        np.add.at(frames, rows, by_key["shown_count"].to_numpy()[known])
        np.add.at(shown, rows, by_key["shown_sum"].to_numpy()[known])
    with np.errstate(invalid="ignore"):
        return np.where(frames > 0, 1 - shown / np.maximum(frames, 1), np.nan)


def _numbers(table: pa.Table, name: str) -> np.ndarray:
    return _floats(table[name]) if name in table.column_names else np.full(table.num_rows, np.nan)


def _floats(column: Any) -> np.ndarray:
    values: np.ndarray = pc.fill_null(pc.cast(column, pa.float64()), np.nan).to_numpy()
    return values


def _bools(column: Any) -> np.ndarray:
    values: np.ndarray = pc.fill_null(column, False).to_numpy(zero_copy_only=False)
    return values

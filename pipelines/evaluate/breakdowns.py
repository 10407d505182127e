"""Computes `scores.json` from the rows of `scores.parquet`: means, intervals, break-downs, problems."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from vrshq.pipelines.evaluate.presence import (
    auroc,
    brier_score,
    calibration_error,
    final_score,
    mask_threshold,
    no_target_summary,
    reliability,
)
from vrshq.pipelines.evaluate.protocols import (
    DISTANCES,
    FAR,
    MEASURES,
    Carried,
    Columns,
    Protocol,
    bootstrap,
    by_distance,
    last_per_object,
    summarize,
)
from vrshq.pipelines.evaluate.scores import OK, PROBLEMS

LENGTHS = (0, 50, 100, 200)
MOTION = "motion or time"  # the expressions about it, which every table shows apart
SAMPLES, SEED, LEVEL = 1000, 0, 0.95
FALSE_POSITIVES = 0.05  # share of no-target expressions that keep a mask at the reported threshold of presence


def statistics(table: pa.Table, protocol: Protocol) -> dict[str, Any]:
    """The content of `scores.json` for a table of `vrshq.pipelines.evaluate.scores.SCORES`, as JSON values, NaN as None.

    `published` follows the protocol. `fixed` has the same groups. It counts every expression once and a missing answer as 0,
    rounds nothing, and computes A and R on 0/1 masks. Both have bootstrap intervals over videos.
    """
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name != "object_ids"}
    counted, overwritten = published_rows(table, protocol)
    published = measures(columns, "", counted)
    fixed = measures(columns, "_fixed", columns["status"] != "no-truth")
    result: dict[str, Any] = {
        "protocol": asdict(protocol),
        "videos": len(set(columns["video_id"].tolist())),
        "expressions": table.num_rows,
        "in_published_mean": int((published["group"] != None).sum()),  # noqa: E711 - an array of objects
        "problems": problems(table, protocol),
        "overwritten_expressions": overwritten,
        "published": summarize(published),
        "published_intervals": bootstrap(published, samples=SAMPLES, seed=SEED, level=LEVEL),
        "fixed": summarize(fixed),
        "fixed_intervals": bootstrap(fixed, samples=SAMPLES, seed=SEED, level=LEVEL),
        "intervals": {"over": "videos", "samples": SAMPLES, "seed": SEED, "level": LEVEL},
        **_presence_and_time(columns),
        "calibration": calibration(columns),
        "tracking": tracking(columns),
        "motion": about_motion(columns),
        "breakdowns": breakdowns(columns),
        "no_target_breakdowns": no_target_breakdowns(columns),
    }
    jf = result["published"].get("overall", {}).get("JF", math.nan) / 100
    accuracies = (result["no_target"][name] for name in ("n_acc", "t_acc"))
    result["no_target"] |= {"jf": jf, "final": final_score(jf, *accuracies)}
    plain: dict[str, Any] = _plain(result)
    return plain


def published_rows(table: pa.Table, protocol: Protocol) -> tuple[np.ndarray, int]:
    """Rows that the public evaluator counts, bool (rows,), and the number of rows that it overwrites by later ones."""
    status = table["status"].to_numpy(zero_copy_only=False)
    counted = status == OK
    if protocol.missing == "zero":
        counted = status != "no-truth"
    elif protocol.missing == "zero-video":
        counted |= status == "missing-video"
    if not protocol.one_per_object:
        return counted, 0
    keys = list(
        zip(
            table["video_id"].to_pylist(),
            (tuple(ids) or (number,) for number, ids in enumerate(table["object_ids"].to_pylist())),
            strict=True,
        )
    )
    rows = np.flatnonzero(counted)
    last = last_per_object([keys[row] for row in rows])
    counted[rows] = last
    return counted, int((~last).sum())


def measures(columns: Columns, suffix: str, counted: np.ndarray) -> dict[str, np.ndarray]:
    """The columns that `summarize` takes, with the measures of one suffix ("" or "_fixed"). Uncounted rows have no group."""
    group = columns["group"].copy()
    group[~counted] = None
    found = {name: columns[name + suffix].astype(np.float64) for name in MEASURES if name != "JF"}
    return {"video_id": columns["video_id"], "group": group, **found}


def problems(table: pa.Table, protocol: Protocol) -> dict[str, Any]:
    """The problems by kind: number of expressions, effect on the score, and the list of the expressions."""
    rows = table.select(["status", "video_id", "expression_id", "detail", "missing_frames"]).to_pylist()
    costs = {True: "score 0", False: "left out of the published mean, 0 in the fixed one"}
    found: dict[str, Any] = {}
    for kind in PROBLEMS:
        these = [row for row in rows if row["status"] == kind]
        if these:
            found[kind] = {
                "count": len(these),
                "cost": "left out: nothing to compare with"
                if kind == "no-truth"
                else costs[protocol.missing == "zero" or (protocol.missing, kind) == ("zero-video", "missing-video")],
                "expressions": [
                    {name: row[name] for name in ("video_id", "expression_id", "detail", "missing_frames") if row[name]}
                    for row in these
                ],
            }
    remarked = [row for row in rows if row["status"] == OK and row["detail"]]
    if remarked:
        found["remarks"] = {
            "count": len(remarked),
            "cost": "scored all the same",
            "expressions": [{name: row[name] for name in ("video_id", "expression_id", "detail")} for row in remarked],
        }
    return found


def about_motion(columns: Columns) -> dict[str, Any] | None:
    """The numbers of the expressions about motion or time alone: `fixed`, and those of the same names in `scores.json`.

    None if there are no such expressions with a target, or no others.
    """
    rows = columns["motion"].astype(bool)
    if rows.all() or not (rows & (columns["kind"] != "no-target")).any():
        return None
    part = {name: values[rows] for name, values in columns.items()}
    counted = (part["kind"] != "no-target") & (part["status"] != "no-truth")
    group = np.full(len(counted), MOTION, object)
    fixed = measures(part | {"group": group}, "_fixed", counted)
    return {
        "expressions": int(counted.sum()),
        "fixed": summarize(fixed).get(MOTION, {}),
        "fixed_intervals": bootstrap(fixed, samples=SAMPLES, seed=SEED, level=LEVEL).get(MOTION, {}),
        **_presence_and_time(part),
        "tracking": tracking(part),
    }


def breakdowns(columns: Columns) -> dict[str, dict[str, dict[str, float]]]:
    """J, F, JF, tIoU and vIoU, percent, of the expressions with a target, by the properties that `scores.parquet` tells.

    `motion_JF` is the J&F of those among them that are about motion or time.

    Values are not rounded. A missing answer counts as 0.
    """
    target = (columns["kind"] != "no-target") & (columns["status"] != "no-truth")
    keys: dict[str, Callable[[int], str | None]] = {
        "kind": lambda row: columns["kind"][row],
        **_asked(columns),
        "source": lambda row: columns["source"][row],
        "frames": lambda row: length_bin(int(columns["frames"][row])),
        MOTION: lambda row: "yes" if columns["motion"][row] else "no",
    }
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name, key in keys.items():
        values = np.array([key(row) for row in range(len(target))], object)
        parts = {
            value: _means_of(columns, target & (values == value), over_time=True)
            for value in sorted({value for value in values[target] if value is not None}, key=_bin_order)
        }
        if parts:
            result[name] = parts
    return result


def no_target_breakdowns(columns: Columns) -> dict[str, dict[str, dict[str, float]]]:
    """Measures of the answered no-target expressions, by the attribute that they ask for.

    The true mask of each frame is empty, so J, F and JF are 100 on a frame with an empty prediction and 0 on any other.
    `auroc` compares their presence with that of the answered expressions with a target that ask for the same attribute.
    `auroc`, `false_positive_rate` and `presence` (the mean) are in 0..1.
    """
    answered = columns["status"] == OK
    nothing = answered & (columns["kind"] == "no-target")
    target = answered & ~nothing
    masked = columns["empty_frames"] != columns["frames"]
    result: dict[str, dict[str, dict[str, float]]] = {}
    for name, key in _asked(columns).items():
        values = np.array([key(row) for row in range(len(answered))], object)
        parts = {}
        for value in sorted({value for value in values[nothing] if value is not None}):
            rows = nothing & (values == value)
            compared = rows | (target & (values == value))
            parts[value] = _means_of(columns, rows) | {
                "false_positive_rate": float(np.mean(masked[rows])),
                "presence": float(np.mean(columns["presence"][rows].astype(np.float64))),
                "auroc": auroc(target[compared], columns["presence"][compared].astype(np.float64)),
            }
        if parts:
            result[name] = parts
    return result


def calibration(columns: Columns) -> dict[str, Any] | None:
    """Calibration of presence as the probability of a target, over answered expressions.

    None if there are not both expressions with and without a target, or if all presences are 0 or 1, which only tell
    whether there is a mask.
    """
    scored = columns["status"] == OK
    target = columns["kind"][scored] != "no-target"
    presence = columns["presence"][scored].astype(np.float64)
    if target.all() or not target.any() or np.isin(presence, (0, 1)).all():
        return None
    masked = columns["empty_frames"][scored] != columns["frames"][scored]
    bins = reliability(target, presence)
    return {
        "expressions": int(scored.sum()),
        "bins": [asdict(one) for one in bins],
        "expected_calibration_error": calibration_error(bins),
        "brier_score": brier_score(target, presence),
        "brier_score_of_base_rate": brier_score(target, np.full(len(target), target.mean())),
        "threshold": {"allowed": FALSE_POSITIVES} | asdict(mask_threshold(target, presence, masked, FALSE_POSITIVES)),
    }


def tracking(columns: Columns) -> dict[str, Any] | None:
    """J of expressions with a target by distance from the keyframe, see `vrshq.pipelines.evaluate.protocols.by_distance`.

    None if the predictions hold no keyframes.
    """
    told = [distances is not None for distances in columns["frame_distance"]]
    rows = np.flatnonzero((columns["kind"] != "no-target") & told)
    carried = [
        Carried(
            columns["video_id"][row],
            columns["frame_J"][row].astype(np.float64),
            columns["frame_shown"][row].astype(bool),
            columns["frame_distance"][row],
        )
        for row in rows
    ]
    if not carried:
        return None
    draws: dict[str, Any] = {"samples": SAMPLES, "seed": SEED, "level": LEVEL}
    found = {_range(*distances): by_distance(carried, distances, **draws) for distances in DISTANCES}
    keys = next(iter(found.values()))
    return {
        "expressions": len(carried),
        "keyframes_with_object": keys["frames"] / max(1, keys["frames"] + keys["hidden_frames"]),
        "distances": found,
        "far": {_range(*FAR): by_distance(carried, FAR, **draws)},
    }


def length_bin(frames: int) -> str:
    """The bin of a video's length in frames, such as "50-99"."""
    for low, high in zip(LENGTHS, (*LENGTHS[1:], None), strict=True):
        if high is None or frames < high:
            return f"{low}-{high - 1}" if high is not None else f"{low}+"
    raise AssertionError("unreachable")


def _presence_and_time(columns: Columns) -> dict[str, Any]:
    """No-target measures over answered expressions, and tIoU, vIoU, gIoU and cIoU over expressions with a target."""
    scored = columns["status"] == OK
    target = columns["kind"] != "no-target"
    answered = {
        name: columns[name][scored].astype(np.float64)
        for name in ("presence", "empty_frames", "frames", "predicted_area", "pixels")
    }
    with_target = target & (columns["status"] != "no-truth")
    j, frames, tiou, viou = (
        columns[name][with_target].astype(np.float64) for name in ("J_fixed", "frames", "tIoU", "vIoU")
    )
    areas = {name: np.nansum(columns[name][with_target].astype(np.float64)) for name in ("intersection", "union")}
    return {
        "no_target": no_target_summary(target[scored], **answered),
        "no_target_counts": {"no_target": int((~target & scored).sum()), "target": int((target & scored).sum())},
        "over_frames": {
            "gIoU": float((j * frames).sum() / frames.sum()) if frames.sum() else math.nan,
            "cIoU": float(100 * areas["intersection"] / areas["union"]) if areas["union"] else math.nan,
            "tIoU": float(np.mean(tiou)) if tiou.size else math.nan,
            "vIoU": float(np.mean(viou)) if viou.size else math.nan,
        },
    }


def _asked(columns: Columns) -> dict[str, Callable[[int], str | None]]:
    """The keys of break-downs by the asked attribute, in the data set's own words: "motion", and "motion: fastest"."""
    asks, subtype = columns["asks"], columns["subtype"]
    return {
        "asks": lambda row: asks[row],
        "subtype": lambda row: ": ".join(filter(None, (asks[row], subtype[row]))) if subtype[row] else None,
    }


def _means_of(columns: Columns, rows: np.ndarray, *, over_time: bool = False) -> dict[str, float]:
    names = {name: f"{name}_fixed" for name in ("J", "F", "JF")} | (
        {"tIoU": "tIoU", "vIoU": "vIoU"} if over_time else {}
    )
    means = {name: float(np.mean(columns[column][rows].astype(np.float64))) for name, column in names.items()}
    if over_time:
        moving = columns["JF_fixed"][rows & columns["motion"].astype(bool)].astype(np.float64)
        means["motion_JF"] = float(np.mean(moving)) if moving.size else math.nan
    return {"expressions": int(rows.sum())} | means


def _range(low: int, high: int | None) -> str:
    """A range of distances as text: "0", "1-3", "16+"."""
    return f"{low}+" if high is None else str(low) if low == high else f"{low}-{high}"


def _bin_order(value: str) -> tuple[int, str]:
    head = value.partition("-")[0].rstrip("+")
    return (int(head) if head.isdecimal() else -1, value)


def _plain(value: Any) -> Any:
    """The value with NaN and infinity as None and NumPy numbers as Python numbers."""
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value

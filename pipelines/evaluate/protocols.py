"""How benchmarks turn frames into a number: what a missing answer costs, where is rounded, what is averaged in which order.

The protocols are those of the public evaluators; each one names the code that it was read from. Numbers are percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

MEASURES = ("J", "F", "JF", "A", "R")
Columns = Mapping[str, np.ndarray]
"""Arrays of one length, an expression each: float percents by the names in `MEASURES`, and what else a function names."""

# Frames from the keyframe, both ends included; None: no end. FAR overlaps the last two.
DISTANCES: tuple[tuple[int, int | None], ...] = ((0, 0), (1, 3), (4, 7), (8, 15), (16, None))
FAR: tuple[int, int | None] = (8, None)


@dataclass(frozen=True)
class Protocol:
    """One evaluator's rules.

    Attributes:
        name: as reports show it.
        source: the public code that it follows.
        decimals: of an expression's percents before they are averaged; None: not rounded.
        groups: what is averaged first; the overall number is the plain mean of the groups' means, whatever their sizes.
            "kind": referring and reasoning expressions, all others are left out; "annotator": one of four, by the
            expression's number modulo 4; None: all expressions together.
        missing: an expression without an answer, or with an unusable one, scores 0 or is left out of the mean.
        drop_ends: the first and the last frame do not count.
        one_per_object: expressions on the same object overwrite each other, and the last one counts.
        palette: the predictions of all objects share a frame, so that a pixel belongs to one object at most.
        remark: what a reader of the number must know.
    """

    name: str
    source: str
    decimals: int | None = None
    groups: Literal["kind", "annotator"] | None = None
    missing: Literal["zero", "skip"] = "skip"
    drop_ends: bool = False
    one_per_object: bool = False
    palette: bool = False
    remark: str = ""


_MEVIS = "tools/eval_mevis.py in the VISA and VRS-HQ code"
PROTOCOLS: dict[str, Protocol] = {
    "revos": Protocol(
        "ReVOS",
        "tools/eval_revos.py in the VISA and VRS-HQ code",
        decimals=2,
        groups="kind",
        missing="zero",
        remark="overall is the mean of the two group means, not of all expressions; no-target expressions are in no mean",
    ),
    "mevis": Protocol("MeViS", _MEVIS, remark="an expression with a missing or wrong file is left out of the mean"),
    "ref-youtube-vos": Protocol("Ref-YouTube-VOS", _MEVIS, remark="the official numbers come from a server"),
    "ref-davis17": Protocol(
        "Ref-DAVIS17 (VISA)",
        "tools/eval_davis17.py in the VISA and VRS-HQ code",
        remark="one mask per expression, all frames, mean over expressions; not the official protocol",
    ),
    "ref-davis17-official": Protocol(
        "Ref-DAVIS17 (official)",
        "davis2017/evaluation.py, once for each of four annotators",
        groups="annotator",
        missing="zero",
        drop_ends=True,
        palette=True,
        remark="objects share one palette image; first and last frame left out; mean of four annotators",
    ),
    "reasonvos": Protocol(
        "ReasonVOS",
        "evaluation/reason_vos/eval_reason_vos.py in the VideoLISA code",
        one_per_object=True,
        remark="several texts on one object overwrite each other, missing answers are skipped",
    ),
    "lvvis": Protocol("LV-VIS", _MEVIS),
    "png-tree": Protocol("PNG tree", _MEVIS),
}


@dataclass(frozen=True)
class Carried:
    """One expression's frames, arrays (frames,): `j` float 0..1, `shown` bool (the object is truly there), `distance` int.

    `distance` is the number of frames of the video, as it was labelled, between a frame and the keyframe.
    """

    video_id: str
    j: np.ndarray
    shown: np.ndarray
    distance: np.ndarray


def expression_score(frames: np.ndarray, protocol: Protocol) -> float:
    """An expression's percent from its frames' values in 0..1 (float64): their mean, rounded as the protocol does.

    NaN frames are left out, as the DAVIS toolkit does; NaN if no frame is left.
    """
    used = frames[1:-1] if protocol.drop_ends else frames
    used = used[~np.isnan(used)]
    if not used.size:
        return float("nan")
    percent = float(np.mean(used)) * 100
    return percent if protocol.decimals is None else round(percent, protocol.decimals)


def group_of(protocol: Protocol, expression_id: str, kind: str | None) -> str | None:
    """The group whose mean an expression enters; None where it enters no mean."""
    if protocol.groups == "kind":
        return kind if kind in ("referring", "reasoning") else None
    if protocol.groups == "annotator":
        return f"annotator {int(expression_id) % 4}" if expression_id.isdecimal() else None
    return None if kind == "no-target" else "all"


def summarize(columns: Columns) -> dict[str, dict[str, float]]:
    """Means by group, and `overall`: the mean of the groups' means. NaN values are left out.

    Args:
        columns: `group` (str, or None for those in no mean) and the measures. JF is computed: the mean of J's and F's.
    """
    weights = np.ones((1, len(columns["group"])))
    return {
        group: {measure: float(values[0]) for measure, values in means.items()}
        for group, means in _means(columns, weights).items()
    }


def bootstrap(
    columns: Columns, *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, dict[str, tuple[float, float]]]:
    """Intervals of `summarize`'s numbers over draws of as many videos, with replacement; expressions come with their video.

    Args:
        columns: as for `summarize`, and `video_id`.
        samples: draws. seed: of the draws; the same seed gives the same intervals. level: share of the draws inside.
    """
    videos, of_row = np.unique(columns["video_id"].astype(str), return_inverse=True)
    if not videos.size:
        return {}
    draws = np.random.default_rng(seed).multinomial(videos.size, np.full(videos.size, 1 / videos.size), samples)
    ends = [50 * (1 - level), 50 * (1 + level)]
    return {
        group: {measure: interval(values, ends) for measure, values in means.items()}
        for group, means in _means(columns, draws, of_row).items()
    }


def interval(values: np.ndarray, ends: Sequence[float]) -> tuple[float, float]:
    """The two percentiles of the values that are numbers; NaN where there are none."""
    known = values[~np.isnan(values)]
    low, high = np.percentile(known, ends) if known.size else (np.nan, np.nan)
    return float(low), float(high)


def by_distance(
    expressions: Sequence[Carried],
    distances: tuple[int, int | None],
    *,
    samples: int = 1000,
    seed: int = 0,
    level: float = 0.95,
) -> dict[str, Any]:
    """J in a range of distances from the keyframe, and what share that is of J on the keyframes themselves.

    J counts on frames in which the object is truly there. Frames without it say nothing of tracking (J is 1 there as soon as
    nothing is drawn), so they are counted on their own. Each expression counts once, with the mean over its frames.

        J        = 100 * mean over expressions e of m_e,  m_e the mean of J over e's shown frames in the range
        relative = 100 * sum of m_e / sum of k_e,         k_e the J of e's keyframe

    Both sums go over the same expressions: those whose object is shown on the keyframe and in the range. So `relative` is
    not moved by expressions that are only near, or whose videos are too short, as a quotient of two J's would be; and it is
    a quotient of sums, not a mean of quotients, because k_e may be 0. A keyframe that is not among the frames counts as not
    shown.

    Args:
        distances: the first and the last of the range; None: no last one.
        samples: draws of videos for the intervals. seed: of them. level: share of the draws inside.

    Returns:
        frames, expressions: how many J is from. J, percent, and J_interval. relative_expressions, relative, percent, and
        relative_interval. hidden_frames: frames of the range that do not show the object, and hidden_empty: share of them
        whose mask is empty. NaN where nothing is counted.
    """
    low, high = distances
    videos, means, keys = [], [], []
    frames = hidden = empty = 0
    for one in expressions:
        inside = (one.distance >= low) & ((one.distance <= high) if high is not None else True)
        counted = inside & one.shown
        away = inside & ~one.shown
        frames, hidden = frames + int(counted.sum()), hidden + int(away.sum())
        empty += int((one.j[away] == 1).sum())  # J of two empty masks
        if counted.any():
            key = (one.distance == 0) & one.shown
            videos.append(one.video_id)
            means.append(float(one.j[counted].mean()))
            keys.append(float(one.j[key].mean()) if key.any() else np.nan)
    columns = {"video_id": np.array(videos, object), "mean": np.array(means), "key": np.array(keys)}
    both = ~np.isnan(columns["key"])
    paired = {name: values[both] for name, values in columns.items()}
    single = columns | {"one": np.ones(len(means))}
    draws: dict[str, Any] = {"samples": samples, "seed": seed, "level": level}
    return {
        "frames": frames,
        "expressions": len(means),
        "J": _ratio(single, "mean", "one"),
        "J_interval": ratio_interval(single, "mean", "one", **draws),
        "relative_expressions": int(both.sum()),
        "relative": _ratio(paired, "mean", "key"),
        "relative_interval": ratio_interval(paired, "mean", "key", **draws),
        "hidden_frames": hidden,
        "hidden_empty": empty / hidden if hidden else np.nan,
    }


def ratio_interval(
    columns: Columns, above: str, below: str, *, samples: int, seed: int, level: float
) -> tuple[float, float]:
    """Interval of 100 * sum(above) / sum(below) over draws of as many videos, with replacement; NaN without rows."""
    videos, of_row = np.unique(columns["video_id"].astype(str), return_inverse=True)
    if not videos.size:
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).multinomial(videos.size, np.full(videos.size, 1 / videos.size), samples)
    sums = {name: draws @ np.bincount(of_row, columns[name]) for name in (above, below)}
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = 100 * sums[above] / sums[below]
    return interval(ratios[np.isfinite(ratios)], [50 * (1 - level), 50 * (1 + level)])


def last_per_object(keys: Sequence[tuple[Any, ...]]) -> np.ndarray:
    """Which rows count where a later row with the same key overwrites an earlier one: bool (rows,)."""
    last = {key: row for row, key in enumerate(keys)}
    counts = np.zeros(len(keys), bool)
    counts[list(last.values())] = True
    return counts


def _means(columns: Columns, draws: np.ndarray, of_row: np.ndarray | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Weighted means by group and measure: (samples,), for weights (samples, videos or rows)."""
    groups = columns["group"]
    names = sorted({group for group in groups if group is not None}, key=lambda group: (group != "referring", group))
    rows = np.arange(len(groups)) if of_row is None else of_row
    result: dict[str, dict[str, np.ndarray]] = {}
    for name in names:
        means = {}
        for measure in MEASURES:
            if measure not in columns:
                continue
            member = np.equal(groups, name) & ~np.isnan(columns[measure])
            means[measure] = _weighted_mean(columns[measure][member], rows[member], draws)
        result[name] = _with_jf(means)
    if names:
        # the mean of J and F commutes with the mean over groups only up to rounding; the source takes it last
        measures = [measure for measure in result[names[0]] if measure != "JF"]
        result["overall"] = _with_jf(
            {measure: np.mean([result[name][measure] for name in names], axis=0) for measure in measures}
        )
    return result


def _weighted_mean(values: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
    if draws.shape[0] == 1 and np.all(draws == 1):  # in the evaluators' own order of additions
        return np.array([np.mean(values) if values.size else np.nan])
    sums = np.bincount(rows, values, minlength=draws.shape[1])
    sizes = np.bincount(rows, minlength=draws.shape[1])
    with np.errstate(invalid="ignore"):
        mean: np.ndarray = (draws @ sums) / (draws @ sizes)
    return mean


def _with_jf(means: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    both = {"JF": (means["J"] + means["F"]) / 2} if {"J", "F"} <= means.keys() else {}
    return {name: (means | both)[name] for name in MEASURES if name in means | both}


def _ratio(columns: Columns, above: str, below: str) -> float:
    total = float(columns[below].sum())
    return 100 * float(columns[above].sum()) / total if total else float("nan")

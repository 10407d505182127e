"""The protocols of the public evaluators: cost of a missing answer, rounding, and the order of averages.

Each protocol names the public code that it follows. Numbers are percent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

MEASURES = ("J", "F", "JF", "A", "R")
Columns = Mapping[str, np.ndarray]
"""Arrays (n,), one entry per expression: float percents by the names in `MEASURES`, and the columns that a function names."""

# Ranges of frames from the keyframe, both ends included; None: no upper end. FAR covers the last two ranges.
DISTANCES: tuple[tuple[int, int | None], ...] = ((0, 0), (1, 3), (4, 7), (8, 15), (16, None))
FAR: tuple[int, int | None] = (8, None)


@dataclass(frozen=True)
class Protocol:
    """The rules of one evaluator.

    Attributes:
        name: name in reports.
        source: the public code with these rules.
        decimals: decimals of an expression's percents before averaging; None: not rounded.
        groups: groups that are averaged first. The overall number is the mean of the groups' means, regardless of their sizes.
            "kind": referring and reasoning expressions, others are left out; "annotator": four groups, by the expression's
            number modulo 4; "type": one group of the static, dynamic and hybrid expressions, others are left out; None: one
            group of all but the no-target expressions.
        missing: "zero": an expression without a usable answer scores 0. "skip": it is left out of the mean. "zero-video": it
            scores 0 if nothing is predicted for its video, else it is left out of the mean.
        gaps_are_empty: whether a frame without a predicted mask counts as an empty mask, if the first frame has one.
        drop_ends: whether the first and the last frame are left out.
        one_per_object: whether a later expression about an object replaces earlier ones.
        palette: whether the predictions of all objects share one palette image, so that a pixel belongs to one object.
        remark: a caveat for readers of the number.
    """

    name: str
    source: str
    decimals: int | None = None
    groups: Literal["kind", "annotator", "type"] | None = None
    missing: Literal["zero", "skip", "zero-video"] = "zero-video"
    gaps_are_empty: bool = False
    drop_ends: bool = False
    one_per_object: bool = False
    palette: bool = False
    remark: str = ""

    def frames_in_words(self) -> str:
        """Which frames of an expression are scored."""
        return (
            "all of the questions' file but each video's first and last"
            if self.drop_ends
            else "all of the questions' file"
        )

    def averages_in_words(self) -> str:
        """What is averaged in which order."""
        rounded = "" if self.decimals is None else f", in percent with {self.decimals} decimals"
        groups = {
            "kind": "over the expressions of each kind (referring, reasoning), then over the two kinds",
            "annotator": "over the expressions of each annotator, then over the four annotators",
            "type": "over all expressions of a known type",
            None: "over all expressions with a target",
        }[self.groups]
        last = ", of several about one object only the last" if self.one_per_object else ""
        return f"J and F of a frame; mean over an expression's frames{rounded}; mean {groups}{last}; J&F is the mean of J and F"

    def missing_in_words(self) -> str:
        """What an expression counts that has no usable answer."""
        needed, gaps = (
            ("its first frame", "a frame without a mask counts as empty; ")
            if self.gaps_are_empty
            else ("each frame", "")
        )
        unusable = f"{gaps}an expression without a mask on {needed}, or with masks of another size than the truth,"
        how = {
            "zero": "scores 0",
            "skip": "is left out",
            "zero-video": "scores 0 if nothing is predicted for its video, else it is left out",
        }[self.missing]
        return f"{unusable} {how}; in the fixed means it scores 0"


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
    "mevis-v2": Protocol(
        "MeViS v2",
        f"{_MEVIS}; N-acc and T-acc of GRES over videos",
        remark="J&F is over the expressions with a target; Final is the mean of J&F, N-acc and T-acc; the code of the server, "
        "which scores split valid, is not public",
    ),
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
        missing="skip",
        one_per_object=True,
        remark="several texts on one object overwrite each other, missing answers are skipped",
    ),
    "long-rvos": Protocol(
        "Long-RVOS",
        "eval/eval_long_rvos/ in the Long_RVOS code",
        groups="type",
        gaps_are_empty=True,
        remark="overall is the mean over the expressions of all three types, not of the types' means; an expression without a "
        "mask on its first frame is left out of the mean",
    ),
    "lvvis": Protocol("LV-VIS", _MEVIS),
    "png-tree": Protocol("PNG tree", _MEVIS),
}


@dataclass(frozen=True)
class Carried:
    """The frames of one expression, for J by distance from the keyframe.

    Attributes:
        video_id: id of the video.
        j: J of each frame, float (frames,), 0..1.
        shown: whether the true mask has a pixel, bool (frames,).
        distance: number of frames between each frame and the keyframe in the labelled video, int (frames,).
    """

    video_id: str
    j: np.ndarray
    shown: np.ndarray
    distance: np.ndarray


def expression_score(frames: np.ndarray, protocol: Protocol) -> float:
    """The percent of an expression: the mean over its frames, rounded as the protocol says.

    Frames with NaN are left out, as in the DAVIS toolkit. NaN if no frame is left.

    Args:
        frames: a measure of each frame, float64 (frames,), 0..1.
        protocol: the rules.
    """
    used = frames[1:-1] if protocol.drop_ends else frames
    used = used[~np.isnan(used)]
    if not used.size:
        return float("nan")
    percent = float(np.mean(used)) * 100
    return percent if protocol.decimals is None else round(percent, protocol.decimals)


def group_of(protocol: Protocol, expression_id: str, kind: str | None) -> str | None:
    """The group of an expression in the means; None: the expression is in no mean."""
    if protocol.groups == "kind":
        return kind if kind in ("referring", "reasoning") else None
    if protocol.groups == "annotator":
        return f"annotator {int(expression_id) % 4}" if expression_id.isdecimal() else None
    if protocol.groups == "type":
        return "all" if kind in ("static", "dynamic", "hybrid") else None
    return None if kind == "no-target" else "all"


def summarize(columns: Columns) -> dict[str, dict[str, float]]:
    """Means of the measures by group, and `overall`, the mean of the groups' means. NaN values are left out.

    JF is the mean of a group's J and F.

    Args:
        columns: `group` (str; None: in no mean) and the measures.
    """
    weights = np.ones((1, len(columns["group"])))
    return {
        group: {measure: float(values[0]) for measure, values in means.items()}
        for group, means in _means(columns, weights).items()
    }


def bootstrap(
    columns: Columns, *, samples: int = 1000, seed: int = 0, level: float = 0.95
) -> dict[str, dict[str, tuple[float, float]]]:
    """Percentile bootstrap intervals of the numbers of `summarize`.

    The resampled items are videos, each with all its expressions, because expressions of one video are not independent.

    Args:
        columns: as for `summarize`, and `video_id`.
        samples: number of bootstrap samples.
        seed: seed of the samples; the same seed gives the same intervals.
        level: share of the samples inside an interval, 0..1.
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
    """Two percentiles of the values without NaN; NaN if no value is left.

    Args:
        values: float (samples,).
        ends: the two percentiles, 0..100.
    """
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
    """J in a range of distances from the keyframe, also relative to J on the keyframes.

    J is computed on shown frames, those with the object in the true mask. Hidden frames tell nothing about tracking, because J
    is 1 there for any empty prediction; they are counted apart. Each expression counts once, with the mean over its frames.

        J        = 100 * mean over expressions e of m_e,  m_e the mean of J over e's shown frames in the range
        relative = 100 * sum of m_e / sum of k_e,         k_e the J of e's keyframe

    Both sums are over the expressions whose object is shown on the keyframe and in the range. Expressions of short videos
    therefore do not bias `relative`, as they would bias a quotient of two means of J. It is a quotient of sums instead of a
    mean of quotients because k_e may be 0. A keyframe that is not among the frames counts as hidden.

    Args:
        expressions: the frames of each expression.
        distances: first and last distance of the range, in frames; None: no last one.
        samples: number of bootstrap samples of videos.
        seed: seed of the samples.
        level: share of the samples inside an interval, 0..1.

    Returns:
        frames and expressions: the numbers behind J. J and J_interval: percent. relative_expressions: the number behind
        relative. relative and relative_interval: percent. hidden_frames: number of hidden frames in the range. hidden_empty:
        share of them with an empty prediction, 0..1. NaN if there is nothing to count.
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
    """Bootstrap interval over videos of 100 * sum(above) / sum(below), see `bootstrap`; NaN without rows.

    Args:
        columns: `video_id` and the two columns.
        above: name of the column in the numerator.
        below: name of the column in the denominator.
        samples: number of bootstrap samples.
        seed: seed of the samples.
        level: share of the samples inside the interval, 0..1.
    """
    videos, of_row = np.unique(columns["video_id"].astype(str), return_inverse=True)
    if not videos.size:
        return float("nan"), float("nan")
    draws = np.random.default_rng(seed).multinomial(videos.size, np.full(videos.size, 1 / videos.size), samples)
    sums = {name: draws @ np.bincount(of_row, columns[name]) for name in (above, below)}
    with np.errstate(invalid="ignore", divide="ignore"):
        ratios = 100 * sums[above] / sums[below]
    return interval(ratios[np.isfinite(ratios)], [50 * (1 - level), 50 * (1 + level)])


def last_per_object(keys: Sequence[tuple[Any, ...]]) -> np.ndarray:
    """The last row of each key, as bool (rows,): a later row overwrites earlier ones with its key."""
    last = {key: row for row, key in enumerate(keys)}
    counts = np.zeros(len(keys), bool)
    counts[list(last.values())] = True
    return counts


def _means(columns: Columns, draws: np.ndarray, of_row: np.ndarray | None = None) -> dict[str, dict[str, np.ndarray]]:
    """Weighted means (samples,) by group and measure, for weights (samples, videos) or (samples, rows)."""
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
        # the mean of J and F commutes with the mean over groups only up to rounding; the public code computes it last
        measures = [measure for measure in result[names[0]] if measure != "JF"]
        result["overall"] = _with_jf(
            {measure: np.mean([result[name][measure] for name in names], axis=0) for measure in measures}
        )
    return result


def _weighted_mean(values: np.ndarray, rows: np.ndarray, draws: np.ndarray) -> np.ndarray:
    if draws.shape[0] == 1 and np.all(draws == 1):  # adds in the order of the public evaluators, for the same rounding
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

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

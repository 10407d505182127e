"""Whether something is there at all: measures over expressions with and without a target, and over time."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """Expressions whose presence lies in low..high (low included; the last bin includes high).

    `presence` is their mean presence, `share` the share of them that has a target; NaN where there are none.
    """

    low: float
    high: float
    count: int
    presence: float
    share: float


@dataclass(frozen=True)
class MaskThreshold:
    """What is lost and won if expressions whose presence is at most `presence` get no mask.

    `no_target`: share of the no-target expressions that keep a mask; `target`: share of the others that do.
    """

    presence: float
    no_target: float
    target: float


def auroc(positive: np.ndarray, scores: np.ndarray) -> float:
    """The chance that a positive scores above a negative, ties counted half; NaN without either.

    Args:
        positive: bool (n,). scores: float (n,).
    """
    negatives = int((~positive).sum())
    positives = int(positive.sum())
    if not negatives or not positives:
        return float("nan")
    _, place, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[place]  # from 1, the mean rank where scores are tied
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """The area under precision over recall as the sum of steps; equal scores are one step. NaN without a positive."""
    if not positive.any():
        return float("nan")
    levels, place = np.unique(-scores, return_inverse=True)
    hits = np.cumsum(np.bincount(place, positive, minlength=levels.size))
    taken = np.cumsum(np.bincount(place, minlength=levels.size))
    recall = hits / positive.sum()
    return float(np.sum(np.diff(recall, prepend=0.0) * hits / taken))


def reliability(target: np.ndarray, presence: np.ndarray) -> list[ReliabilityBin]:
    """The reliability table: `BINS` bins of equal width over 0..1.

    Args:
        target: bool (n,). presence: float (n,), 0..1.

    Raises:
        ValueError: a presence outside 0..1.
    """
    if presence.size and not (presence.min() >= 0 and presence.max() <= 1):  # NaN is neither
        raise ValueError(f"presence from {presence.min()} to {presence.max()}: expected 0 to 1")
    place = np.minimum((presence * BINS).astype(int), BINS - 1)
    return [
        ReliabilityBin(
            number / BINS,
            (number + 1) / BINS,
            int((place == number).sum()),
            _mean(presence[place == number]),
            _mean(target[place == number]),
        )
        for number in range(BINS)
    ]


def calibration_error(bins: list[ReliabilityBin]) -> float:
    """ECE: the mean over expressions of their bin's |presence - share| (Naeini et al., AAAI 2015); NaN without any."""
    total = sum(one.count for one in bins)
    off = sum(one.count * abs(one.presence - one.share) for one in bins if one.count)
    return off / total if total else float("nan")


def brier_score(target: np.ndarray, presence: np.ndarray) -> float:
    """The mean of (presence - target)^2, 0 at best (Brier 1950); 0.25 for a presence of 0.5 always. NaN without any."""
    return _mean((presence - target) ** 2)


def mask_threshold(target: np.ndarray, presence: np.ndarray, masked: np.ndarray, rate: float = 0.05) -> MaskThreshold:
    """The least presence that expressions must exceed to keep their masks, so that few no-target ones keep any.

    Args:
        target: bool (n,). presence: float (n,), 0..1. masked: bool (n,), whether there is a mask on any frame.
        rate: the share of no-target expressions that may keep a mask.

    Returns:
        the threshold: 0, which a presence above 0 always exceeds, or one of the no-target expressions' presences.
        The shares are NaN where there are no such expressions.
    """
    wrong = np.sort(presence[~target & masked])[::-1]
    allowed = int(np.floor(rate * (~target).sum() + 1e-9))  # 5 % of 20 is 1, not 0.9999...
    threshold = float(wrong[allowed]) if len(wrong) > allowed else 0.0
    kept = masked & (presence > threshold)
    return MaskThreshold(threshold, _mean(kept[~target]), _mean(kept[target]))


def no_target_summary(
    target: np.ndarray,
    presence: np.ndarray,
    empty_frames: np.ndarray,
    frames: np.ndarray,
    predicted_area: np.ndarray,
    pixels: np.ndarray,
) -> dict[str, float]:
    """How well a method tells that nothing is meant, over answered expressions, an entry each.

    Args:
        target: bool, whether the expression means something.
        presence: float, the higher the surer; 1 and 0 for some and no mask where the method gives nothing else.
        empty_frames, frames: int, frames without any predicted pixel, and all.
        predicted_area, pixels: int, predicted pixels, and pixels of a frame times frames.

    Returns:
        n_acc: share of no-target expressions whose masks are all empty. false_positive_rate: the rest of them, with a mask
        on some frame. t_acc: share of the others with a mask.
        auroc, auprc: of presence, targets being the positives. false_positive_area: mean share of the pixels that is
        predicted where nothing is meant. empty_expressions: share of expressions with a target whose masks are all empty.
        empty_frames: share of all frames of expressions with a target whose mask is empty. NaN where nothing is counted.
    """
    empty = empty_frames == frames
    nothing = ~target
    return {
        "n_acc": _mean(empty[nothing]),
        "false_positive_rate": _mean(~empty[nothing]),
        "t_acc": _mean(~empty[target]),
        "auroc": auroc(target, presence),
        "auprc": average_precision(target, presence) if nothing.any() else float("nan"),
        "false_positive_area": _mean(predicted_area[nothing] / np.maximum(pixels[nothing], 1)),
        "empty_expressions": _mean(empty[target]),
        "empty_frames": float(empty_frames[target].sum() / frames[target].sum()) if target.any() else float("nan"),
    }


def temporal_iou(truth: np.ndarray, predicted: np.ndarray) -> float:
    """tIoU: frames with both over frames with either, for bool (frames,); 1 if no frame has any (Long-RVOS)."""
    either = int((truth | predicted).sum())
    return float((truth & predicted).sum() / either) if either else 1.0


def volume_iou(j: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> float:
    """vIoU: the sum of J over frames with both, over the number of frames with either; 1 if no frame has any (Long-RVOS)."""
    either = int((truth | predicted).sum())
    return float(j[truth & predicted].sum() / either) if either else 1.0


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if values.size else float("nan")

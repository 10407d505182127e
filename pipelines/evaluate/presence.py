"""Measures of presence: how well a method tells expressions with a target from those without, and when a target is visible."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

BINS = 10


@dataclass(frozen=True)
class ReliabilityBin:
    """A bin of the reliability table.

    Attributes:
        low: lowest presence, 0..1, included.
        high: highest presence, 0..1, excluded except in the last bin.
        count: number of expressions.
        presence: their mean presence; NaN without any.
        share: share of them that has a target; NaN without any.
    """

    low: float
    high: float
    count: int
    presence: float
    share: float


@dataclass(frozen=True)
class MaskThreshold:
    """The effect of removing the masks of expressions whose presence is at most a threshold.

    Attributes:
        presence: the threshold, 0..1.
        no_target: share of the no-target expressions that keep a mask.
        target: share of the expressions with a target that keep a mask.
    """

    presence: float
    no_target: float
    target: float


def auroc(positive: np.ndarray, scores: np.ndarray) -> float:
    """Area under the ROC curve, 0..1: the probability that a positive scores above a negative, ties counted half.

    It is computed from mean ranks (Mann-Whitney U). NaN without a positive or without a negative.

    Args:
        positive: bool (n,).
        scores: float (n,).
    """
    negatives = int((~positive).sum())
    positives = int(positive.sum())
    if not negatives or not positives:
        return float("nan")
    _, place, sizes = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(sizes) - (sizes - 1) / 2)[place]  # from 1; tied scores have their mean rank
    return float((ranks[positive].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def average_precision(positive: np.ndarray, scores: np.ndarray) -> float:
    """Average precision, 0..1: sum over steps of (increase of recall) * precision. Equal scores are one step.

    NaN without a positive.

    Args:
        positive: bool (n,).
        scores: float (n,).
    """
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
        target: bool (n,), whether an expression has a target.
        presence: float (n,), 0..1.

    Raises:
        ValueError: a presence is outside 0..1 or NaN.
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
    """Expected calibration error, 0..1: mean over expressions of |presence - share| of their bin; NaN without any.

    Naeini et al., AAAI 2015.
    """
    total = sum(one.count for one in bins)
    off = sum(one.count * abs(one.presence - one.share) for one in bins if one.count)
    return off / total if total else float("nan")


def brier_score(target: np.ndarray, presence: np.ndarray) -> float:
    """Brier score: mean of (presence - target)^2 (Brier 1950). 0 is best, a constant presence of 0.5 has 0.25. NaN without any.

    Args:
        target: bool (n,).
        presence: float (n,), 0..1.
    """
    return _mean((presence - target) ** 2)


def mask_threshold(target: np.ndarray, presence: np.ndarray, masked: np.ndarray, rate: float = 0.05) -> MaskThreshold:
    """The smallest threshold of presence at which at most `rate` of the no-target expressions keep a mask.

    Expressions keep their masks if their presence is above the threshold.

    Args:
        target: bool (n,), whether an expression has a target.
        presence: float (n,), 0..1.
        masked: bool (n,), whether there is a mask on any frame.
        rate: the share of no-target expressions that may keep a mask, 0..1.

    Returns:
        the threshold, which is 0 or the presence of a no-target expression, and the shares that keep a mask. A share is NaN
        if there are no such expressions.
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
    """Measures of how well a method recognises no-target expressions. All arrays are (n,), one entry per answered expression.

    N-acc and T-acc are those of GRES (Liu et al., CVPR 2023), over videos.

    Args:
        target: bool, whether the expression has a target.
        presence: float, higher is more confident; 1 for some mask and 0 for none if the method gives no presence.
        empty_frames: int, number of frames without a predicted pixel.
        frames: int, number of frames.
        predicted_area: int, predicted pixels, summed over frames.
        pixels: int, pixels of a frame times frames.

    Returns:
        numbers in 0..1 by name; NaN if there is nothing to count. n_acc: share of no-target expressions whose masks are all
        empty. false_positive_rate: share of no-target expressions with a mask on some frame. t_acc: share of expressions with
        a target that have a mask. auroc and auprc: of presence, with targets as positives. false_positive_area: mean share of
        the pixels that is predicted for a no-target expression. empty_expressions: share of expressions with a target whose
        masks are all empty. empty_frames: share of the frames of expressions with a target whose mask is empty.
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


def final_score(jf: float, n_acc: float, t_acc: float) -> float:
    """MeViS v2's Final: the mean of J&F, N-acc and T-acc, all on one scale; NaN where one of them is.

    N-acc weighs as much as J&F, so a method that refuses too much can gain by it. It is read beside its three parts.
    """
    return (jf + n_acc + t_acc) / 3


def temporal_iou(truth: np.ndarray, predicted: np.ndarray) -> float:
    """Temporal IoU, tIoU of Long-RVOS, 0..1: frames with both over frames with either; 1 if no frame has either.

    Args:
        truth: whether the true mask has a pixel, bool (frames,).
        predicted: whether the predicted mask has a pixel, bool (frames,).
    """
    either = int((truth | predicted).sum())
    return float((truth & predicted).sum() / either) if either else 1.0


def volume_iou(j: np.ndarray, truth: np.ndarray, predicted: np.ndarray) -> float:
    """Volume IoU, vIoU of Long-RVOS, 0..1: sum of J over frames with both, over frames with either; 1 if no frame has either.

    Args:
        j: J of each frame, float (frames,), 0..1.
        truth: whether the true mask has a pixel, bool (frames,).
        predicted: whether the predicted mask has a pixel, bool (frames,).
    """
    either = int((truth | predicted).sum())
    return float(j[truth & predicted].sum() / either) if either else 1.0


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if values.size else float("nan")

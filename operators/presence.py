"""Whether something is there at all: measures over expressions with and without a target, and over time."""

from __future__ import annotations

import numpy as np


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
        n_acc: share of no-target expressions whose masks are all empty. t_acc: share of the others with a mask.
        auroc, auprc: of presence, targets being the positives. false_positive_area: mean share of the pixels that is
        predicted where nothing is meant. empty_expressions: share of expressions with a target whose masks are all empty.
        empty_frames: share of all frames of expressions with a target whose mask is empty. NaN where nothing is counted.
    """
    empty = empty_frames == frames
    nothing = ~target
    return {
        "n_acc": _mean(empty[nothing]),
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

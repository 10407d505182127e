"""The losses of VRS-HQ: cross entropy of the answer, BCE and Dice of the masks (as in LISA, arXiv 2308.00692), presence."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

IGNORED = -100  # a label that the cross entropy leaves out
DICE_SCALE, DICE_EPSILON = 1000.0, 1e-6


def answer_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Cross entropy of the next token: the mean over the labels that are not `IGNORED`, or 0 if all are.

    Args:
        logits: (L, V) float; row i predicts label i.
        labels: (L,) int64.
    """
    total = F.cross_entropy(logits.float(), labels, ignore_index=IGNORED, reduction="sum")
    return total / (labels != IGNORED).sum().clamp(min=1)


def bce_loss(logits: Tensor, truth: Tensor, num_masks: int | None = None) -> Tensor:
    """Binary cross entropy of N masks: the mean over each mask's pixels, then over the masks; 0 for N = 0.

    Args:
        logits: (N, H, W) float.
        truth: (N, H, W) in 0..1.
        num_masks: divisor of the sum over masks; default: N.
    """
    each = F.binary_cross_entropy_with_logits(logits.float(), truth.float(), reduction="none").flatten(1).mean(1)
    return each.sum() / max(num_masks if num_masks is not None else len(logits), 1)


def dice_loss(logits: Tensor, truth: Tensor, num_masks: int | None = None) -> Tensor:
    """Dice loss of N masks, the mean over the masks of 1 - Dice; 0 for N = 0.

    Dice = (2 sum(p t) / 1000 + 1e-6) / (sum(p) / 1000 + sum(t) / 1000 + 1e-6) with p = sigmoid(logit) and sums over the pixels
    of one mask, as in LISA's `dice_loss`. The scale makes the epsilon matter only for masks of less than about a
    thousandth of a pixel.

    Args:
        logits: (N, H, W) float.
        truth: (N, H, W) in 0..1.
        num_masks: divisor of the sum over masks; default: N.
    """
    p, t = logits.float().sigmoid().flatten(1) / DICE_SCALE, truth.float().flatten(1)
    overlap = 2 * (p * t).sum(1)
    total = p.sum(1) + (t / DICE_SCALE).sum(1)
    each = 1 - (overlap + DICE_EPSILON) / (total + DICE_EPSILON)
    return each.sum() / max(num_masks if num_masks is not None else len(logits), 1)


def presence_loss(object_logits: Tensor, present: Tensor) -> Tensor:
    """Binary cross entropy of SAM2's object score, the mean over N outputs; 0 for N = 0.

    Args:
        object_logits: (N,) float.
        present: (N,) bool, whether the frame shows the object.
    """
    return F.binary_cross_entropy_with_logits(object_logits.float(), present.float()) if len(present) else present.sum()

"""Trains a presence head on evidence alone, and calibrates it on other videos. The model is not touched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vrshq.operators.models.evidence import HIGHEST_SCORE
from vrshq.operators.models.presence_head import PresenceHead

_LEAST_SCALE = 1e-3  # a number that hardly varies in training is not blown up


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """The training of a presence head.

    Attributes:
        penalty: weight of the squares of the head's weights beside the summed loss; the weight of the highest object score is
            free, so that a head that finds nothing else keeps the order of the object score.
    """

    penalty: float = 200.0

    def __post_init__(self) -> None:
        if not self.penalty > 0:
            raise ValueError(f"penalty {self.penalty}: expected above 0")


def train_head(described: np.ndarray, present: np.ndarray, config: HeadConfig) -> PresenceHead:
    """A head that is not calibrated yet: a logistic regression, whose loss has one minimum.

    With some thousands of instructions, a hidden layer did worse on other videos.

    Args:
        described: (N, n) float32, as from `Evidence.described`.
        present: (N,) bool, whether the video shows what the instruction means.
        config: the training's settings.

    Raises:
        ValueError: all instructions have a target, or none has.
    """
    if present.all() or not present.any():
        raise ValueError(f"{len(present)} instructions: expected some with a target and some without")
    head = PresenceHead(described.shape[1])
    evidence, target = torch.from_numpy(described), torch.from_numpy(present).double()
    head.mean.copy_(evidence.mean(0))
    head.scale.copy_(evidence.std(0).clamp(min=_LEAST_SCALE))
    standard = head.standardised(evidence).double()
    penalty = torch.full((standard.shape[1],), config.penalty, dtype=torch.float64)
    penalty[HIGHEST_SCORE] = 1e-3  # nearly free; without any, a set that it separates would have no minimum
    # weights in units in which the loss is about equally curved, whatever the penalty
    unit = (len(standard) / 4 + penalty).rsqrt()
    scaled = torch.zeros(standard.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS([scaled], max_iter=200, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        weights = scaled[1:] * unit
        logits = standard @ weights + scaled[0]
        total = F.binary_cross_entropy_with_logits(logits, target, reduction="sum") + (penalty * weights**2).sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        head.line.weight.copy_((scaled[1:] * unit)[None])
        head.line.bias.copy_(scaled[:1])
    return head.eval()


def calibrate(head: PresenceHead, described: np.ndarray, present: np.ndarray) -> None:
    """Fits the head's line (Platt, 1999) on instructions that it was not trained on, by Newton's method.

    Args:
        head: is changed in its line alone.
        described: (M, n) float32.
        present: (M,) bool. Targets are Platt's, (positives + 1) / (positives + 2) and 1 / (negatives + 2), so that a head
            without an error does not become infinitely sure.
    """
    with torch.no_grad():
        logits = head.logits(head.standardised(torch.from_numpy(described))).double().numpy()
    ones, zeros = int(present.sum()), int((~present).sum())
    target = np.where(present, (ones + 1) / (ones + 2), 1 / (zeros + 2))
    sides, line = np.stack([logits, np.ones_like(logits)], axis=1), np.array([1.0, 0.0])
    for _ in range(50):
        told = 1 / (1 + np.exp(-np.clip(sides @ line, -60, 60)))
        curve = (sides * (told * (1 - told))[:, None]).T @ sides + 1e-6 * np.eye(2)
        step = np.linalg.solve(curve, sides.T @ (told - target))
        line -= np.clip(step, -2, 2)
        if np.abs(step).max() < 1e-9:
            break
    # a line that falls would turn the order of the answers around; it means that the head knows nothing
    head.platt.copy_(torch.from_numpy(np.maximum(line, [1e-3, -np.inf])).float())


def threshold_at(presence: np.ndarray, present: np.ndarray, masked: np.ndarray, most_lost: float) -> float:
    """The highest threshold at which at most a share of the instructions with a target has no mask.

    Args:
        presence: (M,), 0 to 1.
        present: (M,) bool.
        masked: (M,) bool, whether there is a mask as long as no threshold is set.
        most_lost: the share, 0 to 1; those without a mask in any case count.

    Returns:
        a threshold midway between two presences, at most 1; 0 where no instruction may lose its mask.
    """
    kept = np.sort(presence[present & masked])
    allowed = int(np.floor(most_lost * present.sum() + 1e-9)) - int((present & ~masked).sum())
    if allowed < 1 or not len(kept):
        return 0.0
    if allowed >= len(kept):
        return 1.0
    return float((kept[allowed - 1] + kept[allowed]) / 2)

"""Trains a presence head on evidence alone, and calibrates it on other videos. The model is not touched."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vrshq.operators.models.presence_head import PresenceHead

_LEAST_SCALE = 1e-3  # a number that hardly varies in training is not blown up


@dataclass(frozen=True, kw_only=True)
class HeadConfig:
    """A presence head and its training.

    Attributes:
        members: networks that are trained apart, each with its own draws; the head is their mean.
        hidden: width of a member's hidden layer.
        steps: steps of AdamW, with a one-cycle schedule.
        batch: instructions in a step.
        rate: highest learning rate.
        weight_decay: of AdamW.
        dropout: share of the hidden units that are left out in a step, and half as much of the evidence.
    """

    members: int = 4
    hidden: int = 32
    steps: int = 600
    batch: int = 256
    rate: float = 3e-3
    weight_decay: float = 1.0
    dropout: float = 0.3

    def __post_init__(self) -> None:
        for name in ("members", "hidden", "steps", "batch"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout}: expected at least 0 and below 1")


def train_head(described: np.ndarray, present: np.ndarray, config: HeadConfig, seed: int) -> PresenceHead:
    """A head that is not calibrated yet. The same arguments give the same head on one machine.

    Args:
        described: (N, n) float32, as from `Evidence.described`.
        present: (N,) bool, whether the video shows what the instruction means.
        config: the training's settings.
        seed: of everything random.

    Raises:
        ValueError: all instructions have a target, or none has.
    """
    if present.all() or not present.any():
        raise ValueError(f"{len(present)} instructions: expected some with a target and some without")
    head = PresenceHead(described.shape[1], config.members * config.hidden)
    evidence, target = torch.from_numpy(described), torch.from_numpy(present).float()
    head.mean.copy_(evidence.mean(0))
    head.scale.copy_(evidence.std(0).clamp(min=_LEAST_SCALE))
    standard = head.standardised(evidence)
    members = [_member(standard, target, config, seed + 7919 * number) for number in range(config.members)]
    with torch.no_grad():  # the mean of the members is one network with all their hidden units
        head.inner.weight.copy_(torch.cat([one.inner.weight for one in members]))
        head.inner.bias.copy_(torch.cat([one.inner.bias for one in members]))
        head.outer.weight.copy_(torch.cat([one.outer.weight for one in members], dim=1) / config.members)
        head.outer.bias.copy_(torch.stack([one.outer.bias for one in members]).mean(0))
    return head.eval()


def _member(standard: Tensor, target: Tensor, config: HeadConfig, seed: int) -> PresenceHead:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        member = PresenceHead(standard.shape[1], config.hidden)
        layers = [*member.inner.parameters(), *member.outer.parameters()]
        optimiser = torch.optim.AdamW(layers, lr=config.rate, weight_decay=config.weight_decay)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, config.rate, total_steps=config.steps)
        for _ in range(config.steps):
            drawn = torch.randint(len(standard), (config.batch,))
            seen = F.dropout(standard[drawn], config.dropout / 2)
            hidden = F.dropout(F.gelu(member.inner(seen)), config.dropout)
            loss = F.binary_cross_entropy_with_logits(member.outer(hidden)[:, 0], target[drawn])
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            schedule.step()
    return member


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

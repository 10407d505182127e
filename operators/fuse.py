"""TDA: fuses the per-frame [SEG] embeddings of an instruction into its [TAK] embedding."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from vrshq.operators.batch import Batch, Unit, map_units, open_instructions


@dataclass(frozen=True, kw_only=True)
class FuseConfig:
    """How [SEG] and [TAK] are fused.

    Attributes:
        alpha: weight of the [SEG] mean in the fused embedding (0.1 in the paper and the reference).
        temperature: of the softmax over the frames' similarities (1 in the reference, which makes them almost equal).
        weighting: "fixed" uses `alpha` as it is; with "adaptive" the keyframe stage fuses again with the weight that
            `models.keyframe_scores.adaptive_alpha` gives.
    """

    alpha: float = 0.1
    temperature: float = 1.0
    weighting: Literal["fixed", "adaptive"] = "fixed"

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ValueError(f"temperature {self.temperature}: expected more than 0")
        if self.weighting not in ("fixed", "adaptive"):
            raise ValueError(f"weighting {self.weighting!r}: expected fixed or adaptive")


def similarities(seg: Tensor, tak: Tensor) -> Tensor:
    """Cosine of each frame's [SEG] (n, d) with [TAK] (d,): (n,) in -1..1."""
    return F.cosine_similarity(seg, tak[None], dim=-1)


def fuse(seg: Tensor, tak: Tensor, alpha: float, temperature: float = 1.0) -> Tensor:
    """Tak + alpha * sum_i softmax(cos / temperature)_i seg_i, without renormalisation (the reference's TDA)."""
    return tak + alpha * ((similarities(seg, tak) / temperature).softmax(0) @ seg)


class Fuse:
    """Operator: the prompts of an instruction's objects. No model; microseconds per instruction.

    With a [TAK] there is one object, and its prompt is the fused embedding. Without one, each [SEG] is an object's prompt.

    In: `seg` (E lists of r*d float32, row-major), `tak` (E lists of d float32, or empty), `sampled_frames`, `d`.
    Out: `similarities` (E lists of n float32, cosines; empty without a [TAK]), `prompts` (E lists of one list of d float32
    for each object).
    """

    name = "fuse"

    def __init__(self, config: FuseConfig) -> None:
        self.config = config

    def __call__(self, batch: Batch) -> Batch:
        """Runs the stage on every unit of the batch; errors of a unit become its error entry."""
        return map_units(self.name, batch, self._fuse, {"similarities": [], "prompts": []})

    def _fuse(self, unit: Unit) -> Unit:
        count = len(unit["texts"])
        columns: dict[str, list[Any]] = {name: [None] * count for name in ("similarities", "prompts")}
        for index in open_instructions(unit):
            seg, tak = torch.tensor(unit["seg"][index]), torch.tensor(unit["tak"][index])
            if len(tak):
                seg = seg.view(len(unit["sampled_frames"][index]), -1)
                columns["similarities"][index] = similarities(seg, tak).tolist()
                columns["prompts"][index] = [fuse(seg, tak, self.config.alpha, self.config.temperature).tolist()]
            else:
                columns["similarities"][index] = []
                columns["prompts"][index] = seg.view(-1, max(1, unit["d"])).tolist()
        return columns

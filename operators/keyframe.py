"""TKS: chooses the frame whose candidate mask starts propagation, and the baselines it is compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vrshq.operators.batch import Batch, Unit, map_units, open_instructions
from vrshq.operators.models.load import shared_segmenter
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.prompting import decode_candidates
from vrshq.operators.models.sam2.stage_config import Sam2StageConfig
from vrshq.operators.video.sampling import generator

METHODS = ("tks", "clip", "similarity", "object_score", "random", "first", "middle")


@dataclass(frozen=True, kw_only=True)
class KeyframeConfig(Sam2StageConfig):
    """How the keyframe is chosen.

    Attributes:
        method: one of `METHODS`.
        seed: of the random numbers of method `random`.
        decode_batch: candidate masks through SAM2's mask decoder at once.
    """

    method: str = "tks"
    seed: int = 0
    decode_batch: int = 16

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"keyframe method {self.method!r}: expected one of {', '.join(METHODS)}")


def tks_scores(object_scores: Tensor, similarities: Tensor) -> Tensor:
    """softmax(object logit) + softmax(cosine), both (n,) over the sampled frames: (n,) (the reference's TKS)."""
    return object_scores.softmax(0) + similarities.softmax(0)


def choose(
    method: str, *, object_scores: Tensor, similarities: Tensor, clip_probs: Tensor, random: np.random.Generator
) -> int:
    """The position of the keyframe among the n sampled frames; of equal scores the first wins. All inputs (n,)."""
    count = len(object_scores)
    if method == "random":
        return int(random.integers(count))
    if method in ("first", "middle"):
        return 0 if method == "first" else count // 2
    scores = {
        "tks": tks_scores(object_scores, similarities),
        "clip": clip_probs,
        "similarity": similarities,
        "object_score": object_scores,
    }[method]
    return int(scores.argmax())


class SelectKeyframe:
    """Operator. One SAM2 encoding per distinct sampled frame, one mask decoding per (sampled frame, instruction).

    In: `video` (live), `sampled_frames` (E lists of n int), `fused` (E lists of d float32), `similarities` (E lists of n),
    `clip_probs` (E lists of T). Out: `object_scores` (E lists of n float32, logits), `keyframe_index` (E ints, frame
    numbers), `presence` (E floats in 0..1: sigmoid of the highest object score over the sampled frames), and the live
    columns `sam2_features` (`VideoFeatures`) and `keyframe_logits` (E tensors (l, l), holes filled).
    """

    name = "keyframe"

    def __init__(self, config: KeyframeConfig) -> None:
        self.config = config
        self.segmenter = shared_segmenter(config.model, config.device, config.dtype)

    def __call__(self, batch: Batch) -> Batch:
        """Runs the stage on every unit of the batch; errors of a unit become its error entry."""
        empty: Unit = {
            "object_scores": [],
            "keyframe_index": [],
            "presence": [],
            "sam2_features": None,
            "keyframe_logits": [],
        }
        return map_units(self.name, batch, self._select, empty)

    def _select(self, unit: Unit) -> Unit:
        features = unit.get("sam2_features") or VideoFeatures(
            self.segmenter,
            unit["video"],
            budget_bytes=self.config.feature_cache_bytes,
            batch_size=self.config.encode_batch,
        )
        positions = open_instructions(unit)
        candidates = [(frame, position) for position in positions for frame in unit["sampled_frames"][position]]
        decoded = decode_candidates(
            self.segmenter, features, candidates, unit["fused"], self.config.decode_batch, self.config.hole_area
        )
        count = len(unit["texts"])
        result: dict[str, list[Any]] = {
            name: [None] * count for name in ("object_scores", "keyframe_index", "presence", "keyframe_logits")
        }
        for position in positions:
            frames = unit["sampled_frames"][position]
            rows = [decoded[frame, position] for frame in frames]
            scores = torch.tensor([score for score, _ in rows])
            chosen = choose(
                self.config.method,
                object_scores=scores,
                similarities=torch.tensor(unit["similarities"][position]),
                clip_probs=torch.tensor([unit["clip_probs"][position][frame] for frame in frames]),
                random=generator(self.config.seed, unit["video_id"], unit["instruction_ids"][position]),
            )
            result["object_scores"][position] = scores.tolist()
            result["keyframe_index"][position] = frames[chosen]
            result["presence"][position] = 1 / (1 + math.exp(-float(scores.max())))
            result["keyframe_logits"][position] = rows[chosen][1]
        return {**result, "sam2_features": features}

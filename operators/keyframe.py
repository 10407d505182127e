"""TKS: chooses the frame whose candidate mask starts propagation, and the baselines it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vrshq.operators.batch import Batch, Unit, map_units, once
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.family import TrackConfig
from vrshq.operators.models.requests import presence_of, requests_of, value_at
from vrshq.operators.models.shared import family_of
from vrshq.operators.video.sampling import generator

METHODS = ("tks", "clip", "similarity", "object_score", "random", "first", "middle")


@dataclass(frozen=True, kw_only=True)
class KeyframeConfig(TrackConfig):
    """How the keyframe is chosen, and the tracker's settings.

    Attributes:
        method: one of `METHODS`.
        seed: of the random numbers of method `random`.
    """

    method: str = "tks"
    seed: int = 0

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
    """Operator. One image encoding per distinct sampled frame, one mask decoding per (sampled frame, object).

    Where the tracker begins with prompts on all sampled frames, there is nothing to choose, and the stage costs nothing.

    In: `video` (live), `sampled_frames` (E lists of n int), `prompts` (E lists of o lists of float32), `similarities` (E lists
    of n, or empty), `clip_probs` (E lists of T, or None). Out: `object_scores` (E lists of o lists of n float32, logits),
    `keyframes` (E lists of o ints, frame indices), `presence` (E floats in 0..1: sigmoid of the highest object score over
    objects and sampled frames), all None where nothing was chosen; and the live columns `features` (the tracker's state of
    the video) and `keyframe_logits` (E lists of o tensors (l, l), holes filled).
    """

    name = "keyframe"

    def __init__(self, config: KeyframeConfig) -> None:
        self.config = config
        self.tracker = family_of(open_bundle(config.model)).tracker(config)

    def __call__(self, batch: Batch) -> Batch:
        """Runs the stage on every unit of the batch; errors of a unit become its error entry."""
        empty: Unit = {
            "object_scores": [],
            "keyframes": [],
            "presence": [],
            "features": None,
            "keyframe_logits": [],
        }
        return map_units(self.name, batch, self._select, empty)

    def _select(self, unit: Unit) -> Unit:
        count = len(unit["texts"])
        result: dict[str, list[Any]] = {
            name: [None] * count for name in ("object_scores", "keyframes", "presence", "keyframe_logits")
        }
        features = unit.get("features") or once(
            unit, "features", lambda: self.tracker.open(unit["video"], stays=unit.get("kept") is not None)
        )
        if self.tracker.start != "keyframe":
            return {**result, "features": features}
        for position, objects in self.tracker.candidates(features, requests_of(unit)).items():
            scores = [[one.score for one in candidates] for candidates in objects]
            chosen = [self._choose(unit, position, torch.tensor(row)) for row in scores]
            result["object_scores"][position] = scores
            result["keyframes"][position] = [unit["sampled_frames"][position][place] for place in chosen]
            result["presence"][position] = presence_of(scores)
            result["keyframe_logits"][position] = [
                candidates[place].logits for candidates, place in zip(objects, chosen, strict=True)
            ]
        return {**result, "features": features}

    def _choose(self, unit: Unit, position: int, scores: Tensor) -> int:
        frames, similarities = unit["sampled_frames"][position], unit["similarities"][position]
        probabilities = value_at(unit, "clip_probs", position)
        if self.config.method == "clip" and probabilities is None:
            raise ValueError("keyframe method clip: the frames were sampled without CLIP; expected a sampler with it")
        return choose(
            self.config.method,
            object_scores=scores,
            similarities=torch.tensor(similarities or [0.0] * len(frames)),
            clip_probs=torch.tensor(
                [probabilities[frame] for frame in frames] if probabilities else [0.0] * len(frames)
            ),
            random=generator(self.config.seed, unit["video_id"], unit["instruction_ids"][position]),
        )

"""TKS: chooses the frame whose candidate mask starts propagation, and the baselines it is compared with."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from vrshq.operators.batch import Batch, Unit, map_units, once
from vrshq.operators.fuse import FuseConfig, fuse
from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.evidence import Evidence
from vrshq.operators.models.family import Candidate, Request, TrackConfig
from vrshq.operators.models.keyframe_motion import motion_scores
from vrshq.operators.models.keyframe_scores import SCORES, Terms, adaptive_alpha, tks_scores
from vrshq.operators.models.presence_head import load_head
from vrshq.operators.models.requests import presence_of, requests_of, value_at
from vrshq.operators.models.shared import family_of
from vrshq.operators.video.sampling import generator

METHODS = (*SCORES, "random", "first", "middle")
# Bounds that look at the ground truth, which `SelectKeyframe.truth` must give.
ORACLES = ("oracle_area", "oracle_candidate")

# (video id, instruction id, number of the frame in the video) -> true mask (H, W) bool; None: it is not known.
Truth = Callable[[str, str, int], np.ndarray | None]


@dataclass(frozen=True, kw_only=True)
class KeyframeConfig(TrackConfig):
    """How the keyframe is chosen, and the tracker's settings.

    Attributes:
        method: one of `METHODS` or `ORACLES`.
        seed: of the random numbers of method `random`.
        fusion: as for the stage before; it matters here where its weighting is adaptive.
        evidence: whether the live column `evidence` is made, from which a presence head is trained.
    """

    method: str = "tks"
    seed: int = 0
    fusion: FuseConfig = field(default_factory=FuseConfig)
    evidence: bool = False

    def __post_init__(self) -> None:
        if self.method not in (*METHODS, *ORACLES):
            raise ValueError(f"keyframe method {self.method!r}: expected one of {', '.join((*METHODS, *ORACLES))}")


def choose(
    method: str,
    *,
    object_scores: Tensor,
    similarities: Tensor,
    clip_probs: Tensor,
    random: np.random.Generator,
    motion: Tensor | None = None,
) -> int:
    """The position of the keyframe among the n sampled frames; of equal scores the first wins. All inputs (n,)."""
    count = len(object_scores)
    if method == "random":
        return int(random.integers(count))
    if method in ("first", "middle"):
        return 0 if method == "first" else count // 2
    return int(SCORES[method](Terms(object_scores, similarities, clip_probs, motion)).argmax())


class SelectKeyframe:
    """Operator. One image encoding per distinct sampled frame, one mask decoding per (sampled frame, object).

    Where the tracker begins with prompts on all sampled frames, there is nothing to choose, and the stage costs nothing. With
    adaptive fusion the candidates are decoded twice: the first ones' object scores give the weight of the second fusion. The
    oracle of candidates prompts SAM2 with each one's mask. A method with motion reads the sampled frames again.

    In: `video` (live), `sampled_frames` (E lists of n int), `prompts` (E lists of o lists of float32), `similarities` (E lists
    of n, or empty), `clip_probs` (E lists of T, or None), and for adaptive fusion `seg` and `tak`. Out: `object_scores` (E
    lists of o lists of n float32, logits), `keyframes` (E lists of o ints, frame indices), `presence` (E floats in 0..1: what
    the bundle's presence head says of the first object's candidates, or without a head the sigmoid of the highest object score
    over objects and sampled frames), all None where nothing was chosen; and the live columns `features` (the tracker's state
    of the video) and `keyframe_logits` (E lists of o tensors (l, l), holes filled). With adaptive fusion, `prompts`, too.

    Attributes:
        truth: the ground truth, for a method of `ORACLES`; nothing but `vrshq ablate` sets it.
    """

    name = "keyframe"
    truth: Truth | None = None

    def __init__(self, config: KeyframeConfig) -> None:
        bundle = open_bundle(config.model)
        self.config, self.head = config, load_head(bundle)
        self.tracker = family_of(bundle).tracker(replace(config, looks=config.evidence or self.head is not None))

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
        if self.config.fusion.weighting == "adaptive":
            result["prompts"] = self._adapted(unit, features)
            unit = {**unit, "prompts": result["prompts"]}
        evidence: list[Evidence | None] = [None] * count
        for position, objects in self.tracker.candidates(features, requests_of(unit)).items():
            scores = [[one.score for one in candidates] for candidates in objects]
            chosen = [self._choose(unit, (position, number), one, features) for number, one in enumerate(objects)]
            result["object_scores"][position] = scores
            result["keyframes"][position] = [unit["sampled_frames"][position][place] for place in chosen]
            result["presence"][position] = presence_of(scores)
            if objects and (self.head or self.config.evidence):
                own = evidence[position] = self._evidence(unit, position, objects[0], chosen[0])
                if self.head:
                    result["presence"][position] = self.head.presence(own)
            result["keyframe_logits"][position] = [
                candidates[place].logits for candidates, place in zip(objects, chosen, strict=True)
            ]
        return {**result, "features": features, **({"evidence": evidence} if self.config.evidence else {})}

    def _evidence(self, unit: Unit, position: int, candidates: Sequence[Candidate], chosen: int) -> Evidence:
        similarities = unit["similarities"][position] or [0.0] * len(candidates)
        return Evidence.of(candidates, similarities, unit["prompts"][position][0], chosen)

    def _adapted(self, unit: Unit, features: Any) -> list[list[list[float]] | None]:
        """The prompts, fused again with each instruction's own weight; those without a [TAK] stay as they are."""
        prompts, fusion = list(unit["prompts"]), self.config.fusion
        for position, objects in self.tracker.candidates(features, requests_of(unit)).items():
            tak = torch.tensor(unit["tak"][position])
            if not len(tak):
                continue
            seg = torch.tensor(unit["seg"][position]).view(len(unit["sampled_frames"][position]), -1)
            weights = (torch.tensor(unit["similarities"][position]) / fusion.temperature).softmax(0)
            seen = torch.tensor([one.score for one in objects[0]])
            alpha = adaptive_alpha(fusion.alpha, weights, seen)
            prompts[position] = [fuse(seg, tak, alpha, fusion.temperature).tolist()]
        return prompts

    def _choose(self, unit: Unit, which: tuple[int, int], candidates: list[Candidate], features: Any) -> int:
        """The place of the keyframe of an object (position of the instruction, number) among the sampled frames."""
        position, _ = which
        frames, similarities = unit["sampled_frames"][position], unit["similarities"][position]
        probabilities = value_at(unit, "clip_probs", position)
        method = self.config.method
        if "clip" in method and probabilities is None:
            raise ValueError(
                f"keyframe method {method}: the frames were sampled without CLIP; expected a sampler with it"
            )
        terms = Terms(
            torch.tensor([one.score for one in candidates]),
            torch.tensor(similarities or [0.0] * len(frames)),
            torch.tensor([probabilities[frame] for frame in frames] if probabilities else [0.0] * len(frames)),
            self._motion(unit["video"], frames, candidates, features) if "motion" in method else None,
        )
        if method in ORACLES:
            tks = tks_scores(terms.object_scores, terms.similarities)
            return self._best(unit, which, candidates, features, tks)
        return choose(
            method,
            **vars(terms),
            random=generator(self.config.seed, unit["video_id"], unit["instruction_ids"][position]),
        )

    def _motion(self, video: Any, frames: list[int], candidates: list[Candidate], features: Any) -> Tensor:
        """The motion of each candidate mask, (n,)."""
        masks = self.tracker.full_size(features, torch.stack([one.logits for one in candidates])) > 0
        return torch.from_numpy(motion_scores(video.frames(frames), masks.cpu().numpy()))

    def _best(self, unit: Unit, which: tuple[int, int], candidates: list[Candidate], features: Any, tks: Tensor) -> int:
        """The frame with the largest true area, or whose mask is nearest to the truth; of equal ones TKS's choice."""
        if self.truth is None:
            raise ValueError(
                f"keyframe method {self.config.method}: it needs the ground truth; expected `vrshq ablate`"
            )
        position, number = which
        numbers, frames = range(*unit["frame_range"]), unit["sampled_frames"][position]
        request = requests_of(unit)[position]
        values = []
        for frame, candidate in zip(frames, candidates, strict=True):
            true = self.truth(unit["video_id"], unit["instruction_ids"][position], numbers[frame])
            value = 0.0
            if true is not None and self.config.method == "oracle_area":
                value = float(true.sum())
            elif true is not None and true.any():
                as_keyframe = replace(
                    request,
                    objects=[request.objects[number]],
                    keyframes=[frame],
                    scores=[candidate.score],
                    logits=[candidate.logits],
                )
                value = _iou(self._mask_of(features, as_keyframe), true)
            values.append(value)
        return max(range(len(values)), key=lambda place: (values[place], float(tks[place]), -place))

    def _mask_of(self, features: Any, request: Request) -> np.ndarray:
        """The final mask (H, W) bool of a request's only object on its keyframe: the first step of its track."""
        first = next(self.tracker.track(features, {0: request}))[0]
        low_res = fill_holes(first.low_res[None], first.hole_area)
        shown: np.ndarray = (self.tracker.full_size(features, low_res)[0] > 0).cpu().numpy()
        return shown


def _iou(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of two masks of which one is not empty."""
    return float(np.logical_and(one, other).sum() / np.logical_or(one, other).sum())

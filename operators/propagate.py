"""Carries every instruction's keyframe mask through its video, in both directions, and encodes each frame's mask."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vrshq.operators.batch import Batch, Unit, map_units, open_instructions
from vrshq.operators.masks import rle
from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.load import shared_segmenter
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.prompting import decode_candidates
from vrshq.operators.models.sam2.segmenter import to_frame_size
from vrshq.operators.models.sam2.stage_config import Sam2StageConfig
from vrshq.operators.models.sam2.tracking import condition_all, propagate_all


@dataclass(frozen=True, kw_only=True)
class PropagateConfig(Sam2StageConfig):
    """How masks are carried through a video.

    Attributes:
        presence: instructions whose presence is at most this get empty masks on all frames; 0 leaves none out, as in the
            reference.
        track_batch: instructions tracked in one step.
    """

    presence: float = 0.0
    track_batch: int = 16


class Propagate:
    """Operator: carries each keyframe's mask through the video.

    Cost: one SAM2 encoding per frame (none for frames that TKS encoded in the same actor) and, per frame and
    instruction, one step of memory attention, mask decoder and memory encoder.

    In: `video` (live), `keyframe_index` (E ints), `fused` (E lists of d float32), `sampled_frames`, `object_scores`, `presence`
    (E floats in 0..1, where the configuration has a threshold); live
    `sam2_features` and `keyframe_logits` where TKS shares the actor.
    Out: per instruction, lists over the T frames: `rles` (COCO compressed counts), `areas` (pixels), `bboxes` (x, y, w, h),
    `frame_scores` (object logit; the keyframe's is that of its prompted decoding). Host memory: the RLEs of the unit, about
    0.1-2 kB a mask; the frames themselves pass through in windows.
    """

    name = "propagate"

    def __init__(self, config: PropagateConfig) -> None:
        self.config = config
        self.segmenter = shared_segmenter(config.model, config.device, config.dtype)

    def __call__(self, batch: Batch) -> Batch:
        """Runs the stage on every unit of the batch; errors of a unit become its error entry."""
        empty: Unit = {"rles": [], "areas": [], "bboxes": [], "frame_scores": []}
        return map_units(self.name, batch, self._propagate, empty)

    def _propagate(self, unit: Unit) -> Unit:
        video, config = unit["video"], self.config
        features = unit.get("sam2_features") or VideoFeatures(
            self.segmenter, video, budget_bytes=config.feature_cache_bytes, batch_size=config.encode_batch
        )
        positions = open_instructions(unit)
        keyframes = {position: unit["keyframe_index"][position] for position in positions}
        masks = self._keyframe_masks(unit, features, keyframes)
        count, total = len(unit["texts"]), video.num_frames
        encoded: list[list[rle.EncodedMask | None]] = [[None] * total for _ in range(count)]
        scores: list[list[float]] = [[0.0] * total for _ in range(count)]

        def put(outputs: Iterable[tuple[int, int, Tensor, float]]) -> None:
            rows = list(outputs)
            logits = torch.stack([low_res for _, _, low_res, _ in rows])
            full = to_frame_size(logits, self.segmenter.image_size, features.resized_hw, (video.height, video.width))
            for (position, frame, _, score), mask in zip(rows, rle.encode((full > 0).cpu().numpy()), strict=True):
                encoded[position][frame] = mask
                scores[position][frame] = score

        conditioned = condition_all(self.segmenter, features, keyframes, masks, config.hole_area)
        for position, (low_res, _) in conditioned.items():
            sampled = unit["sampled_frames"][position]
            score = unit["object_scores"][position][sampled.index(keyframes[position])]
            put([(position, keyframes[position], low_res, score)])
        memories = {position: [memory] for position, (_, memory) in conditioned.items()}
        for step in propagate_all(self.segmenter, features, keyframes, memories, total, config.track_batch):
            put(
                (item.position, item.frame, fill_holes(item.low_res[None], config.hole_area)[0], item.object_logit)
                for item in step
            )
        # as float32, the form in which tables state it and thresholds are found
        absent = [one for one in positions if config.presence and np.float32(unit["presence"][one]) <= config.presence]
        if absent:
            nothing = rle.encode(np.zeros((1, video.height, video.width), bool))[0]
            for position in absent:
                encoded[position] = [nothing] * total
        return {
            "rles": [[mask.rle if mask else b"" for mask in row] for row in encoded],
            "areas": [[mask.area if mask else 0 for mask in row] for row in encoded],
            "bboxes": [[list(mask.bbox) if mask else [0] * 4 for mask in row] for row in encoded],
            "frame_scores": scores,
            "sam2_features": features,
        }

    def _keyframe_masks(self, unit: Unit, features: VideoFeatures, keyframes: dict[int, int]) -> dict[int, Tensor]:
        """Low-resolution logits (l, l) of each keyframe: from TKS where it ran in this actor, else decoded again."""
        kept = unit.get("keyframe_logits")
        if kept:
            return {position: kept[position] for position in keyframes}
        candidates = [(frame, position) for position, frame in keyframes.items()]
        decoded = decode_candidates(
            self.segmenter, features, candidates, unit["fused"], self.config.track_batch, self.config.hole_area
        )
        return {position: decoded[frame, position][1] for frame, position in candidates}

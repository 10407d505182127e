"""Carries every instruction's keyframe mask through its video, in both directions, and encodes each frame's mask."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from vrshq.operators.batch import Batch, Unit, map_units, open_instructions
from vrshq.operators.keyframe import decode_candidates, shared_segmenter
from vrshq.operators.masks import rle
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Decoded, Memory, Segmenter, fill_holes, to_frame_size


@dataclass(frozen=True, kw_only=True)
class PropagateConfig:
    """`hole_area` is in low-resolution pixels; `track_batch`: instructions tracked in one step; see `KeyframeConfig`.

    `presence`: instructions whose presence is at most this get empty masks on all frames; 0: none, as in the reference.
    """

    model: str = "tiny"
    hole_area: int = 8
    presence: float = 0.0
    feature_cache_bytes: int = 2 << 30
    encode_batch: int = 4
    track_batch: int = 16
    device: str = "cpu"
    dtype: str = "float32"


@dataclass(frozen=True)
class TrackedFrame:
    """One instruction's output on one frame: `low_res` (l, l) logits before hole filling, and SAM2's object logit."""

    position: int
    frame: int
    low_res: Tensor
    object_logit: float
    iou: float
    memory: Memory  # B = 1


class _Track:
    """What later frames can still look at, for one instruction in one direction."""

    def __init__(self, position: int, keyframe: int, memory: Memory, num_memories: int, num_pointers: int) -> None:
        self.position = position
        self.keyframe_index = keyframe
        self.keyframe = memory
        self.recent: deque[Tensor] = deque(maxlen=num_memories)  # spatial memories, nearest first
        self.pointers: deque[Tensor] = deque(maxlen=num_pointers)

    def remember(self, memory: Memory) -> None:
        self.recent.appendleft(memory.features)
        self.pointers.appendleft(memory.pointer)


class Propagate:
    """Operator. One SAM2 encoding per frame (none for frames that TKS encoded in the same actor) and, per frame and
    instruction, one step of memory attention, mask decoder and memory encoder.

    In: `video` (live), `keyframe_index` (E ints), `fused` (E lists of d float32), `sampled_frames`, `object_scores`, `presence`
    (E floats in 0..1, where the configuration has a threshold); live
    `sam2_features` and `keyframe_logits` where TKS shares the actor.
    Out, per instruction lists over the T frames: `rles` (COCO compressed counts), `areas` (pixels), `bboxes` (x, y, w, h),
    `frame_scores` (object logit; the keyframe's is that of its prompted decoding). Host memory: the RLEs of the unit, about
    0.1-2 kB a mask; the frames themselves pass through in windows.
    """

    name = "propagate"

    def __init__(self, config: PropagateConfig) -> None:
        self.config = config
        self.segmenter = shared_segmenter(config.model, config.device, config.dtype)

    def __call__(self, batch: Batch) -> Batch:
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
        memories = {position: memory for position, (_, memory) in conditioned.items()}
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


@torch.inference_mode()
def condition_all(
    segmenter: Segmenter,
    features: VideoFeatures,
    keyframes: dict[int, int],
    masks: dict[int, Tensor],
    hole_area: int,
) -> dict[int, tuple[Tensor, Memory]]:
    """Enters each instruction's keyframe mask (low-resolution logits (l, l), thresholded at 0 at the image size).

    Returns:
        per instruction position the keyframe's final low-resolution logits (l, l), and its memory (B = 1).
    """
    device = next(segmenter.parameters()).device
    result = {}
    for position, frame in sorted(keyframes.items(), key=lambda item: item[1]):
        mask = segmenter.to_image_size(masks[position][None].to(device)) > 0
        low_res, memory = segmenter.condition(features.get([frame]), mask, hole_area)
        result[position] = low_res[0], memory
    return result


@torch.inference_mode()
def propagate_all(
    segmenter: Segmenter,
    features: VideoFeatures,
    keyframes: dict[int, int],
    memories: dict[int, Memory],
    num_frames: int,
    batch_size: int,
) -> Iterator[list[TrackedFrame]]:
    """Tracks all instructions of a video: one sweep forward over the frames, then one back.

    Each instruction joins the sweep at the frame after (before) its own keyframe and starts from nothing but that
    keyframe's memory, so the sweeps do not see each other. On a frame, instructions that can look at equally many
    memories and pointers are tracked in one batch. The features of a frame that no later step looks at are forgotten.

    Yields:
        lists of outputs, one for each batch tracked.
    """
    pointers = min(num_frames, segmenter.max_obj_ptrs_in_encoder) - 1
    first, last = min(keyframes.values(), default=num_frames), max(keyframes.values(), default=0)
    for reverse in (False, True):
        tracks = [
            _Track(position, frame, memories[position], segmenter.num_maskmem - 1, pointers)
            for position, frame in keyframes.items()
        ]
        order = range(last - 1, -1, -1) if reverse else range(first + 1, num_frames)
        for step, frame in enumerate(order):
            window = features.window()
            if step % window == 0:
                features.prefetch(order[step : step + window])
            for group in _groups(tracks, frame, reverse, batch_size):
                yield _track_group(segmenter, features, group, frame)
            if reverse or frame >= last:
                features.forget(frame)


def _groups(tracks: Sequence[_Track], frame: int, reverse: bool, batch_size: int) -> Iterator[list[_Track]]:
    """The tracks that are under way at this frame, in batches of equal memory shapes."""
    by_shape: dict[tuple[int, int], list[_Track]] = {}
    for track in tracks:
        if (frame < track.keyframe_index) if reverse else (frame > track.keyframe_index):
            by_shape.setdefault((len(track.recent), len(track.pointers)), []).append(track)
    for same in by_shape.values():
        for begin in range(0, len(same), batch_size):
            yield same[begin : begin + batch_size]


def _track_group(
    segmenter: Segmenter, features: VideoFeatures, group: Sequence[_Track], frame: int
) -> list[TrackedFrame]:
    image = features.get([frame])
    recent = [torch.cat([track.recent[age] for track in group]) for age in range(len(group[0].recent))]
    pointers = [torch.cat([track.pointers[age] for track in group]) for age in range(len(group[0].pointers))]
    decoded: Decoded
    decoded, memory = segmenter.track(image, Memory.concatenate([track.keyframe for track in group]), recent, pointers)
    outputs = []
    for row, track in enumerate(group):
        own = Memory(memory.features[row : row + 1].clone(), memory.pointer[row : row + 1].clone())
        track.remember(own)
        outputs.append(
            TrackedFrame(
                track.position,
                frame,
                decoded.low_res[row],
                float(decoded.object_logit[row]),
                float(decoded.iou[row]),
                own,
            )
        )
    return outputs

"""Tracking over a video: the masks of all instructions, frame after frame, in both directions from their keyframes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Decoded, Memory, Segmenter


@dataclass(frozen=True)
class TrackedFrame:
    """One instruction's output on one frame.

    Attributes:
        position: the instruction's position in the unit.
        frame: frame index.
        low_res: (l, l) mask logits before hole filling.
        object_logit: logit of SAM2's object score.
        iou: predicted IoU.
        memory: the frame's memory, with B = 1.
    """

    position: int
    frame: int
    low_res: Tensor
    object_logit: float
    iou: float
    memory: Memory


class _Track:
    """The memories that later frames attend to, for one instruction in one direction."""

    def __init__(
        self, position: int, start: int, conditioning: Sequence[Memory], num_memories: int, num_pointers: int
    ) -> None:
        self.position = position
        self.start = start
        self.conditioning = conditioning
        self.recent: deque[Tensor] = deque(maxlen=num_memories)  # spatial memories, nearest first
        self.pointers: deque[Tensor] = deque(maxlen=num_pointers)

    def remember(self, memory: Memory) -> None:
        self.recent.appendleft(memory.features)
        self.pointers.appendleft(memory.pointer)


@torch.inference_mode()
def condition_all(
    segmenter: Segmenter,
    features: VideoFeatures,
    keyframes: dict[int, int],
    masks: dict[int, Tensor],
    hole_area: int,
) -> dict[int, tuple[Tensor, Memory]]:
    """Prompts SAM2 with the keyframe mask of each instruction.

    Args:
        segmenter: SAM2.
        features: the video's image features.
        keyframes: frame index of the keyframe, by instruction position.
        masks: low-resolution logits (l, l), by instruction position; resized to the image size and thresholded at 0.
        hole_area: see `fill_holes`.

    Returns:
        By instruction position, the keyframe's final low-resolution logits (l, l) and its memory (B = 1).
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
    starts: dict[int, int],
    memories: Mapping[int, Sequence[Memory]],
    num_frames: int,
    batch_size: int,
    *,
    backward: bool = True,
) -> Iterator[list[TrackedFrame]]:
    """Tracks all instructions of a video: one sweep forward over the frames, then one back.

    Each instruction joins a sweep at the frame after (before) its start and begins with the memories of its prompted frames
    alone, so the two sweeps are independent. On a frame, instructions with equally many memories and pointers are tracked
    in one batch. The features of a frame are freed after their last use.

    Args:
        segmenter: SAM2.
        features: the video's image features.
        starts: the frame after (before) which tracking begins, by instruction position: its keyframe, or the last of
            several prompted frames.
        memories: of the prompted frames, in their order, by instruction position.
        num_frames: of the video.
        batch_size: instructions in one step.
        backward: whether there is a sweep back.

    Yields:
        The outputs of each batch.
    """
    pointers = min(num_frames, segmenter.max_obj_ptrs_in_encoder) - 1
    first, last = min(starts.values(), default=num_frames), max(starts.values(), default=0)
    for reverse in (False, True) if backward else (False,):
        tracks = [
            _Track(position, frame, memories[position], segmenter.num_maskmem - 1, pointers)
            for position, frame in starts.items()
        ]
        order = range(last - 1, -1, -1) if reverse else range(first + 1, num_frames)
        for step, frame in enumerate(order):
            window = features.window()
            if step % window == 0:
                features.prefetch(order[step : step + window])
            for group in _groups(tracks, frame, reverse, batch_size):
                yield _track_group(segmenter, features, group, frame)
            if reverse or not backward or frame >= last:
                features.forget(frame)


def _groups(tracks: Sequence[_Track], frame: int, reverse: bool, batch_size: int) -> Iterator[list[_Track]]:
    """The tracks that have passed their start at this frame, in batches of equal memory shapes."""
    by_shape: dict[tuple[int, int, int], list[_Track]] = {}
    for track in tracks:
        if (frame < track.start) if reverse else (frame > track.start):
            shape = len(track.conditioning), len(track.recent), len(track.pointers)
            by_shape.setdefault(shape, []).append(track)
    for same in by_shape.values():
        for begin in range(0, len(same), batch_size):
            yield same[begin : begin + batch_size]


def _track_group(
    segmenter: Segmenter, features: VideoFeatures, group: Sequence[_Track], frame: int
) -> list[TrackedFrame]:
    image = features.get([frame])
    recent = [torch.cat([track.recent[age] for track in group]) for age in range(len(group[0].recent))]
    pointers = [torch.cat([track.pointers[age] for track in group]) for age in range(len(group[0].pointers))]
    prompted = zip(*(track.conditioning for track in group), strict=True)
    conditioning = [Memory.concatenate(memories) for memories in prompted]
    decoded: Decoded
    decoded, memory = segmenter.track(image, conditioning, recent, pointers)
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

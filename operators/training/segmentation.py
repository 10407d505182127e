"""SAM2 in training: the prompt's mask on the keyframe, tracked through the neighbouring sampled frames, ungated.

Shape letters: E instructions, n sampled frames, S `image_size`, l = S/4, R rows (pairs of an instruction and a frame).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vrshq.operators.models.preprocess import sam2_input, sam2_size
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.values import Decoded, Features, Memory
from vrshq.operators.training.config import SegmentConfig


@dataclass(frozen=True)
class Segmented:
    """SAM2's R outputs on a clip.

    Attributes:
        instruction: (R,) int64, the instruction's position in the clip.
        frame: (R,) int64, the frame's position in the clip.
        low_res: (R, l, l) mask logits, ungated.
        object_logit: (R,) logits of the object score.
        prompted: (R,) bool, whether the mask was decoded from the prompt instead of tracked.
    """

    instruction: Tensor
    frame: Tensor
    low_res: Tensor
    object_logit: Tensor
    prompted: Tensor


def window_around(keyframe: int, total: int, size: int) -> range:
    """The `size` neighbouring positions with the keyframe in their middle, shifted to stay inside 0..total."""
    size = min(size, total)
    start = min(max(keyframe - size // 2, 0), total - size)
    return range(start, start + size)


def encode_frames(segmenter: Segmenter, frames: np.ndarray) -> Features:
    """Image features of n frames (n, H, W, 3) uint8; without a graph where the encoder is frozen."""
    pixels, _ = sam2_input(frames, segmenter.image_size)
    like = next(segmenter.parameters())
    learns = any(
        parameter.requires_grad
        for module in (segmenter.image_encoder, segmenter.sam_mask_decoder.conv_s0, segmenter.sam_mask_decoder.conv_s1)
        for parameter in module.parameters()
    )
    with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
        return segmenter.encode(pixels.to(like.device, like.dtype))


def square_masks(masks: np.ndarray, image_size: int) -> Tensor:
    """Masks (..., H, W) bool as SAM2 sees the frame: (..., S, S) float in 0..1, resized and padded right and below."""
    height, width = masks.shape[-2:]
    size = sam2_size(height, width, image_size)
    flat = torch.from_numpy(masks.reshape(-1, 1, height, width)).float()
    resized = F.interpolate(flat, size=size, mode="bilinear", align_corners=False, antialias=True)
    padded = F.pad(resized, (0, image_size - size[1], 0, image_size - size[0]))
    return padded.view(*masks.shape[:-2], image_size, image_size)


def segment(
    segmenter: Segmenter,
    features: Features,
    prompts: Tensor,
    keyframes: Sequence[int],
    truth: Tensor,
    config: SegmentConfig,
    random: np.random.Generator,
) -> Segmented:
    """The outputs of each instruction on the window around its keyframe, and on some more frames.

    Args:
        segmenter: SAM2.
        features: of the n frames.
        prompts: (E, C), one embedding for each instruction.
        keyframes: E positions among the n frames.
        truth: (E, n, S, S) in 0..1, for `truth_in_memory`.
        config: window, candidates and memory.
        random: draws the candidates and the true masks in memory.
    """
    count, device = len(features), prompts.device
    every = list(range(len(prompts)))
    # all prompted frames in one batch: the keyframes first, then the candidates
    extra = [
        (one, int(frame))
        for one in every
        for frame in random.permutation([place for place in range(count) if place != keyframes[one]])[
            : config.candidates
        ]
    ]
    pairs = [*zip(every, keyframes, strict=True), *extra]
    prompted_frames = features[[frame for _, frame in pairs]]
    decoded = segmenter.decode_prompt(prompted_frames, prompts[[one for one, _ in pairs]])
    parts = [(pairs, decoded, True)]
    tracks = [
        (one, order)
        for one in every
        for order in _orders(keyframes[one], window_around(keyframes[one], count, config.window))
    ]
    if tracks:
        keys = prompted_frames[slice(0, len(every))]
        first = Decoded(
            *(getattr(decoded, name)[: len(every)] for name in ("low_res", "object_logit", "iou", "pointer"))
        )
        known = truth[every, list(keyframes)] > 0.5
        memory = keyframe_memory(segmenter, keys, first, known, config, random)
        parts += _track(segmenter, features, memory, tracks)
    return Segmented(
        torch.tensor([one for rows, _, _ in parts for one, _ in rows], device=device),
        torch.tensor([frame for rows, _, _ in parts for _, frame in rows], device=device),
        torch.cat([output.low_res for _, output, _ in parts]),
        torch.cat([output.object_logit for _, output, _ in parts]),
        torch.tensor([prompted for rows, _, prompted in parts for _ in rows], device=device),
    )


def keyframe_memory(
    segmenter: Segmenter,
    features: Features,
    decoded: Decoded,
    truth: Tensor,
    config: SegmentConfig,
    random: np.random.Generator,
) -> Memory:
    """The memories (E rows) of the keyframes, where tracking starts."""
    if config.memory == "prompt":
        soft = torch.sigmoid(segmenter.to_image_size(decoded.low_res))
        return Memory(segmenter.encode_mask(features, soft), decoded.pointer)
    own = segmenter.to_image_size(decoded.low_res.detach()) > 0
    given = torch.from_numpy(random.random(len(own)) < config.truth_in_memory).to(own.device)
    return segmenter.condition(features, torch.where(given[:, None, None], truth, own), hole_area=0)[1]


def _orders(keyframe: int, window: range) -> list[list[int]]:
    """The frames of the window after the keyframe and those before it, each list ordered from the keyframe outwards."""
    after, before = list(range(keyframe + 1, window.stop)), list(range(keyframe - 1, window.start - 1, -1))
    return [order for order in (after, before) if order]


def _track(
    segmenter: Segmenter, features: Features, memory: Memory, tracks: list[tuple[int, list[int]]]
) -> list[tuple[list[tuple[int, int]], Decoded, bool]]:
    """Tracks all instructions, step by step.

    A track starts from its keyframe alone. So all tracks have memories of one shape at each step and form one batch.

    Returns:
        For each step: (instruction, frame) of each row, the outputs, and False, because the rows are not prompted.
    """
    parts = []
    past: dict[int, list[Memory]] = {number: [] for number in range(len(tracks))}
    for step in range(max(len(order) for _, order in tracks)):
        active = [number for number, (_, order) in enumerate(tracks) if len(order) > step]
        rows = [(tracks[number][0], tracks[number][1][step]) for number in active]
        keys = [one for one, _ in rows]
        nearest_first = [[past[number][age] for number in active] for age in range(step - 1, -1, -1)]
        joined = [Memory.concatenate(memories) for memories in nearest_first]
        decoded, memories = segmenter.track(
            features[[frame for _, frame in rows]],
            [Memory(memory.features[keys], memory.pointer[keys])],
            [item.features for item in joined[: segmenter.num_maskmem - 1]],
            [item.pointer for item in joined[: segmenter.max_obj_ptrs_in_encoder - 1]],
        )
        for row, number in enumerate(active):
            past[number].append(memories[row : row + 1])
        parts.append((rows, decoded, False))
    return parts


def compared(
    output: Segmented,
    masks: np.ndarray,
    truth: Tensor,
    ignored: np.ndarray | None,
    image_size: int,
    config: SegmentConfig,
) -> tuple[Tensor, Tensor]:
    """Logits and truth of the R outputs as the mask losses take them: (R, H, W) or (R, l, l).

    Ignored pixels get the logit -100 and truth 0, so that they change neither loss.
    """
    height, width = masks.shape[-2:]
    if config.mask_size == "low":
        shrunk = F.avg_pool2d(truth[output.instruction, output.frame], 4)
        return output.low_res, shrunk
    logits = to_frame_size(output.low_res, image_size, sam2_size(height, width, image_size), (height, width))
    wanted = torch.from_numpy(masks).to(logits.device)[output.instruction, output.frame].float()
    if ignored is not None:
        hidden = torch.from_numpy(ignored).to(logits.device)
        logits, wanted = logits.masked_fill(hidden, -100.0), wanted.masked_fill(hidden, 0.0)
    return logits, wanted

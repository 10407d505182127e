"""Candidate masks: SAM2's mask decoder on single frames, prompted with embeddings."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
from torch import Tensor

from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.tracking import scores_of
from vrshq.operators.models.sam2.values import Decoded


@torch.inference_mode()
def decode_candidates(
    segmenter: Segmenter,
    features: VideoFeatures,
    candidates: list[tuple[int, int]],
    prompts: Sequence[Tensor],
    batch_size: int,
    hole_area: int,
) -> dict[tuple[int, int], tuple[float, Tensor]]:
    """Decodes each (frame, object) with the object's prompt, (k*d,) float32.

    Returns:
        For each candidate, its object logit and its low-resolution mask logits (l, l), holes filled, on the CPU.
    """
    like = next(segmenter.parameters())
    done: dict[tuple[int, int], tuple[float, Tensor]] = {}
    ordered = sorted(candidates)  # by frame, so that a small feature cache still encodes each frame once
    frames = sorted({frame for frame, _ in ordered})
    ready = 0  # frames that were encoded before their turn
    for begin in range(0, len(ordered), batch_size):
        part = ordered[begin : begin + batch_size]
        end, window = bisect_right(frames, part[-1][0]), features.window()
        if end > ready and window > end - ready:  # otherwise the frames of this part alone fit into the budget
            features.prefetch(frames[ready : ready + window])
            ready += window
        embeddings = torch.stack([prompts[number] for _, number in part]).to(like.device, like.dtype)
        decoded: Decoded = segmenter.decode_prompt(features.get([frame for frame, _ in part]), embeddings)
        masks = fill_holes(decoded.low_res, hole_area).cpu().float()
        for key, (score, _), mask in zip(part, scores_of(decoded), masks, strict=True):
            done[key] = score, mask
    return done

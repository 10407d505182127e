"""Candidate masks: SAM2's mask decoder on single frames, prompted with embeddings."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.family import Candidate, Look
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.tracking import scores_of
from vrshq.operators.models.sam2.values import Decoded, Features


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
    found = look_at_candidates(segmenter, features, candidates, prompts, batch_size, hole_area, looks=False)
    return {key: (one.score, one.logits) for key, one in found.items()}


@torch.inference_mode()
def look_at_candidates(
    segmenter: Segmenter,
    features: VideoFeatures,
    candidates: list[tuple[int, int]],
    prompts: Sequence[Tensor],
    batch_size: int,
    hole_area: int,
    *,
    looks: bool,
) -> dict[tuple[int, int], Candidate]:
    """As `decode_candidates`, with each candidate's `Look` where `looks` asks for it, which costs a mean over the features."""
    like = next(segmenter.parameters())
    done: dict[tuple[int, int], Candidate] = {}
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
        images = features.get([frame for frame, _ in part])
        decoded: Decoded = segmenter.decode_prompt(images, embeddings)
        masks = fill_holes(decoded.low_res, hole_area).cpu().float()
        scores = scores_of(decoded)
        looks_of = _looks(images, decoded.low_res, [iou for _, iou in scores]) if looks else [None] * len(part)
        for key, (score, _), mask, look in zip(part, scores, masks, looks_of, strict=True):
            done[key] = Candidate(score, mask, look)
    return done


def _looks(images: Features, low_res: Tensor, ious: Sequence[float]) -> list[Look]:
    shapes, pooled = shapes_of(low_res).cpu(), pooled_inside(images, low_res).cpu()
    return [Look(*one) for one in zip(ious, shapes, pooled, strict=True)]


def shapes_of(low_res: Tensor) -> Tensor:
    """`Look.shape` of masks with the logits (B, l, l): (B, 6) float32."""
    logits = low_res.float()
    inside = (logits > 0).float()
    count = inside.sum((1, 2))
    least = count.clamp(min=1)
    places = (torch.arange(inside.shape[-1], device=inside.device) + 0.5) / inside.shape[-1]
    across, down = inside.sum(1) / least[:, None], inside.sum(2) / least[:, None]
    x, y = across @ places, down @ places
    wide, high = ((share * (places - centre[:, None]) ** 2).sum(1).sqrt() for share, centre in ((across, x), (down, y)))
    sure = (logits.sigmoid() * inside).sum((1, 2)) / least
    return torch.stack([count / inside[0].numel(), x, y, wide, high, sure], dim=1)


def pooled_inside(images: Features, low_res: Tensor) -> Tensor:
    """Means of the image features s16 inside masks, (B, C) float32; a mask counts in each place by its share of it.

    Args:
        images: features of B frames.
        low_res: mask logits (B, l, l); the mask is logits > 0. An empty one gives zeros.
    """
    size = images.s16.shape[-2], images.s16.shape[-1]
    shares = F.adaptive_avg_pool2d((low_res > 0).float()[:, None], size)
    inside = (images.s16.float() * shares).sum((2, 3))
    return inside / shares.sum((2, 3)).clamp(min=1e-6)

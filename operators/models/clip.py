"""The pre-sampling CLIP: embeddings of frames and texts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from vrshq.operators.models.clip_network import Clip
from vrshq.operators.models.preprocess import Pixels, clip_pixels
from vrshq.operators.video.pixel_aspect import pixel_aspect_of
from vrshq.operators.video.prefetch import ahead


def image_embeddings(clip: Clip, video: Any, batch_size: int, chosen: range | None = None) -> Tensor:
    """Unit-length CLIP embeddings (n, C) float32 of the chosen frames of a video, all by default.

    One batch is read while another is encoded.
    """
    size = clip.config.vision.image_size
    pixel_aspect = pixel_aspect_of(video)
    chosen = range(video.num_frames) if chosen is None else chosen
    if chosen.step == 1:
        stream = iter(video.stream(chosen.start, chosen.stop))
    else:
        stream = (video.frames([frame])[0] for frame in chosen)

    def read(_: int) -> Pixels:
        # one full-size frame is in memory at a time
        pixels = Pixels.concatenate(
            [
                clip_pixels(frame[None], size, pixel_aspect, clip.device)
                for frame in itertools.islice(stream, batch_size)
            ]
        )
        return pixels.staged(clip.device)

    parts = []
    for pixels in ahead(read, range(-(-len(chosen) // batch_size))):
        features = clip.image_features(pixels.on(clip.device, clip.dtype))
        parts.append(F.normalize(features.float(), dim=-1))
    return torch.cat(parts)


def text_embeddings(clip: Clip, token_ids: Sequence[Sequence[int]], batch_size: int) -> Tensor:
    """Unit-length CLIP embeddings (E, C) float32 of texts given as token ids that end with the end token."""
    parts = []
    for begin in range(0, len(token_ids), batch_size):
        rows = token_ids[begin : begin + batch_size]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[row[-1]] * (longest - len(row))] for row in rows], device=clip.device)
        features = clip.text_features(ids)
        parts.append(F.normalize(features.float(), dim=-1))
    return torch.cat(parts)


def image_text_logits(clip: Clip, images: Tensor, texts: Tensor) -> Tensor:
    """exp(logit scale) * cosine: (E, T) for unit-length embeddings (T, C) and (E, C)."""
    logits: Tensor = clip.logit_scale.float().exp() * (texts @ images.T)
    return logits

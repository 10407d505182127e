"""The pre-sampling CLIP: its configuration, token ids, and embeddings of frames and texts."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import CLIPConfig as HfClipConfig
from transformers import CLIPModel, CLIPTokenizer

from vrshq.operators.models.config import ClipConfig
from vrshq.operators.models.preprocess import Pixels, clip_pixels
from vrshq.operators.video.pixel_aspect import pixel_aspect_of
from vrshq.operators.video.prefetch import ahead


def clip_config(config: ClipConfig) -> HfClipConfig:
    """Transformers' configuration of the pre-sampling CLIP."""
    text = config.text
    return HfClipConfig(
        projection_dim=config.projection_dim,
        vision_config=config.vision.to_transformers(),
        text_config={
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_positions,
            "layer_norm_eps": text.layer_norm_eps,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": text.eos_token_id,
            "hidden_act": "quick_gelu",
        },
    )


def image_embeddings(clip: CLIPModel, video: Any, batch_size: int) -> Tensor:
    """Unit-length CLIP embeddings (T, C) float32 of all frames of a video. One batch is read while another is encoded."""
    size = clip.config.vision_config.image_size
    pixel_aspect = pixel_aspect_of(video)
    stream = iter(video.stream())

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
    for pixels in ahead(read, range(-(-video.num_frames // batch_size))):
        features = clip.get_image_features(pixel_values=pixels.on(clip.device, clip.dtype)).pooler_output
        parts.append(F.normalize(features.float(), dim=-1))
    return torch.cat(parts)


def text_embeddings(clip: CLIPModel, token_ids: Sequence[Sequence[int]], pad: int, batch_size: int) -> Tensor:
    """Unit-length CLIP embeddings (E, C) float32 of texts given as token ids."""
    parts = []
    for begin in range(0, len(token_ids), batch_size):
        rows = token_ids[begin : begin + batch_size]
        longest = max(map(len, rows))
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows], device=clip.device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in rows], device=clip.device)
        features = clip.get_text_features(input_ids=ids, attention_mask=mask).pooler_output
        parts.append(F.normalize(features.float(), dim=-1))
    return torch.cat(parts)


def image_text_logits(clip: CLIPModel, images: Tensor, texts: Tensor) -> Tensor:
    """exp(logit scale) * cosine: (E, T) for unit-length embeddings (T, C) and (E, C)."""
    logits: Tensor = clip.logit_scale.float().exp() * (texts @ images.T)
    return logits


def clip_token_ids(tokenizer: CLIPTokenizer, text: str) -> list[int]:
    """Token ids of a text. The spelling of CLIP's begin or end token in the text is not read as that token."""
    ids: list[int] = tokenizer(text, split_special_tokens=True, verbose=False).input_ids
    return ids

"""SAM2's mask decoder, memory encoder and image neck without repeated work; equal to SAM2's own within rounding.

Shape letters as in `segmenter`: B batch, C `d_model`, M `memory_dim`, S `image_size`, h = S/16, l = S/4.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from sam2.modeling.backbones.image_encoder import FpnNeck
from sam2.modeling.memory_encoder import MemoryEncoder
from sam2.modeling.sam.mask_decoder import MaskDecoder
from sam2.modeling.sam.transformer import TwoWayTransformer
from sam2.modeling.sam2_utils import LayerNorm2d
from torch import Tensor


def channel_norm(norm: LayerNorm2d, maps: Tensor) -> Tensor:
    """SAM2's norm over the channels of maps (B, c, h, w): one kernel instead of ten, its statistics in float32."""
    last = F.layer_norm(maps.permute(0, 2, 3, 1), (maps.shape[1],), norm.weight, norm.bias, norm.eps)
    return last.permute(0, 3, 1, 2)


def neck_maps(neck: FpnNeck, trunk_maps: list[Tensor], sums: torch.dtype) -> list[Tensor]:
    """The neck's maps (B, C, ., .), finest first. SAM2's own adds the levels in float32 whatever the type."""
    maps: list[Tensor] = []
    for level, conv in zip(range(len(trunk_maps) - 1, -1, -1), neck.convs, strict=True):
        own = conv(trunk_maps[level])
        if level in neck.fpn_top_down_levels and maps:
            own = own + F.interpolate(maps[0].to(sums), scale_factor=2.0, mode=neck.fpn_interp_model)
        maps.insert(0, own)
    return maps


class Masks(NamedTuple):
    """The mask decoder's output: `logits` (B, m, l, l), `iou` (B, m), `tokens` (B, m, C), `object_logit` (B, 1)."""

    logits: Tensor
    iou: Tensor
    tokens: Tensor
    object_logit: Tensor


def decode_masks(
    decoder: MaskDecoder, image: Tensor, code: Tensor, prompt: list[Tensor], fine: tuple[Tensor, Tensor]
) -> Masks:
    """SAM2's mask decoder.

    Args:
        decoder: SAM2's; `use_multimask_token_for_obj_ptr` says whether it gives three masks or one (m).
        image: (B, C, h, h) embeddings of the image, the dense prompt added.
        code: (1, h*h, C) position code of the image.
        prompt: tokens (B, ., C).
        fine: image features (B or 1, C/8, l, l) and (B or 1, C/4, l/2, l/2).
    """
    learned = (decoder.obj_score_token, decoder.iou_token, decoder.mask_tokens)
    fixed = [one.weight.expand(len(image), -1, -1) for one in learned]
    tokens = torch.cat([*fixed, *prompt], dim=1)
    hidden, maps = _two_way(decoder.transformer, image.flatten(2).transpose(1, 2), code, tokens)
    first, norm, act, second, last = decoder.output_upscaling
    maps = act(channel_norm(norm, first(maps.transpose(1, 2).view(image.shape)) + fine[1]))
    maps = last(second(maps) + fine[0])
    chosen = slice(1, None) if decoder.use_multimask_token_for_obj_ptr else slice(0, 1)
    # In training the other masks are computed, too: without gradients the optimizer would treat their weights differently.
    made = slice(0, None) if torch.is_grad_enabled() else chosen
    out = hidden[:, 2 : 2 + decoder.num_mask_tokens]
    weights = [
        network(out[:, place : place + 1])
        for place, network in list(enumerate(decoder.output_hypernetworks_mlps))[made]
    ]
    joined = torch.cat(weights, dim=1) if len(weights) > 1 else weights[0]
    logits = (joined @ maps.flatten(2)).view(len(joined), -1, *maps.shape[2:])
    return Masks(
        logits if made == chosen else logits[:, chosen],
        decoder.iou_prediction_head(hidden[:, 1])[:, chosen],
        out[:, chosen],
        decoder.pred_obj_score_head(hidden[:, 0]),
    )


def _two_way(transformer: TwoWayTransformer, image: Tensor, code: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
    """SAM2's transformer, which adds the position code to the image once per layer instead of twice."""
    queries, coded = tokens, image + code
    for layer in transformer.layers:
        if layer.skip_first_layer_pe:
            queries = layer.self_attn(queries, queries, queries)
        else:
            query = queries + tokens
            queries = queries + layer.self_attn(query, query, queries)
        queries = layer.norm1(queries)
        queries = layer.norm2(queries + layer.cross_attn_token_to_image(queries + tokens, coded, image))
        queries = layer.norm3(queries + layer.mlp(queries))
        image = layer.norm4(image + layer.cross_attn_image_to_token(coded, queries + tokens, queries))
        coded = image + code
    attended = transformer.final_attn_token_to_image(queries + tokens, coded, image)
    return transformer.norm_final_attn(queries + attended), image


def encode_memory(encoder: MemoryEncoder, image: Tensor, masks: Tensor) -> Tensor:
    """SAM2's memory encoder: (B, M, h, h) from image features (B or 1, C, h, h) and scaled masks (B, 1, S, S)."""
    for layer in encoder.mask_downsampler.encoder:
        masks = channel_norm(layer, masks) if isinstance(layer, LayerNorm2d) else layer(masks)
    maps = encoder.pix_feat_proj(image) + masks
    for block in encoder.fuser.layers:
        inner = channel_norm(block.norm, block.dwconv(maps)).permute(0, 2, 3, 1)
        inner = block.gamma * block.pwconv2(block.act(block.pwconv1(inner)))
        maps = maps + inner.permute(0, 3, 1, 2)
    encoded: Tensor = encoder.out_proj(maps)
    return encoded

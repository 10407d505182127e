"""SAM2's weights and sizes under transformers' names, for `Sam2VideoModel`."""

from __future__ import annotations

import re

import torch
from torch import Tensor
from transformers import Sam2VideoConfig

from vrshq.operators.models.config import Sam2Config

# What SAM2's names become, in this order.
_NAMES = (
    (r"^image_encoder\.neck", "vision_encoder.neck"),
    (r"^image_encoder\.trunk", "vision_encoder.backbone"),
    (r"neck\.convs\.(\d)\.conv\.", r"neck.convs.\1."),
    (r"patch_embed\.proj\.", "patch_embed.projection."),
    (
        r"^sam_prompt_encoder\.pe_layer\.positional_encoding_gaussian_matrix",
        "shared_image_embedding.positional_embedding",
    ),
    (r"^sam_prompt_encoder\.", "prompt_encoder."),
    (r"^sam_mask_decoder\.", "mask_decoder."),
    # networks of three layers, then those of two
    (r"(mlps\.\d|_head|obj_ptr_proj)\.layers\.0\.", r"\1.proj_in."),
    (r"(mlps\.\d|_head|obj_ptr_proj)\.layers\.1\.", r"\1.layers.0."),
    (r"(mlps\.\d|_head|obj_ptr_proj)\.layers\.2\.", r"\1.proj_out."),
    (r"\.mlp\.layers\.0\.", ".mlp.proj_in."),
    (r"\.mlp\.layers\.1\.", ".mlp.proj_out."),
    (r"mask_downscaling\.0\.", "mask_embed.conv1."),
    (r"mask_downscaling\.1\.", "mask_embed.layer_norm1."),
    (r"mask_downscaling\.3\.", "mask_embed.conv2."),
    (r"mask_downscaling\.4\.", "mask_embed.layer_norm2."),
    (r"mask_downscaling\.6\.", "mask_embed.conv3."),
    (r"output_upscaling\.0\.", "upscale_conv1."),
    (r"output_upscaling\.1\.", "upscale_layer_norm."),
    (r"output_upscaling\.3\.", "upscale_conv2."),
    (r"^maskmem_tpos_enc", "memory_temporal_positional_encoding"),
    (r"^no_mem_embed", "no_memory_embedding"),
    (r"^no_mem_pos_enc", "no_memory_positional_encoding"),
    (r"^no_obj_ptr", "no_object_pointer"),
    (r"^obj_ptr_proj", "object_pointer_proj"),
    (r"memory_encoder\.out_proj", "memory_encoder.projection"),
    (r"pix_feat_proj", "feature_projection"),
    (r"mask_downsampler\.encoder\.12\.", "mask_downsampler.final_conv."),
    (r"encoder\.fuser\.", "encoder.memory_fuser."),
    (r"\.dwconv\.", ".depthwise_conv."),
    (r"\.pwconv(\d)\.", r".pointwise_conv\1."),
    (r"\.gamma$", ".scale"),
    (r"norm_final_attn", "layer_norm_final_attn"),
    (r"\.norm(\d?)\.", r".layer_norm\1."),
    (r"\.out_proj\.", ".o_proj."),
)
_POINTS = "prompt_encoder.point_embeddings."


def transformers_name(name: str) -> str:
    """Transformers' name of one of SAM2's parameters."""
    for pattern, replacement in _NAMES:
        name = re.sub(pattern, replacement, name)
    if found := re.search(
        r"mask_downsampler\.encoder\.(\d+)\.", name
    ):  # a convolution, its norm and an activation each
        layer, part = divmod(int(found[1]), 3)
        name = name.replace(found[0], f"mask_downsampler.layers.{layer}.{('conv', 'layer_norm')[part]}.")
    return name


def transformers_weights(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """SAM2's weights for `Sam2VideoModel`, which has the four point embeddings in one table and the image's waves twice."""
    named = {transformers_name(name): value for name, value in weights.items()}
    points = [named.pop(f"{_POINTS}{number}.weight") for number in range(4)]
    waves = named["shared_image_embedding.positional_embedding"]
    return {
        **named,
        "prompt_encoder.point_embed.weight": torch.cat(points),
        "prompt_encoder.shared_embedding.positional_embedding": waves,
    }


def transformers_config(sizes: Sam2Config) -> Sam2VideoConfig:
    """The configuration of a SAM 2.0 of these sizes; all else is as published."""
    side, grid = sizes.image_size, sizes.image_size // 16
    widths = [sizes.embed_dim * 2**level for level in range(4)]
    return Sam2VideoConfig(
        image_size=side,
        memory_attention_rope_feat_sizes=[grid, grid],
        enable_occlusion_spatial_embedding=False,
        enable_temporal_pos_encoding_for_object_pointers=False,
        prompt_encoder_config={"image_size": side},
        mask_decoder_config={"dynamic_multimask_via_stability": False},
        vision_config={
            "model_type": "sam2_vision_model",
            "backbone_channel_list": widths[::-1],
            "backbone_feature_sizes": [[grid * 4, grid * 4], [grid * 2, grid * 2], [grid, grid]],
            "backbone_config": {
                "model_type": "sam2_hiera_det_model",
                "image_size": [side, side],
                "hidden_size": sizes.embed_dim,
                "num_attention_heads": sizes.num_heads,
                "blocks_per_stage": list(sizes.stages),
                "embed_dim_per_stage": widths,
                "num_attention_heads_per_stage": [sizes.num_heads * 2**level for level in range(4)],
                "window_size_per_stage": list(sizes.window_spec),
                "global_attention_blocks": list(sizes.global_attention_blocks),
                "window_positional_embedding_background_size": list(sizes.window_pos_embed_bkg_spatial_size),
            },
        },
    )

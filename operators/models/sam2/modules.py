"""SAM2's modules at the sizes of a `Sam2Config`, with the published method's settings (SAM 2.0, single mask output)."""

from __future__ import annotations

from typing import Any

from sam2.modeling.backbones.hieradet import Hiera
from sam2.modeling.backbones.image_encoder import FpnNeck, ImageEncoder
from sam2.modeling.memory_attention import MemoryAttention, MemoryAttentionLayer
from sam2.modeling.memory_encoder import CXBlock, Fuser, MaskDownSampler, MemoryEncoder
from sam2.modeling.position_encoding import PositionEmbeddingSine
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor, nn

from vrshq.operators.models.config import Sam2Config


class _NoPosition(nn.Module):
    """Replaces SAM2's position codes of images. SAM2 copies one for each frame and level and uses only that of s16."""

    def forward(self, features: Tensor) -> Tensor:
        return features.new_empty(0)


def sam2_arguments(config: Sam2Config) -> dict[str, Any]:
    """The arguments of `SAM2Base`."""
    grid = config.image_size // 16
    channels = [config.embed_dim * 2**level for level in range(len(config.stages))]

    def attention(**arguments: object) -> RoPEAttention:
        return RoPEAttention(
            embedding_dim=config.d_model,
            num_heads=1,
            downsample_rate=1,
            dropout=0.1,
            rope_theta=10000.0,
            feat_sizes=(grid, grid),
            **arguments,
        )

    return {
        "image_encoder": ImageEncoder(
            trunk=Hiera(
                embed_dim=config.embed_dim,
                num_heads=config.num_heads,
                stages=config.stages,
                window_spec=config.window_spec,
                global_att_blocks=config.global_attention_blocks,
                window_pos_embed_bkg_spatial_size=config.window_pos_embed_bkg_spatial_size,
            ),
            neck=FpnNeck(
                position_encoding=_NoPosition(),
                d_model=config.d_model,
                backbone_channel_list=channels[::-1],
                fpn_top_down_levels=[2, 3],
                fpn_interp_model="nearest",
            ),
            scalp=1,
        ),
        "memory_attention": MemoryAttention(
            d_model=config.d_model,
            pos_enc_at_input=True,
            num_layers=config.memory_attention_layers,
            layer=MemoryAttentionLayer(
                activation="relu",
                d_model=config.d_model,
                dim_feedforward=config.memory_attention_dim_feedforward,
                dropout=0.1,
                pos_enc_at_attn=False,
                pos_enc_at_cross_attn_keys=True,
                pos_enc_at_cross_attn_queries=False,
                self_attention=attention(),
                cross_attention=attention(rope_k_repeat=True, kv_in_dim=config.memory_dim),
            ),
        ),
        "memory_encoder": MemoryEncoder(
            in_dim=config.d_model,
            out_dim=config.memory_dim,
            position_encoding=PositionEmbeddingSine(
                num_pos_feats=config.memory_dim, normalize=True, temperature=10000, warmup_cache=False
            ),
            mask_downsampler=MaskDownSampler(embed_dim=config.d_model, kernel_size=3, stride=2, padding=1),
            fuser=Fuser(layer=CXBlock(dim=config.d_model, kernel_size=7, padding=3), num_layers=2),
        ),
        "num_maskmem": config.num_maskmem,
        "image_size": config.image_size,
        "sigmoid_scale_for_mem_enc": 20.0,
        "sigmoid_bias_for_mem_enc": -10.0,
        "binarize_mask_from_pts_for_mem_enc": True,
        "use_mask_input_as_output_without_sam": True,
        "directly_add_no_mem_embed": True,
        "use_high_res_features_in_sam": True,
        "iou_prediction_use_sigmoid": True,
        "use_obj_ptrs_in_encoder": True,
        "max_obj_ptrs_in_encoder": config.max_object_pointers,
        "add_tpos_enc_to_obj_ptrs": False,
        "only_obj_ptrs_in_the_past_for_eval": True,
        "pred_obj_scores": True,
        "pred_obj_scores_mlp": True,
        "fixed_no_obj_ptr": True,
        "use_mlp_for_obj_ptr_proj": True,
    }

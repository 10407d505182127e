"""SAM 3 for video with seeded random weights at tiny sizes, as a bundle in the published layout.

Weights are scaled up so that detections differ between texts and frames, and thresholds lowered so that objects appear, vanish
and are removed. Reaches into the past are short, so that a short video passes them.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import Sam3VideoConfig, Sam3VideoModel

from vrshq.operators.models.bundle import BUNDLED

IMAGE, PATCH, WIDTH, HEADS = 112, 14, 128, 2
TEXTS = ("red car", "a dog", "the blue thing on the left")
THRESHOLDS: dict[str, Any] = {
    "score_threshold_detection": 0.3,
    "new_det_thresh": 0.4,
    "det_nms_thresh": 0.6,
    "high_conf_thresh": 0.4,
    "high_iou_thresh": 0.3,
    "recondition_every_nth_frame": 2,
    "hotstart_delay": 5,
    "hotstart_unmatch_thresh": 2,
    "hotstart_dup_thresh": 2,
    "fill_hole_area": 4,
}


def tiny_config(**thresholds: Any) -> Sam3VideoConfig:
    """The configuration; `thresholds` replace those of the module."""
    grid = IMAGE // PATCH
    backbone = {
        "model_type": "sam3_vit_model",
        **_layers(32, 2),
        "image_size": IMAGE,
        "patch_size": PATCH,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    vision = {
        "model_type": "sam3_vision_model",
        "fpn_hidden_size": WIDTH,
        "backbone_feature_sizes": [[4 * grid] * 2, [2 * grid] * 2, [grid] * 2],
        "backbone_config": backbone,
    }
    text = {
        "model_type": "clip_text_model",
        **_layers(32, 2),
        "vocab_size": 1114,
        "projection_dim": 32,
        "max_position_embeddings": 32,
        "hidden_act": "gelu",
        "bos_token_id": 1112,
        "eos_token_id": 1113,
        "pad_token_id": 1113,
    }
    block = {"hidden_size": WIDTH, "num_attention_heads": HEADS, "intermediate_size": 32}
    detector = {
        "model_type": "sam3",
        "vision_config": vision,
        "text_config": text,
        "geometry_encoder_config": {**block, "num_layers": 1},
        "detr_encoder_config": {**block, "num_layers": 1},
        "detr_decoder_config": {**block, "num_layers": 2, "num_queries": 6},
        "mask_decoder_config": {"hidden_size": WIDTH, "num_attention_heads": HEADS},
    }
    decoder = {"hidden_size": WIDTH, "mlp_dim": 32, "num_attention_heads": HEADS, "iou_head_hidden_dim": 32}
    tracker = {
        "model_type": "sam3_tracker_video",
        "vision_config": vision,
        "image_size": IMAGE,
        "prompt_encoder_config": {"hidden_size": WIDTH, "image_size": IMAGE, "patch_size": PATCH},
        "mask_decoder_config": decoder,
        "num_maskmem": 3,
        "max_object_pointers_in_encoder": 4,
        "max_cond_frame_num": 1,
        "memory_attention_hidden_size": WIDTH,
        "memory_attention_num_layers": 1,
        "memory_attention_feed_forward_hidden_size": 32,
        "memory_encoder_hidden_size": WIDTH,
        "mask_downsampler_embed_dim": WIDTH,
        "memory_fuser_embed_dim": WIDTH,
        "memory_fuser_intermediate_dim": 32,
    }
    chosen = {**THRESHOLDS, **thresholds}
    return Sam3VideoConfig(
        detector_config=detector,
        tracker_config=tracker,
        low_res_mask_size=4 * grid,
        architectures=["Sam3VideoModel"],
        **chosen,
    )


def _layers(width: int, count: int) -> dict[str, int]:
    return {"hidden_size": width, "intermediate_size": width, "num_hidden_layers": count, "num_attention_heads": HEADS}


@dataclass(frozen=True)
class Weights:
    """The seed of random weights, and the factor on all matrices."""

    seed: int = 3
    gain: float = 8.0


def write_bundle(
    folder: Path,
    weights: Weights = Weights(),
    change: Callable[[dict[str, Tensor]], object] | None = None,
    **thresholds: Any,
) -> str:
    """Writes the bundle and returns its folder; `change` may add, take and replace tensors."""
    folder.mkdir(parents=True, exist_ok=True)
    config = tiny_config(**thresholds)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(weights.seed)
        model = Sam3VideoModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(weights.gain)
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    if change:
        change(tensors)
    config.save_pretrained(folder)
    save_file(tensors, folder / "model.safetensors")
    for path in (BUNDLED / "untrained-tiny" / "clip").iterdir():
        shutil.copy(path, folder)
    return str(folder)

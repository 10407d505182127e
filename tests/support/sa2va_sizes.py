"""The sizes of Sa2VA on Qwen3-VL-4B, as its published `config.json` has them."""

from __future__ import annotations

from typing import Any

from vrshq.operators.models.sa2va.config import Sa2vaConfig

_LANGUAGE: dict[str, Any] = {
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 2560,
    "initializer_range": 0.02,
    "intermediate_size": 9728,
    "max_position_embeddings": 262144,
    "model_type": "qwen3_vl_text",
    "num_attention_heads": 32,
    "num_hidden_layers": 36,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": {"mrope_interleaved": True, "mrope_section": [24, 20, 20], "rope_type": "default"},
    "rope_theta": 5000000,
    "use_cache": True,
    "vocab_size": 151674,
}
_VISION: dict[str, Any] = {
    "deepstack_visual_indexes": [5, 11, 17],
    "depth": 24,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_size": 1024,
    "in_channels": 3,
    "initializer_range": 0.02,
    "intermediate_size": 4096,
    "model_type": "qwen3_vl",
    "num_heads": 16,
    "num_position_embeddings": 2304,
    "out_hidden_size": 2560,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
}


def sa2va_4b(language_layers: int = 36) -> Sa2vaConfig:
    """The configuration; with fewer than 36 layers, the vision tower has a block for each of its outputs, and one more."""
    vision = _VISION if language_layers == 36 else {**_VISION, "depth": 4, "deepstack_visual_indexes": [0, 1, 2]}
    return Sa2vaConfig(
        language={**_LANGUAGE, "num_hidden_layers": language_layers}, vision=vision, image_token_id=151655
    )

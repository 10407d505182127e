"""Transformers' LLaMA, CLIP and vision tower of this program's sizes: the networks to compare its own with."""

from __future__ import annotations

from transformers import CLIPModel, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaModel

from vrshq.operators.models.config import ClipConfig, LanguageConfig, VisionConfig
from vrshq.pipelines.models.publish import clip_config, vision_sizes


def hf_llama(config: LanguageConfig, attention: str = "sdpa") -> LlamaModel:
    """Transformers' LLaMA without an LM head."""
    return LlamaModel(
        LlamaConfig(
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            num_key_value_heads=config.num_key_value_heads,
            rms_norm_eps=config.rms_norm_eps,
            rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
            max_position_embeddings=config.max_positions,
            vocab_size=config.vocab_size,
            tie_word_embeddings=False,
            attn_implementation=attention,
        )
    )


def hf_tower(config: VisionConfig) -> CLIPVisionModel:
    """Transformers' CLIP vision transformer."""
    return CLIPVisionModel(CLIPVisionConfig(**vision_sizes(config)))


def hf_clip(config: ClipConfig) -> CLIPModel:
    """Transformers' CLIP."""
    return CLIPModel(clip_config(config))

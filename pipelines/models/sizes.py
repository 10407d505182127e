"""The sizes of a checkpoint in the published layout, derived from tensor shapes and from the files beside the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeVar

from transformers import CLIPConfig as HfClipConfig

from vrshq.operators.models.bundle import DESCRIPTION, FORMAT, CheckpointError, read_json
from vrshq.operators.models.config import (
    ClipConfig,
    ClipTextConfig,
    ClusteringConfig,
    LanguageConfig,
    ModelConfig,
    Sam2Config,
    TowerConfig,
    VisionConfig,
)
from vrshq.operators.models.published import language_sizes

Config = TypeVar("Config", LanguageConfig, TowerConfig, Sam2Config)
Shapes = Mapping[str, tuple[int, ...]]


def derive_sizes(folder: Path, clip: Path, shapes: Shapes) -> ModelConfig:
    """The sizes of a checkpoint in the published layout, from its shapes, config.json, added_tokens.json and the CLIP's config.

    These files do not hold the number of heads of the tower and of SAM2, and SAM2's windows and image size. These sizes get
    their full-size values if all other sizes of the network have full-size values.

    Args:
        folder: folder of the checkpoint.
        clip: folder of the pre-sampling CLIP.
        shapes: name -> shape of all tensors.

    Raises:
        CheckpointError: a file or tensor with sizes is missing, or sizes remain unknown. The message names them.
    """
    unknown: list[str] = []
    settings = read_json(folder / "config.json")
    model = ModelConfig(
        language=_language_sizes(folder, settings, shapes, unknown),
        tower=_tower_sizes(shapes, unknown),
        clustering=_clustering_sizes(settings),
        clip=_clip_sizes(clip),
        sam2=_sam2_sizes(shapes, unknown),
    )
    if unknown:
        raise CheckpointError(
            f"{folder}: its files do not tell {', '.join(unknown)}; put a {DESCRIPTION} with format {FORMAT} and the whole "
            "model's sizes beside it (see `model` in that of untrained-tiny)"
        )
    return model


def _settle(
    section: str,
    full: Config,
    derived: dict[str, Any],
    given: dict[str, Any],
    needed: tuple[str, ...],
    unknown: list[str],
) -> Config:
    """Sizes from shapes (`derived`) and from files (`given`).

    The remaining sizes get their `full` values. If a derived size differs from its full value, the `needed` sizes that no file
    gives cannot be assumed; they are added to `unknown`.
    """
    if any(getattr(full, name) != value for name, value in derived.items()):
        unknown += [f"{section}.{name}" for name in needed if name not in given]
    return replace(full, **derived, **given)


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(f"missing tensor {name}: sizes are derived from it")
    if len(shapes[name]) != dimensions:
        raise CheckpointError(f"{name}: shape {shapes[name]}, expected {dimensions} dimensions")
    return shapes[name]


def _count(shapes: Shapes, prefix: str) -> int:
    """Number of numbered layers under a prefix."""
    numbers = {match[1] for name in shapes if (match := re.match(re.escape(prefix) + r"(\d+)\.", name))}
    return len(numbers)


def _language_sizes(folder: Path, settings: dict[str, Any], shapes: Shapes, unknown: list[str]) -> LanguageConfig:
    vocabulary, width = _shape(shapes, "model.embed_tokens.weight", 2)
    derived = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _shape(shapes, "model.layers.0.mlp.gate_proj.weight", 2)[0],
        "num_layers": _count(shapes, "model.layers."),
    }
    added = read_json(folder / "added_tokens.json") if (folder / "added_tokens.json").exists() else {}
    try:
        given = {name: value for name, value in language_sizes(settings, added).items() if name not in derived}
    except ValueError as error:
        raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    needed = ("num_heads", "rms_norm_eps", "seg_token_id", "tak_token_id")
    return _settle("language", LanguageConfig(), derived, given, needed, unknown)


def _tower_sizes(shapes: Shapes, unknown: list[str]) -> TowerConfig:
    prefix = "model.vision_tower.vision_tower.vision_model."
    patch = _shape(shapes, f"{prefix}embeddings.patch_embedding.weight", 4)[-1]
    positions = _shape(shapes, f"{prefix}embeddings.position_embedding.weight", 2)[0]
    derived = {
        "hidden_size": _shape(shapes, f"{prefix}embeddings.class_embedding", 1)[0],
        "intermediate_size": _shape(shapes, f"{prefix}encoder.layers.0.mlp.fc1.weight", 2)[0],
        "num_layers": _count(shapes, f"{prefix}encoder.layers."),
        "patch_size": patch,
        "image_size": round((positions - 1) ** 0.5) * patch,
    }
    return _settle("tower", TowerConfig(), derived, {}, ("num_heads",), unknown)


def _clustering_sizes(settings: dict[str, Any]) -> ClusteringConfig:
    given = settings.get("config") or {}
    names = [f"spatial_cluster_rate{level}" for level in range(3)]
    if not all(isinstance(given.get(name), int) for name in names):
        return ClusteringConfig()
    return replace(ClusteringConfig(), clusters=tuple(given[name] for name in names))


def _clip_sizes(clip: Path) -> ClipConfig:
    read_json(clip / "config.json")  # raises an error that names the file if it is missing or not JSON
    config = HfClipConfig.from_pretrained(clip, local_files_only=True)
    text, vision = config.text_config, config.vision_config
    for part in (text, vision):
        if part.hidden_act != "quick_gelu":
            raise CheckpointError(
                f"{clip / 'config.json'}: hidden_act {part.hidden_act}, expected quick_gelu (OpenAI's CLIP)"
            )
    names = {
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "max_positions": "max_position_embeddings",
    }

    def sizes(kind: type[VisionConfig] | type[ClipTextConfig], values: Any) -> dict[str, Any]:
        return {item.name: getattr(values, names.get(item.name, item.name)) for item in fields(kind)}

    return ClipConfig(
        projection_dim=config.projection_dim,
        text=ClipTextConfig(**sizes(ClipTextConfig, text)),
        vision=VisionConfig(**sizes(VisionConfig, vision)),
    )


def _sam2_sizes(shapes: Shapes, unknown: list[str]) -> Sam2Config:
    prefix = "model.visual_model."
    trunk = f"{prefix}image_encoder.trunk."
    _, embed_dim, *background = _shape(shapes, f"{trunk}pos_embed", 4)
    window = _shape(shapes, f"{trunk}pos_embed_window", 4)[-1]
    widths = [
        _shape(shapes, f"{trunk}blocks.{block}.attn.proj.weight", 2)[0]
        for block in range(_count(shapes, f"{trunk}blocks."))
    ]
    num_maskmem, _, _, memory_dim = _shape(shapes, f"{prefix}maskmem_tpos_enc", 4)
    derived = {
        "d_model": _shape(shapes, f"{prefix}no_mem_embed", 3)[-1],
        "memory_dim": memory_dim,
        "num_maskmem": num_maskmem,
        "embed_dim": embed_dim,
        # each stage doubles the width of its blocks
        "stages": tuple(widths.count(width) for width in sorted(set(widths))),
        "window_pos_embed_bkg_spatial_size": tuple(background),
        "memory_attention_layers": _count(shapes, f"{prefix}memory_attention.layers."),
        "memory_attention_dim_feedforward": _shape(shapes, f"{prefix}memory_attention.layers.0.linear1.weight", 2)[0],
        "decoder_dim_feedforward": _shape(
            shapes, f"{prefix}sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight", 2
        )[0],
    }
    full = Sam2Config()
    needed = ("image_size", "num_heads", "window_spec", "global_attention_blocks")
    sizes = _settle("sam2", full, derived, {}, needed, unknown)
    if window != sizes.window_spec[0] and not unknown:
        unknown.append("sam2.window_spec")
    return sizes

"""The sizes of a model: one frozen dataclass per network. The tiny and the published 7B model differ only here.

Defaults are the full-size values of the published model.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_type_hints

IMAGE_TOKEN = -200  # stands for one frame in `input_ids`
# CLIP's normalisation of RGB values on the 0..1 scale
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


@dataclass(frozen=True, kw_only=True)
class LanguageConfig:
    """The LLaMA decoder."""

    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_layers: int = 32
    num_heads: int = 32
    num_key_value_heads: int = 32
    rms_norm_eps: float = 1e-6
    rope_theta: float = 10000.0
    max_positions: int = 4096
    vocab_size: int = 32002
    seg_token_id: int = 32000
    tak_token_id: int = 32001


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A CLIP vision transformer."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_layers: int = 24
    num_heads: int = 16
    image_size: int = 224
    patch_size: int = 14
    layer_norm_eps: float = 1e-5


@dataclass(frozen=True, kw_only=True)
class TowerConfig(VisionConfig):
    """The MLLM's vision tower.

    `view`: the tower sees a frame's central square, as in the reference (`centre`), or the whole frame (`whole`): about
    as many patches in the frame's own aspect, with the position embeddings interpolated to their grid.
    """

    view: Literal["centre", "whole"] = "centre"

    def __post_init__(self) -> None:
        if self.view not in ("centre", "whole"):
            raise ValueError(f"tower.view {self.view!r}: expected centre or whole")


@dataclass(frozen=True, kw_only=True)
class ClipTextConfig:
    """A CLIP text transformer."""

    hidden_size: int = 768
    intermediate_size: int = 3072
    num_layers: int = 12
    num_heads: int = 12
    vocab_size: int = 49408
    max_positions: int = 77
    layer_norm_eps: float = 1e-5
    eos_token_id: int = 2  # 2 selects transformers' pooling at the largest token id, as the published CLIP weights do


@dataclass(frozen=True, kw_only=True)
class ClipConfig:
    """The CLIP of pre-sampling (not the MLLM's tower)."""

    projection_dim: int = 768
    vision: VisionConfig = field(default_factory=lambda: VisionConfig(image_size=336))
    text: ClipTextConfig = field(default_factory=ClipTextConfig)


@dataclass(frozen=True, kw_only=True)
class ClusteringConfig:
    """Chat-UniVi's spatial token clustering: one level after the other."""

    clusters: tuple[int, ...] = (64, 32, 16)
    neighbours: tuple[int, ...] = (5, 3, 3)

    @property
    def tokens_per_image(self) -> int:
        """Number of tokens that stand for one frame in the prompt."""
        return sum(self.clusters)


@dataclass(frozen=True, kw_only=True)
class Sam2Config:
    """SAM 2.0: Hiera trunk, memory attention, mask decoder. Defaults: Hiera-L at 1024 px."""

    image_size: int = 1024
    d_model: int = 256
    memory_dim: int = 64
    embed_dim: int = 144
    num_heads: int = 2
    stages: tuple[int, ...] = (2, 6, 36, 4)
    window_spec: tuple[int, ...] = (8, 4, 16, 8)
    global_attention_blocks: tuple[int, ...] = (23, 33, 43)
    window_pos_embed_bkg_spatial_size: tuple[int, int] = (7, 7)
    memory_attention_layers: int = 4
    memory_attention_dim_feedforward: int = 2048
    decoder_dim_feedforward: int = 2048
    num_maskmem: int = 7
    max_object_pointers: int = 16


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A whole model. `out_dim` is the width of [SEG] and [TAK] and equals `sam2.d_model`.

    `frame_differences`: whether the frames' tokens hold what changes between neighbouring sampled frames; the published
    model has no such part.
    """

    language: LanguageConfig = field(default_factory=LanguageConfig)
    tower: TowerConfig = field(default_factory=TowerConfig)
    clustering: ClusteringConfig = field(default_factory=ClusteringConfig)
    clip: ClipConfig = field(default_factory=ClipConfig)
    sam2: Sam2Config = field(default_factory=Sam2Config)
    frame_differences: bool = False

    @property
    def out_dim(self) -> int:
        """Width of the [SEG] and [TAK] embeddings after projection: SAM2's prompt width."""
        return self.sam2.d_model

    def to_dict(self) -> dict[str, Any]:
        """The sizes as plain values, as `bundle.json` holds them."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> ModelConfig:
        """The inverse of `to_dict`; what is left out keeps its full-size value.

        Raises:
            ValueError: a name that the configuration does not have; the message names it.
        """
        result: ModelConfig = _from_dict(cls, values, "model")
        return result


def _from_dict(cls: Any, values: Any, path: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{path}: expected a mapping of settings, got {values!r}")
    hints = get_type_hints(cls)
    unknown = sorted(set(values) - {item.name for item in fields(cls)})
    if unknown:
        raise ValueError(f"{path}.{unknown[0]}: no such setting; known: {', '.join(sorted(hints))}")
    arguments = {}
    for name, value in values.items():
        if is_dataclass(hints[name]):
            value = _from_dict(hints[name], value, f"{path}.{name}")
        elif isinstance(value, list):
            value = tuple(value)
        arguments[name] = value
    return cls(**arguments)

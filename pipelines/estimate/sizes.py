"""The sizes of a model as a plan needs them: numbers of weights and operations, from its configuration alone, without torch."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vrshq.operators.models.bundle import Bundle, read_json
from vrshq.operators.models.config import ClipConfig, ModelConfig, Sam2Config, VisionConfig

_TABLE = Path(__file__).with_name("sizes.yaml")
# Tokens of a frame for Qwen3-VL, of a 1080p one: the most that a frame of usual shape has.
_QWEN_FRAME_TOKENS = 1530
# SAM2's mask decoder, memory encoder and pointers at `d_model` 256, in numbers.
_SAM2_HEADS = 5_800_000


@dataclass(frozen=True, kw_only=True)
class Stack:
    """A stack of transformer layers, with biases and norms left out (below a thousandth).

    Attributes:
        layers: number of layers.
        width: of the tokens.
        hidden: of the feed-forward part.
        attention: width of all query heads together.
        keys: width of all key heads together.
        gated: whether the feed-forward part has a third matrix.
    """

    layers: int
    width: int
    hidden: int
    attention: int
    keys: int
    gated: bool = False

    @property
    def weights(self) -> int:
        """Numbers in the matrices."""
        attention = 2 * self.width * (self.attention + self.keys)
        return self.layers * (attention + (3 if self.gated else 2) * self.width * self.hidden)

    def operations(self, tokens: float, context: float) -> float:
        """Operations (a product and a sum are two) for tokens that each attend to `context` tokens."""
        return 2 * self.weights * tokens + 4 * self.layers * tokens * context * self.attention

    @property
    def alive(self) -> int:
        """Numbers of a token that live at once in a layer: the hidden ones twice, or thrice if gated, and six of the width."""
        return (3 if self.gated else 2) * self.hidden + 6 * self.width

    @property
    def kept(self) -> int:
        """Numbers of keys and values of one token."""
        return 2 * self.layers * self.keys


@dataclass(frozen=True, kw_only=True)
class ModelSizes:
    """The networks of a model.

    Attributes:
        family: its name in `bundle.json`.
        decoder: the language model's layers.
        language_rest: numbers of the language part beside decoder and tower: embeddings, projections, heads.
        tower: the language part's vision tower.
        tower_tokens: tokens of a frame in the tower.
        frame_tokens: tokens of a frame in the prompt.
        suffix_tokens: tokens of an instruction behind the frames, and of its teacher-forced answer, about.
        answer_tokens: tokens that are generated one by one for an instruction, about; 0 where none is.
        clip: CLIP's image side in pre-sampling; None without one.
        clip_tokens: tokens of a frame in it.
        clip_rest: its other numbers.
        sam2: SAM2.
    """

    family: str
    decoder: Stack
    language_rest: int
    tower: Stack
    tower_tokens: int
    frame_tokens: int
    suffix_tokens: int
    answer_tokens: int
    clip: Stack | None
    clip_tokens: int
    clip_rest: int
    sam2: Sam2Config

    @property
    def weights(self) -> dict[str, int]:
        """Numbers of weights by part: language, segmenter, clip."""
        return {
            "language": self.decoder.weights + self.tower.weights + self.language_rest,
            "segmenter": sam2_weights(self.sam2),
            "clip": self.clip.weights + self.clip_rest if self.clip else 0,
        }


def sizes_of(bundle: Bundle) -> ModelSizes | None:
    """The sizes of an opened bundle; None for a family whose needs are not known."""
    if bundle.family.name == "vrs-hq":
        return _vrs_hq(bundle.model)
    if bundle.family.name == "sa2va":
        config = read_json(bundle.folder / "config.json")
        return _sa2va(config["text_config"], config["vision_config"])
    return None


def sized_models() -> list[str]:
    """Names of the models whose sizes are known without their files."""
    return list(_table())


def sizes_of_known(name: str) -> ModelSizes:
    """The sizes of one of `sized_models`."""
    row = _table()[name]
    if row["family"] == "vrs-hq":
        return _vrs_hq(ModelConfig.from_dict(row.get("model", {})))
    return _sa2va(row["text_config"], row["vision_config"])


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    rows: dict[str, dict[str, Any]] = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return rows


def _vrs_hq(model: ModelConfig) -> ModelSizes:
    language, head = model.language, model.language.hidden_size // model.language.num_heads
    width, tower, clip = language.hidden_size, model.tower, model.clip
    return ModelSizes(
        family="vrs-hq",
        decoder=Stack(
            layers=language.num_layers,
            width=width,
            hidden=language.intermediate_size,
            attention=head * language.num_heads,
            keys=head * language.num_key_value_heads,
            gated=True,
        ),
        language_rest=width * (language.vocab_size + tower.hidden_size + width + model.out_dim) + _embedded(tower),
        tower=_clip_stack(tower),
        tower_tokens=_patches(tower) + 1,
        frame_tokens=model.clustering.tokens_per_image,
        suffix_tokens=100,
        answer_tokens=0,
        clip=_clip_stack(clip.vision),
        clip_tokens=_patches(clip.vision) + 1,
        clip_rest=_clip_rest(clip),
        sam2=model.sam2,
    )


def _sa2va(text: Mapping[str, Any], vision: Mapping[str, Any]) -> ModelSizes:
    width, seen = int(text["hidden_size"]), int(vision["hidden_size"])
    head = int(text.get("head_dim") or width // text["num_attention_heads"])
    merged = 4 * seen  # 2x2 patches become one token
    mergers = 4 * merged * (merged + width)  # one for the prompt, three for the decoder's first layers
    patches = seen * (3 * 2 * 16 * 16 + int(vision.get("num_position_embeddings", 2304)))
    return ModelSizes(
        family="sa2va",
        decoder=Stack(
            layers=text["num_hidden_layers"],
            width=width,
            hidden=text["intermediate_size"],
            attention=head * text["num_attention_heads"],
            keys=head * text["num_key_value_heads"],
            gated=True,
        ),
        language_rest=2 * width * text["vocab_size"] + width * (width + 256) + mergers + patches,
        tower=Stack(layers=vision["depth"], width=seen, hidden=vision["intermediate_size"], attention=seen, keys=seen),
        tower_tokens=4 * _QWEN_FRAME_TOKENS,
        frame_tokens=_QWEN_FRAME_TOKENS,
        suffix_tokens=50,
        answer_tokens=16,
        clip=None,
        clip_tokens=0,
        clip_rest=0,
        sam2=Sam2Config(),
    )


def _clip_stack(vision: VisionConfig) -> Stack:
    width = vision.hidden_size
    return Stack(layers=vision.num_layers, width=width, hidden=vision.intermediate_size, attention=width, keys=width)


def _patches(vision: VisionConfig) -> int:
    return (vision.image_size // vision.patch_size) ** 2


def _embedded(vision: VisionConfig) -> int:
    """Numbers that embed the patches of a CLIP's image side."""
    return vision.hidden_size * (3 * vision.patch_size**2 + _patches(vision) + 2)


def _clip_rest(clip: ClipConfig) -> int:
    text = clip.text
    layers = Stack(
        layers=text.num_layers,
        width=text.hidden_size,
        hidden=text.intermediate_size,
        attention=text.hidden_size,
        keys=text.hidden_size,
    )
    projections = clip.projection_dim * (text.hidden_size + clip.vision.hidden_size)
    return (
        layers.weights
        + text.hidden_size * (text.vocab_size + text.max_positions)
        + projections
        + _embedded(clip.vision)
    )


def trunk_levels(sam2: Sam2Config) -> list[tuple[int, int, int]]:
    """SAM2's trunk by level: (blocks, width, tokens of a frame)."""
    side = sam2.image_size // 4
    return [(blocks, sam2.embed_dim << level, (side >> level) ** 2) for level, blocks in enumerate(sam2.stages)]


def sam2_weights(sam2: Sam2Config) -> int:
    """Numbers in SAM2."""
    trunk = sum(12 * blocks * width**2 for blocks, width, _ in trunk_levels(sam2))
    neck = sam2.d_model * sum(width for _, width, _ in trunk_levels(sam2))
    d, memory = sam2.d_model, sam2.memory_dim
    layer = 6 * d**2 + 2 * d * memory + 2 * d * sam2.memory_attention_dim_feedforward
    heads = _SAM2_HEADS * (d / 256) ** 2
    return int(trunk + neck + sam2.memory_attention_layers * layer + heads)

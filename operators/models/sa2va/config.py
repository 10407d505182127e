"""The sizes of a Sa2VA model and the constants of its reference, from the published `config.json`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vrshq.operators.models.config import Sam2Config

# Which output of the last decoder layer is the state of [SEG].
State = Literal["before_norm", "after_norm"]


@dataclass(frozen=True, kw_only=True)
class Sa2vaSam2Config(Sam2Config):
    """SAM2's sizes. `iou_head_hidden_dim`: width of the head that predicts the IoU of a mask."""

    iou_head_hidden_dim: int = 256


@dataclass(frozen=True, kw_only=True)
class Sa2vaConfig:
    """A Sa2VA model.

    Attributes:
        language: `text_config` of the published `config.json`.
        vision: `vision_config` of it.
        image_token_id: id of the placeholder of a picture's patches.
        min_pixels, max_pixels: area of a picture after the second resize, in pixels.
        state: the state of [SEG]. The published weights should expect the output of the last layer before the final norm:
            transformers 4.57, with which they were trained, has no normalised one in its hidden states.
        sam2: sizes of SAM2.
    """

    language: dict[str, Any]
    vision: dict[str, Any]
    image_token_id: int
    min_pixels: int = 512 * 784
    max_pixels: int = 2048 * 784
    state: State = "before_norm"
    sam2: Sa2vaSam2Config = field(default_factory=Sa2vaSam2Config)

    def __post_init__(self) -> None:
        if self.state not in ("before_norm", "after_norm"):
            raise ValueError(f"state {self.state!r}: expected before_norm or after_norm")

    @property
    def end_token_id(self) -> int:
        """The token that ends an answer; `generation_config.json` has no say in it."""
        return int(self.language["eos_token_id"])

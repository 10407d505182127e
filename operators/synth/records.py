"""What a synthetic video is, once made: frames, masks, objects and expressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("referring", "attribute", "motion", "absent")
TYPE_IDS = {"referring": 0, "attribute": 1, "motion": 1, "absent": 2}


@dataclass(frozen=True, eq=False)
class SynthObject:
    """One object of a video, and what it does in its T frames.

    Places are of the centre of its outline (x, y), also where it is hidden or out of the frame.

    Attributes:
        object_id: its number in the video, from 0, from back to front.
        colour, shape: names in `COLOURS` and `SHAPES`.
        texture: name in `drawing.TEXTURES`.
        program: what its path was made as (`motion.Path.program`).
        centre: (T, 2) float64, pixels in the image.
        world: (T, 2) float64, short sides, relative to the background.
        radius: (T,) float64, pixels in the image, of a disc as large as it would be if it were a plain filled shape.
        scale: (T,) float64, its own growth, without the camera's.
        angle: (T,) float64, degrees clockwise, that it has turned by.
        area: (T,) float64, pixels of its whole outline, wherever it is.
        inside: (T,) float64, pixels of it in the frame, as if nothing were in front; 0 where it is absent.
        visible: (T,) float64, the same, less what objects in front cover.
        hidden_by: (n, T) float64, share of `inside` that each object of the video covers.
    """

    object_id: int
    colour: str
    shape: str
    texture: str
    program: str
    centre: np.ndarray
    world: np.ndarray
    radius: np.ndarray
    scale: np.ndarray
    angle: np.ndarray
    area: np.ndarray
    inside: np.ndarray
    visible: np.ndarray
    hidden_by: np.ndarray


@dataclass(frozen=True)
class Expression:
    """One instruction and its truth.

    Attributes:
        expression_id: decimal number, from 0 in the video.
        text: the instruction.
        kind: referring | attribute | motion | absent.
        subtype: which rule of `rules.RULES` it is true by, e.g. "fastest".
        asks: the kind of that rule: the kind, but for an absent one what it asks for.
        wording: the pattern of its text, before names are filled in and letters capitalised.
        object_ids: the objects meant, ascending; none for an absent one.
        names: colour, shape, reference, heading and so on that the rule was asked with.
    """

    expression_id: str
    text: str
    kind: str
    subtype: str
    asks: str
    wording: str
    object_ids: tuple[int, ...]
    names: dict[str, Any]

    @property
    def type_id(self) -> int:
        """ReVOS's number of the kind: 0 referring, 1 reasoning (attribute, motion), 2 no target."""
        return TYPE_IDS[self.kind]


@dataclass(frozen=True, eq=False)
class SynthVideo:
    """A video and all truth about it.

    Attributes:
        video_id: "<split>_<index>".
        frames: (T, H, W, 3) uint8 RGB.
        masks: (n, T, H, W) bool, visible part of each object (see `coverage.Layers.masks`); no two overlap.
        objects, expressions: in the order of their ids.
        background, camera, light, theme: how the scene was made; `effects` names blur, motion blur and noise, if any.
    """

    video_id: str
    split: str
    frames: np.ndarray
    masks: np.ndarray
    objects: tuple[SynthObject, ...]
    expressions: tuple[Expression, ...]
    background: str
    camera: str
    light: str
    theme: str
    effects: tuple[str, ...]

    def truth(self, expression: Expression) -> np.ndarray:
        """(T, H, W) bool: the mask that answers an expression."""
        return np.asarray(self.masks[list(expression.object_ids)].any(axis=0))

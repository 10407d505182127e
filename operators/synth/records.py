"""Records of a finished synthetic video: frames, masks, objects and expressions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

KINDS = ("referring", "attribute", "motion", "absent")
TYPE_IDS = {"referring": 0, "attribute": 1, "motion": 1, "absent": 2}


@dataclass(frozen=True, eq=False)
class SynthObject:
    """One object of a video and its state in the T frames.

    A position is the centre x, y of the outline, also in frames where the object is hidden or outside the frame.

    Attributes:
        object_id: the object's number in the video, from 0 at the back.
        colour, shape: names in `COLOURS` and `SHAPES`.
        texture: name in `drawing.TEXTURES`.
        program: the kind of motion (`motion.Path.program`).
        centre: (T, 2) float64, position in the image, in pixels.
        world: (T, 2) float64, position relative to the background, in short sides.
        radius: (T,) float64, radius in the image, in pixels, as `SynthConfig.radius` defines it.
        scale: (T,) float64, factor of the object's own growth, without the camera's zoom.
        angle: (T,) float64, rotation in degrees, clockwise.
        area: (T,) float64, pixels of the whole outline, inside and outside the frame.
        inside: (T,) float64, pixels that the object covers in the frame, without occlusion; 0 where it is absent.
        visible: (T,) float64, pixels that the object covers in the frame, less those that objects in front cover.
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
    """One instruction and its true answer.

    Attributes:
        expression_id: a decimal number as text, from 0 in the video.
        text: the instruction.
        kind: `referring`, `attribute`, `motion` or `absent`.
        subtype: the rule in `rules.RULES` that decides the answer, e.g. "fastest".
        asks: the kind of that rule; it differs from `kind` in absent instructions only.
        wording: the pattern of the text, before its slots are filled and letters are capitalised.
        object_ids: the objects that are meant, ascending; empty for an absent instruction.
        names: the names that the rule is asked with: colour, shape, reference, heading and so on.
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
        """The number of the kind in ReVOS: 0 referring, 1 reasoning (attribute, motion), 2 no target."""
        return TYPE_IDS[self.kind]


@dataclass(frozen=True, eq=False)
class SynthVideo:
    """A video and its ground truth.

    Attributes:
        video_id: "<split>_<index>".
        split: a name in `SPLITS`.
        frames: (T, H, W, 3) uint8 RGB.
        masks: (n, T, H, W) bool, the visible part of each object (see `coverage.Layers.masks`); masks do not overlap.
        objects, expressions: in the order of their ids.
        background: a key of `background.KINDS`.
        camera: the kind of the camera's motion (`camera.Camera.kind`).
        light: the kind of the light's change (`drawing.Lens.light`).
        theme: a key of `scene.THEMES`.
        effects: the effects in use, of blur, motion blur and noise.
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
        """The mask (T, H, W) bool that answers an expression."""
        return np.asarray(self.masks[list(expression.object_ids)].any(axis=0))

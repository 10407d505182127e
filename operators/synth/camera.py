"""The camera: what part of the world a frame shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Camera:
    """The motion of the camera.

    Attributes:
        kind: still, pan, zoom or shake.
        shift: (T, 2) float64, the world place at the frame's centre, in short sides.
        zoom: (T,) float64, magnification.
    """

    kind: str
    shift: np.ndarray
    zoom: np.ndarray

    def seen(self, place: np.ndarray) -> np.ndarray:
        """World places (T, 2) in the frame, in short sides from its centre."""
        seen: np.ndarray = (place - self.shift) * self.zoom[:, None]
        return seen


def draw_camera(random: np.random.Generator, time: np.ndarray, effects: float) -> Camera:
    """A camera over frames at `time` (T,) 0..1; it is still in most videos."""
    frames = len(time)
    shift, zoom = np.zeros((frames, 2)), np.ones(frames)
    kind = str(random.choice(["pan", "zoom", "shake", "still"], p=_chances(effects)))
    if kind == "pan":
        angle, way = random.uniform(0, 2 * np.pi), random.uniform(0.1, 0.28)
        shift = way * (time - 0.5)[:, None] * [np.cos(angle), np.sin(angle)]
    elif kind == "zoom":
        zoom = np.exp(random.choice([-1, 1]) * np.log(random.uniform(1.1, 1.25)) * (time - 0.5))
    elif kind == "shake":
        shift = random.uniform(-0.006, 0.006, size=(frames, 2))
    return Camera(kind, shift, zoom)


def _chances(effects: float) -> list[float]:
    moving = [0.12 * effects, 0.08 * effects, 0.14 * effects]
    return [*moving, 1 - sum(moving)]

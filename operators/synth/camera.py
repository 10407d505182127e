"""The camera: the part of the scene that each frame shows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, eq=False)
class Camera:
    """The motion of the camera.

    Attributes:
        kind: `still`, `pan`, `zoom` or `shake`.
        shift: (T, 2) float64, the scene's position x, y at the frame's centre, in short sides.
        zoom: (T,) float64, the magnification.
    """

    kind: str
    shift: np.ndarray
    zoom: np.ndarray

    def seen(self, place: np.ndarray) -> np.ndarray:
        """Converts positions in the scene, `place` (T, 2), to positions in the frame, in short sides from its centre."""
        seen: np.ndarray = (place - self.shift) * self.zoom[:, None]
        return seen


def draw_camera(random: np.random.Generator, time: np.ndarray, effects: float) -> Camera:
    """Draws the motion of a camera; most cameras stand still.

    Args:
        random: source of all random numbers.
        time: (T,) the time of each frame, 0 to 1.
        effects: factor, 0 to 1, on the probability of motion.
    """
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
    """Probabilities of pan, zoom, shake and still."""
    moving = [0.12 * effects, 0.08 * effects, 0.14 * effects]
    return [*moving, 1 - sum(moving)]

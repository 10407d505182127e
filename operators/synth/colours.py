"""Colours that have an undisputed name, and the visible difference between two colours."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Colour:
    """A colour name and the ranges (least, most) of HSV in which everybody uses it.

    Attributes:
        hue: degrees; may exceed 360.
        saturation: 0 to 1.
        value: 0 to 1.
        words: the name, then its synonyms.
        like: things that have this colour and no other colour of `COLOURS`.
        warm: whether it counts as a warm colour; None where people disagree.
        core: whether it is one of the most common colours.
    """

    hue: tuple[float, float]
    saturation: tuple[float, float]
    value: tuple[float, float]
    words: tuple[str, ...]
    like: tuple[str, ...]
    warm: bool | None
    core: bool = False


COLOURS: dict[str, Colour] = {
    "red": Colour((354, 364), (0.80, 1.0), (0.72, 0.95), ("red",), ("a ripe tomato", "blood"), True, core=True),
    "green": Colour((100, 138), (0.65, 1.0), (0.50, 0.85), ("green",), ("grass", "a leaf"), None, core=True),
    "blue": Colour((216, 236), (0.72, 1.0), (0.62, 0.98), ("blue",), ("the sea", "blue jeans"), False, core=True),
    "yellow": Colour((51, 58), (0.78, 1.0), (0.90, 1.0), ("yellow",), ("a lemon", "a ripe banana"), True, core=True),
    "purple": Colour(
        (268, 286), (0.62, 0.95), (0.52, 0.82), ("purple", "violet"), ("an eggplant", "a grape"), None, core=True
    ),
    "orange": Colour((23, 32), (0.88, 1.0), (0.92, 1.0), ("orange",), ("a carrot", "a pumpkin"), True, core=True),
    "cyan": Colour((178, 188), (0.70, 1.0), (0.82, 1.0), ("cyan", "turquoise"), (), False, core=True),
    "white": Colour((0, 360), (0.0, 0.04), (0.94, 1.0), ("white",), ("snow", "milk"), None, core=True),
    "black": Colour((0, 360), (0.0, 0.2), (0.03, 0.12), ("black",), ("coal", "the night"), None),
    "pink": Colour((326, 340), (0.38, 0.58), (0.95, 1.0), ("pink",), ("a flamingo", "a pig"), None),
    "brown": Colour((18, 26), (0.62, 0.80), (0.34, 0.46), ("brown",), ("chocolate", "wood"), None),
    "gray": Colour((0, 360), (0.0, 0.05), (0.44, 0.56), ("gray", "grey"), ("an elephant", "ash"), None),
}


def draw_colour(random: np.random.Generator, name: str) -> np.ndarray:
    """Draws a colour of the given name: (3,) float32 RGB in 0..255."""
    colour = COLOURS[name]
    hue = random.uniform(*colour.hue) % 360
    return rgb(hue, random.uniform(*colour.saturation), random.uniform(*colour.value))


def rgb(hue: float, saturation: float, value: float) -> np.ndarray:
    """Converts HSV to RGB, after A. R. Smith, "Color Gamut Transform Pairs", SIGGRAPH 1978.

    Args:
        hue: degrees.
        saturation: 0 to 1.
        value: 0 to 1.

    Returns:
        (3,) float32 RGB in 0..255.
    """
    # all channels are the same function of the hue, with different phases
    phase = (np.array([5.0, 3.0, 1.0]) + hue / 60) % 6
    channels = value - value * saturation * np.clip(np.minimum(phase, 4 - phase), 0, 1)
    return (255 * channels).astype(np.float32)


def called(colour: np.ndarray) -> set[str]:
    """All names that somebody could give to a colour (3,) RGB in 0..255; the ranges are wider than in `COLOURS`."""
    largest, smallest = float(colour.max()) / 255, float(colour.min()) / 255
    saturation = 1 - smallest / largest if largest else 0.0
    if saturation < 0.2:
        return {
            name
            for name, low, high in (("black", 0.0, 0.3), ("gray", 0.2, 0.85), ("white", 0.75, 1.01))
            if low <= largest < high
        }
    hue = np.degrees(np.arctan2(np.sqrt(3) * (colour[1] - colour[2]), 2 * colour[0] - colour[1] - colour[2]))
    near = {
        name
        for name, entry in COLOURS.items()
        if name not in ("black", "gray", "white")
        and abs((hue - np.mean(entry.hue) + 180) % 360 - 180) <= (entry.hue[1] - entry.hue[0]) / 2 + 30
    }
    return near | ({"black"} if largest < 0.3 else set()) | ({"gray"} if saturation < 0.35 else set())


def lab(colours: np.ndarray) -> np.ndarray:
    """Converts RGB colours (n, 3) in 0..255 to CIE L*a*b*, (n, 3) float32."""
    image = np.clip(colours, 0, 255).astype(np.float32)[None] / np.float32(255)
    converted: np.ndarray = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)[0]
    return converted


def distance(some: np.ndarray, others: np.ndarray) -> float:
    """The smallest CIE76 difference between a colour of `some` (m, 3) and one of `others` (n, 3), RGB in 0..255.

    CIE76 is the Euclidean distance in CIE L*a*b*. A difference of about 2.3 is just visible.
    """
    values = lab(np.concatenate([some, others]))
    steps = values[: len(some), None] - values[None, len(some) :]
    return float(np.sqrt((steps**2).sum(axis=-1)).min())

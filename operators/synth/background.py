"""Backgrounds: one canvas per video. It is larger than the frame by a margin, which a moving camera shows."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np

from vrshq.operators.synth.colours import distance, rgb

MARGIN = 0.2  # width of the margin around the frame, relative to the frame's shorter side
DIFFERENT = 34.0  # least CIE76 difference between an object's colour and the background's colours

Random = np.random.Generator


def draw_background(random: Random, height: int, width: int, avoid: np.ndarray) -> tuple[str, np.ndarray]:
    """Draws a background.

    Args:
        random: source of all random numbers.
        height: height of the frame, in pixels.
        width: width of the frame, in pixels.
        avoid: (n, 3) RGB in 0..255, the objects' colours, from which the background's colours keep a distance.

    Returns:
        The kind, a key of `KINDS`, and a canvas (H + 2m, W + 2m, 3) float32 RGB in 0..255 with m = `margin_pixels`.
    """
    margin = margin_pixels(height, width)
    size = (height + 2 * margin, width + 2 * margin)
    kind = str(random.choice(list(KINDS), p=np.array([0.12, 0.13, 0.16, 0.11, 0.11, 0.17, 0.2])))
    dark, light = _two_colours(random, avoid)
    mixture = np.clip(KINDS[kind](random, *size), 0, 1).astype(np.float32)
    canvas = dark + (light - dark) * mixture[:, :, None]
    if kind == "photo":
        canvas += (_octaves(random, *size, first=24) - 0.5)[:, :, None] * np.float32(random.uniform(10, 26))
    return kind, np.clip(canvas, 0, 255).astype(np.float32)


def margin_pixels(height: int, width: int) -> int:
    """Width of the canvas's margin around the frame, in pixels."""
    return round(MARGIN * min(height, width))


def _two_colours(random: Random, avoid: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Draws two colours (3,) RGB whose mixtures differ from the objects' colours; most are nearly grey.

    The result is the first of 24 pairs that keeps the distance `DIFFERENT`, or else the pair with the largest distance.
    """
    best, best_gap = (rgb(0, 0, 0.5), rgb(0, 0, 0.5)), -1.0
    for _ in range(24):
        hue = random.uniform(0, 360)
        full = random.random() < 0.25
        saturation = random.uniform(0.3, 0.6) if full else random.uniform(0.0, 0.28)
        value = random.uniform(0.12, 0.98)
        other = np.clip(value + random.choice([-1, 1]) * random.uniform(0.06, 0.24), 0.05, 1)
        one = rgb(hue, saturation, value)
        two = rgb((hue + random.uniform(-40, 40)) % 360, saturation * random.uniform(0.5, 1.2), float(other))
        gap = distance(np.stack([one, (one + two) / 2, two]), avoid)
        if gap >= DIFFERENT:
            return one, two
        if gap > best_gap:
            best, best_gap = (one, two), gap
    return best


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Pixel coordinates y (H, 1) and x (1, W) from the centre, in units of the shorter side."""
    short = min(height, width)
    y = (np.arange(height, dtype=np.float32) - height / 2) / short
    x = (np.arange(width, dtype=np.float32) - width / 2) / short
    return y[:, None], x[None]


def _turned(random: Random, height: int, width: int) -> np.ndarray:
    """The pixel coordinate (H, W) along a random direction, in units of the shorter side."""
    y, x = _grid(height, width)
    angle = random.uniform(0, np.pi)
    turned: np.ndarray = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    return turned


def _flat(_: Random, height: int, width: int) -> np.ndarray:
    return np.zeros((height, width))


def _gradient(random: Random, height: int, width: int) -> np.ndarray:
    if random.random() < 0.5:
        return _turned(random, height, width) + 0.5
    y, x = _grid(height, width)
    centre = random.uniform(-0.4, 0.4, size=2)
    distant: np.ndarray = np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2) * random.uniform(0.8, 1.4)
    return distant


def _layer(random: Random, height: int, width: int, cells: int) -> np.ndarray:
    """Smooth noise (H, W) in 0..1 with about `cells` cells along the shorter side."""
    short = min(height, width)
    rows, columns = max(2, round(cells * height / short)), max(2, round(cells * width / short))
    small = random.random((rows, columns), dtype=np.float32)
    layer: np.ndarray = np.clip(cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC), 0, 1)
    return layer


def _octaves(random: Random, height: int, width: int, first: int = 3) -> np.ndarray:
    """Sum (H, W) of up to five layers of noise in 0..1. Each has twice the cells and 0.6 of the weight of the one before."""
    limit = min(height, width) // 2
    layers = [(0.6**n, cells) for n, cells in enumerate(first * 2**n for n in range(5)) if cells <= limit or n == 0]
    total = sum(weight for weight, _ in layers)
    mixture = np.zeros((height, width), np.float32)
    for weight, cells in layers:
        mixture += _layer(random, height, width, cells) * np.float32(weight / total)
    return mixture


def _noise(random: Random, height: int, width: int) -> np.ndarray:
    return (_octaves(random, height, width, first=int(random.integers(3, 14))) - 0.5) * 1.8 + 0.5


def _stripes(random: Random, height: int, width: int) -> np.ndarray:
    wave = np.sin(_turned(random, height, width) * np.float32(2 * np.pi * random.uniform(3, 11)))
    stripes: np.ndarray = wave * random.choice([0.5, 4.0]) + 0.5
    return stripes


def _checks(random: Random, height: int, width: int) -> np.ndarray:
    y, x = _grid(height, width)
    cells = random.uniform(4, 10)
    return (np.floor(y * cells) + np.floor(x * cells)) % 2


def _blobs(random: Random, height: int, width: int) -> np.ndarray:
    """Blurred discs."""
    short = min(height, width)
    canvas = np.zeros((height, width), np.float32)
    for _ in range(int(random.integers(5, 16))):
        centre = (int(random.integers(width)), int(random.integers(height)))
        cv2.circle(canvas, centre, int(short * random.uniform(0.05, 0.28)), float(random.uniform(0.2, 1)), -1)
    blurred: np.ndarray = cv2.GaussianBlur(canvas, (0, 0), short * random.uniform(0.025, 0.08))
    return blurred


def _photo(random: Random, height: int, width: int) -> np.ndarray:
    """A textured ground and a textured sky, with an uneven horizon between them."""
    y, _ = _grid(height, width)
    horizon = random.uniform(-0.3, 0.3) + 0.25 * (_layer(random, height, width, 3)[:1] - 0.5)
    ground = 1 / (1 + np.exp(-(y - horizon) * random.uniform(15, 60)))
    mixture: np.ndarray = 0.55 * ground + 0.45 * _octaves(random, height, width, first=int(random.integers(3, 8)))
    return mixture


KINDS: dict[str, Callable[[Random, int, int], np.ndarray]] = {
    "flat": _flat,
    "gradient": _gradient,
    "noise": _noise,
    "stripes": _stripes,
    "checks": _checks,
    "blobs": _blobs,
    "photo": _photo,
}

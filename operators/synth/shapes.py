"""Shapes: their outlines, and facts such as sides, corners, rolling and likeness."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

Contours = list[np.ndarray]


@dataclass(frozen=True)
class Shape:
    """Facts about one shape. A fact that people could dispute is None, and no instruction depends on it.

    Attributes:
        words: the name, then its synonyms.
        plural: plural of the name.
        like: things that look like this shape and like no other shape.
        sides: number of straight sides; None for shapes whose sides people do not count.
        corners: whether the shape has corners.
        rolls: whether an object of the shape would roll.
        round: whether the shape is round.
        hole: whether the shape has a hole.
        points: whether the shape has several spikes.
        spins: whether its rotation is visible.
        solid: whether the shape has no gaps, so that it hides objects behind it.
        core: whether the shape is drawn more often than others.
        least_radius: in short sides; a smaller object could be taken for another shape.
    """

    words: tuple[str, ...]
    plural: str
    like: tuple[str, ...]
    sides: int | None
    corners: bool | None
    rolls: bool | None
    round: bool | None
    hole: bool = False
    points: bool | None = False
    spins: bool = True
    solid: bool = True
    core: bool = False
    least_radius: float = 0.0


SHAPES: dict[str, Shape] = {
    "circle": Shape(
        ("circle", "disc"), "circles", ("a ball", "a coin"), None, False, True, True, spins=False, core=True
    ),
    "square": Shape(("square",), "squares", ("a box", "a tile"), 4, True, False, False, core=True),
    "triangle": Shape(
        ("triangle",), "triangles", ("a slice of pizza", "a tent"), 3, True, False, False, points=None, core=True
    ),
    "star": Shape(("star",), "stars", ("a starfish",), None, True, False, False, points=True, solid=False, core=True),
    "ring": Shape(
        ("ring", "donut"),
        "rings",
        ("a tire", "a hoop"),
        None,
        False,
        True,
        True,
        hole=True,
        spins=False,
        solid=False,
        core=True,
    ),
    "cross": Shape(
        ("cross", "plus"), "crosses", ("a plus sign",), None, True, False, False, points=None, solid=False, core=True
    ),
    "pentagon": Shape(("pentagon",), "pentagons", (), 5, True, None, None, least_radius=0.13),
    "hexagon": Shape(("hexagon",), "hexagons", ("a honeycomb cell",), 6, True, None, None, least_radius=0.13),
    "heart": Shape(("heart",), "hearts", ("a sign of love",), None, None, None, False, points=None),
    "crescent": Shape(
        ("crescent", "moon"), "crescents", ("the moon",), None, None, None, None, points=None, solid=False
    ),
    "diamond": Shape(("diamond", "rhombus"), "diamonds", ("a kite",), 4, True, False, False, points=None),
    "arrow": Shape(
        ("arrow",), "arrows", ("something that shows the way",), None, True, False, False, points=None, solid=False
    ),
    "ellipse": Shape(("ellipse", "oval"), "ellipses", ("an egg",), None, False, None, None),
    "rectangle": Shape(("rectangle",), "rectangles", ("a door", "a brick"), 4, True, False, False),
}
# The pairs that only the split test_unseen has: one colour of each shape.
UNSEEN_PAIRS = frozenset(
    {
        ("purple", "circle"),
        ("orange", "square"),
        ("cyan", "triangle"),
        ("blue", "star"),
        ("yellow", "ring"),
        ("white", "cross"),
        ("red", "pentagon"),
        ("green", "hexagon"),
        ("yellow", "heart"),
        ("red", "crescent"),
        ("blue", "diamond"),
        ("green", "arrow"),
        ("orange", "ellipse"),
        ("cyan", "rectangle"),
    }
)


def outline(random: np.random.Generator, name: str) -> Contours:
    """Draws the outline of a shape: closed contours (K, 2) float64, x to the right and y down, for even-odd filling.

    Proportions vary within the range in which the name fits. The origin is the centroid of the outer contour. Solid shapes
    have the area of the unit disc; shapes with gaps or spikes have a similar extent.
    """
    contours = _DRAW[name](random)
    outer = contours[0]
    area, centre = _area_and_centre(outer)
    fill = {"star": 0.62, "cross": 0.68, "crescent": 0.66, "arrow": 0.6, "ring": 1.0}.get(name, 1.0)
    scale = np.sqrt(np.pi * fill / area)
    return [(contour - centre) * scale for contour in contours]


def _area_and_centre(points: np.ndarray) -> tuple[float, np.ndarray]:
    """Area and centroid (2,) of a polygon (K, 2), by the shoelace formula."""
    following = np.roll(points, -1, axis=0)
    cross = points[:, 0] * following[:, 1] - following[:, 0] * points[:, 1]
    centre = ((points + following) * cross[:, None]).sum(axis=0) / (3 * cross.sum())
    return abs(float(cross.sum())) / 2, centre


def _round(radius: float = 1.0, count: int = 56) -> np.ndarray:
    """A circle, as a polygon of `count` vertices."""
    angle = np.arange(count) * (2 * np.pi / count)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _regular(count: int) -> np.ndarray:
    """A regular polygon with circumradius 1 that stands on a side."""
    angle = (np.arange(count) + 0.5) * (2 * np.pi / count) + np.pi / 2
    return np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _circle(_: np.random.Generator) -> Contours:
    return [_round()]


def _ellipse(random: np.random.Generator) -> Contours:
    return [_round() * [1.0, random.uniform(0.52, 0.64)]]


def _ring(random: np.random.Generator) -> Contours:
    return [_round(), _round(random.uniform(0.48, 0.64))]


def _square(_: np.random.Generator) -> Contours:
    return [np.array([[-1.0, -1], [1, -1], [1, 1], [-1, 1]])]


def _rectangle(random: np.random.Generator) -> Contours:
    return [_square(random)[0] * [1.0, random.uniform(0.42, 0.55)]]


def _triangle(random: np.random.Generator) -> Contours:
    return [_regular(3) * [1.0, random.uniform(0.9, 1.12)]]


def _pentagon(_: np.random.Generator) -> Contours:
    return [_regular(5)]


def _hexagon(_: np.random.Generator) -> Contours:
    return [_regular(6)]


def _diamond(random: np.random.Generator) -> Contours:
    # clearly longer than wide, so that a rotated square is no diamond
    return [np.array([[0.0, -1], [random.uniform(0.54, 0.66), 0], [0, 1], [-0.6, 0]])]


def _star(random: np.random.Generator) -> Contours:
    angle = np.arange(10) * (np.pi / 5) - np.pi / 2
    radius = np.where(np.arange(10) % 2 == 0, 1.0, random.uniform(0.38, 0.47))
    return [radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)]


def _cross(random: np.random.Generator) -> Contours:
    w = random.uniform(0.30, 0.38)
    corner = np.array([[-w, -1.0], [w, -1], [w, -w], [1, -w], [1, w], [w, w], [w, 1], [-w, 1], [-w, w]])
    return [np.concatenate([corner, [[-1.0, w], [-1, -w], [-w, -w]]])]


def _heart(_: np.random.Generator) -> Contours:
    # MathWorld, "Heart Curve"
    t = np.arange(56) * (2 * np.pi / 56)
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.stack([x, -y], axis=1)]


def _crescent(random: np.random.Generator) -> Contours:
    # the unit disc minus a second disc: the outer arc from tip to tip, then back along the inner circle
    shift, inner = random.uniform(0.42, 0.55), 0.86
    x = (1 - inner**2 + shift**2) / (2 * shift)
    tip = np.arccos(x)
    outer = np.linspace(tip, 2 * np.pi - tip, 40)
    tip_inside = np.arctan2(np.sqrt(1 - x**2), x - shift)
    back = np.linspace(2 * np.pi - tip_inside, tip_inside, 32)[1:-1]
    arc = np.stack([np.cos(outer), np.sin(outer)], axis=1)
    return [np.concatenate([arc, np.stack([shift + inner * np.cos(back), inner * np.sin(back)], axis=1)])]


def _arrow(random: np.random.Generator) -> Contours:
    w, neck = random.uniform(0.24, 0.32), random.uniform(-0.05, 0.15)
    return [np.array([[1.0, 0], [neck, -0.8], [neck, -w], [-1, -w], [-1, w], [neck, w], [neck, 0.8]])]


_DRAW: dict[str, Callable[[np.random.Generator], Contours]] = {
    "circle": _circle,
    "square": _square,
    "triangle": _triangle,
    "star": _star,
    "ring": _ring,
    "cross": _cross,
    "pentagon": _pentagon,
    "hexagon": _hexagon,
    "heart": _heart,
    "crescent": _crescent,
    "diamond": _diamond,
    "arrow": _arrow,
    "ellipse": _ellipse,
    "rectangle": _rectangle,
}

"""Motion of objects: paths over a video. Lengths are in short sides; the origin is the frame's centre, and y points down."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

DIRECTIONS = {"left": (-1.0, 0.0), "right": (1.0, 0.0), "up": (0.0, -1.0), "down": (0.0, 1.0)}


@dataclass(frozen=True, eq=False)
class Path:
    """The motion of one object over T frames.

    Attributes:
        program: the kind of motion, e.g. "line".
        place: (T, 2) float64, the centre x, y.
        scale: (T,) float64, factor on the object's radius.
        angle: (T,) float64, rotation in radians, clockwise in the image.
        present: (T,) bool, whether the object exists.
    """

    program: str
    place: np.ndarray
    scale: np.ndarray
    angle: np.ndarray
    present: np.ndarray


@dataclass(frozen=True, eq=False)
class PathInputs:
    """The inputs of a path.

    Attributes:
        time: (T,) the time of each frame, 0 to 1.
        half: (2,) half of the frame's width and height.
        anchor: (2,) a position x, y that the path lies near.
        radius: the object's radius.
    """

    time: np.ndarray
    half: np.ndarray
    anchor: np.ndarray
    radius: float

    @property
    def room(self) -> np.ndarray:
        """(2,) half extents of the region in which the centre keeps the object almost wholly inside the frame."""
        return np.maximum(self.half - 0.9 * self.radius, 0.02)


def _path(program: str, inputs: PathInputs, place: np.ndarray) -> Path:
    frames = len(inputs.time)
    return Path(program, place, np.ones(frames), np.zeros(frames), np.ones(frames, dtype=bool))


def _direction(random: np.random.Generator) -> np.ndarray:
    """Draws a unit vector. Most lie close to an axis, so that people would call them left, right, up or down."""
    if random.random() < 0.12:
        angle = random.uniform(0, 2 * np.pi)
    else:
        angle = random.integers(4) * np.pi / 2 + random.uniform(-0.2, 0.2)
    return np.array([np.cos(angle), np.sin(angle)])


def _run(inputs: PathInputs, direction: np.ndarray, length: float) -> tuple[np.ndarray, np.ndarray]:
    """Start and end (2,) of a segment of at most `length` in a direction, near the anchor and inside the room."""
    reach = np.minimum(length * np.abs(direction), 2 * inputs.room)
    # the tighter of both axes' limits, so that the direction is kept
    scale = min(reach[axis] / abs(direction[axis]) for axis in (0, 1) if abs(direction[axis]) > 1e-6)
    half = direction * scale / 2
    middle = np.clip(inputs.anchor, -inputs.room + np.abs(half), inputs.room - np.abs(half))
    return middle - half, middle + half


def _between(begin: np.ndarray, end: np.ndarray, share: np.ndarray) -> np.ndarray:
    """Positions (T, 2) at the shares (T,) of the way from `begin` to `end`."""
    between: np.ndarray = begin + (end - begin) * share[:, None]
    return between


def still(inputs: PathInputs, _: np.random.Generator) -> Path:
    """Rest."""
    return _path("still", inputs, np.repeat(inputs.anchor[None], len(inputs.time), axis=0))


def line(
    inputs: PathInputs, random: np.random.Generator, length: float | None = None, heading: str | None = None
) -> Path:
    """Straight motion at constant speed, of the given length and heading or of random ones."""
    direction = np.array(DIRECTIONS[heading]) if heading else _direction(random)
    length = length if length is not None else random.uniform(0.25, 0.85)
    begin, end = _run(inputs, direction, length)
    return _path("line", inputs, _between(begin, end, inputs.time))


def stop(inputs: PathInputs, random: np.random.Generator) -> Path:
    """Straight motion at constant speed, then rest."""
    begin, end = _run(inputs, _direction(random), random.uniform(0.3, 0.8))
    return _path("stop", inputs, _between(begin, end, np.minimum(inputs.time / random.uniform(0.4, 0.6), 1)))


def start(inputs: PathInputs, random: np.random.Generator) -> Path:
    """Rest, then straight motion at constant speed."""
    begin, end = _run(inputs, _direction(random), random.uniform(0.3, 0.8))
    first = random.uniform(0.4, 0.6)
    return _path("start", inputs, _between(begin, end, np.maximum((inputs.time - first) / (1 - first), 0)))


def bounce(inputs: PathInputs, random: np.random.Generator) -> Path:
    """Straight motion back and forth, once or twice."""
    begin, end = _run(inputs, _direction(random), random.uniform(0.3, 0.7))
    turns = 2 if len(inputs.time) >= 16 and random.random() < 0.5 else 1
    phase = (inputs.time * turns) % 1
    phase[-1] = 1
    return _path("bounce", inputs, _between(begin, end, 1 - np.abs(1 - 2 * phase)))


def orbit(inputs: PathInputs, random: np.random.Generator) -> Path:
    """Motion along a circle, about one turn."""
    radius = min(random.uniform(0.12, 0.22), float(inputs.room.min()))
    centre = np.clip(inputs.anchor, -inputs.room + radius, inputs.room - radius)
    turn = random.choice([-1, 1]) * random.uniform(0.9, 1.15) * 2 * np.pi
    angle = random.uniform(0, 2 * np.pi) + turn * inputs.time
    return _path("orbit", inputs, centre + radius * np.stack([np.cos(angle), np.sin(angle)], axis=1))


def wave(inputs: PathInputs, random: np.random.Generator) -> Path:
    """Motion along a line with sideways oscillation."""
    direction = _direction(random)
    begin, end = _run(inputs, direction, random.uniform(0.4, 0.8))
    swing = 0.06 * np.sin(2 * np.pi * random.uniform(1.5, 2.5) * inputs.time)
    return _path("wave", inputs, _between(begin, end, inputs.time) + swing[:, None] * [-direction[1], direction[0]])


def grow(inputs: PathInputs, random: np.random.Generator) -> Path:
    """Growth or shrinkage in place."""
    factor = random.uniform(1.55, 2.0)
    path = still(inputs, random)
    larger = random.random() < 0.5
    scale = np.exp(np.log(factor) * (inputs.time - 0.5)) if larger else np.exp(np.log(factor) * (0.5 - inputs.time))
    return replace(path, program="grow" if larger else "shrink", scale=scale)


def enter(inputs: PathInputs, random: np.random.Generator, when: float | None = None) -> Path:
    """Straight motion at constant speed into the frame, across one edge.

    `when`, 0 to 1: the time at which the object is just outside the frame; default: random.
    """
    when = when if when is not None else random.uniform(0.2, 0.6)
    inward = np.array(list(DIRECTIONS.values())[random.integers(4)])
    axis = 0 if inward[0] else 1
    other = 1 - axis
    # just outside: half a frame and 1.45 radii from the centre, because spikes reach beyond the radius
    edge = np.zeros(2)
    edge[axis] = -inward[axis] * (inputs.half[axis] + 1.45 * inputs.radius)
    edge[other] = np.clip(inputs.anchor[other], -inputs.room[other], inputs.room[other])
    inside = 2.6 * inputs.radius + random.uniform(0.15, 0.6) * 2 * inputs.room[axis]
    travel = inward * min(inside, inputs.half[axis] + 1.45 * inputs.radius + inputs.room[axis])
    travel[other] = (
        np.clip(edge[other] + random.uniform(-0.1, 0.1), -inputs.room[other], inputs.room[other]) - edge[other]
    )
    return _path("enter", inputs, edge + travel * ((inputs.time - when) / (1 - when))[:, None])


def leave(inputs: PathInputs, random: np.random.Generator, when: float | None = None) -> Path:
    """Straight motion at constant speed out of the frame: `enter` in reverse."""
    path = enter(inputs, random, when)
    return replace(path, program="leave", place=path.place[::-1].copy())


def appear(inputs: PathInputs, random: np.random.Generator) -> Path:
    """Absence at first, then rest or straight motion."""
    path = (still if random.random() < 0.5 else line)(inputs, random)
    return replace(path, program="appear", present=inputs.time >= random.uniform(0.25, 0.6))


def vanish(inputs: PathInputs, random: np.random.Generator) -> Path:
    """Rest or straight motion at first, then absence."""
    path = (still if random.random() < 0.5 else line)(inputs, random)
    return replace(path, program="vanish", present=inputs.time <= random.uniform(0.4, 0.75))


def across(inputs: PathInputs, at: np.ndarray, when: float, random: np.random.Generator) -> Path | None:
    """A straight path through the position `at` (2,) at the time `when`, 0 to 1; None if none of the tried paths fits."""
    for quarter in random.permutation(4):
        angle = quarter * np.pi / 2 + random.uniform(-0.15, 0.15)
        step = np.array([np.cos(angle), np.sin(angle)]) * random.uniform(0.6, 0.95)
        begin, end = at - step * when, at + step * (1 - when)
        if (np.abs(np.stack([begin, end])) <= inputs.room + 0.02).all():
            return _path("line", inputs, _between(begin, end, inputs.time))
    return None


Program = Callable[[PathInputs, np.random.Generator], Path]
# Program -> relative frequency, for objects whose motion the theme of the scene leaves open.
MIXED: dict[Program, float] = {
    still: 0.22,
    line: 0.34,
    bounce: 0.07,
    orbit: 0.07,
    stop: 0.07,
    start: 0.07,
    wave: 0.03,
    grow: 0.09,
    appear: 0.02,
    vanish: 0.02,
}


def mixed(inputs: PathInputs, random: np.random.Generator) -> Path:
    """A path of a program that is drawn from `MIXED`."""
    programs, weights = list(MIXED), np.array(list(MIXED.values()))
    return programs[random.choice(len(programs), p=weights / weights.sum())](inputs, random)

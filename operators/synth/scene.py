"""The plan of a video: frame size, camera, and the look, motion and depth order of its objects."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vrshq.operators.synth import motion
from vrshq.operators.synth.camera import Camera, draw_camera
from vrshq.operators.synth.config import SynthConfig
from vrshq.operators.synth.motion import Path, PathInputs
from vrshq.operators.synth.shapes import SHAPES, UNSEEN_PAIRS

Pair = tuple[str, str]


@dataclass(frozen=True, eq=False)
class Actor:
    """One planned object.

    Attributes:
        colour, shape: names in `COLOURS` and `SHAPES`.
        radius: in short sides.
        tilt: initial angle in radians.
        path: its motion.
    """

    colour: str
    shape: str
    radius: float
    tilt: float
    path: Path


@dataclass(frozen=True, eq=False)
class Scene:
    """A planned video; `actors` are ordered from back to front."""

    height: int
    width: int
    camera: Camera
    actors: tuple[Actor, ...]
    theme: str

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.camera.zoom)


# Theme of a video -> probability. In every theme, an object may enter, leave, or hide another object.
THEMES = {"mixed": 0.36, "one still": 0.14, "one moves": 0.12, "speeds": 0.19, "headings": 0.19}
ENTER = LEAVE = 0.33  # probability for a video
OCCLUSION = 0.5  # probability for a video


def draw_scene(random: np.random.Generator, config: SynthConfig, split: str) -> Scene:
    """Draws the scene of a video. The pairs in `UNSEEN_PAIRS` occur in the split test_unseen only.

    Raises:
        ValueError: the config leaves no pair of colour and shape for this split.
    """
    frames = int(random.integers(config.frames[0], config.frames[1] + 1))
    short = config.short_sides[random.integers(len(config.short_sides))]
    aspect = config.aspects[random.integers(len(config.aspects))]
    # even sizes, because H.264's usual pixel format (4:2:0) halves the resolution of colour
    height, width = (2 * round(short * factor / 2) for factor in (max(1, 1 / aspect), max(1, aspect)))
    half = np.array([width, height]) / (2 * min(width, height))
    count = int(random.integers(config.objects[0], config.objects[1] + 1))
    pairs = _pairs(random, config, split, count)
    radii = _radii(random, config, pairs)
    anchors = _anchors(random, half, radii)
    time = np.linspace(0, 1, frames)
    inputs = [PathInputs(time, half, anchor, radius) for anchor, radius in zip(anchors, radii, strict=True)]
    theme = str(random.choice(list(THEMES), p=np.array(list(THEMES.values()))))
    paths = _paths(random, inputs, theme)
    order = [int(number) for number in random.permutation(count)]
    if count > 1 and random.random() < OCCLUSION:
        _plan_occlusion(random, pairs, inputs, paths, order, config.radius[0])
    actors = [_actor(random, pair, item.radius, path) for pair, item, path in zip(pairs, inputs, paths, strict=True)]
    return Scene(
        height, width, draw_camera(random, time, config.effects), tuple(actors[number] for number in order), theme
    )


def _pairs(random: np.random.Generator, config: SynthConfig, split: str, count: int) -> list[Pair]:
    """Draws colour and shape of each object; many objects share a colour, a shape or both with another object."""
    shapes, colours = _weighted(config.shapes), list(config.colours)
    allowed = {
        (colour, shape)
        for colour in colours
        for shape in shapes
        if split == "test_unseen" or (colour, shape) not in UNSEEN_PAIRS
    }
    held_out = sorted(allowed & UNSEEN_PAIRS)
    if not allowed:
        raise ValueError("shapes and colours: no pair of them is left for this split; give more of either")

    def anything() -> Pair:
        if held_out and random.random() < 0.5:
            return held_out[random.integers(len(held_out))]
        return colours[random.integers(len(colours))], shapes[random.integers(len(shapes))]

    odd = random.random()
    pairs: list[Pair] = []
    for _ in range(100 * count):
        if len(pairs) == count:
            break
        pair = anything()
        if pairs:
            pair = _related(random, pair, pairs, odd, last=len(pairs) >= count - 1)
        if pair in allowed:
            pairs.append(pair)
    while len(pairs) < count:
        pairs.append(sorted(allowed)[random.integers(len(allowed))])
    return [pairs[number] for number in random.permutation(count)]


def _related(random: np.random.Generator, pair: Pair, pairs: list[Pair], odd: float, last: bool) -> Pair:
    """Replaces the colour, the shape or both of a pair by those of an earlier pair, with some probability.

    Args:
        random: source of all random numbers.
        pair: an independently drawn pair.
        pairs: the earlier pairs, at least one.
        odd: a random number of the video, 0 to 1. Below 0.08, all objects but the last share a colour; below 0.16, a shape.
        last: whether this is the last object.
    """
    colour, shape = pair
    model = pairs[0] if odd < 0.16 and not last else pairs[random.integers(len(pairs))]
    kin = random.random()
    if odd < 0.16:
        if last:
            return pair
        return (model[0], shape) if odd < 0.08 else (colour, model[1])
    if kin < 0.17:
        return model
    if kin < 0.42:
        return model[0], shape
    if kin < 0.67:
        return colour, model[1]
    return pair


def _weighted(shapes: tuple[str, ...]) -> list[str]:
    """The shapes to draw from: core shapes occur three times, so that they are three times as likely."""
    return [shape for shape in shapes for _ in range(3 if SHAPES[shape].core else 1)]


def _radii(random: np.random.Generator, config: SynthConfig, pairs: list[Pair]) -> list[float]:
    """Draws radii in short sides, uniformly in their logarithm; the range is smaller for more than three objects."""
    low, high = config.radius
    crowded = high if len(pairs) <= 3 else max(low, min(high, high * (3.6 / len(pairs)) ** 0.5))
    radii = np.exp(random.uniform(np.log(low), np.log(crowded), size=len(pairs)))
    if random.random() < 0.35:  # one object gets the largest or the smallest radius
        chosen = random.integers(len(pairs))
        radii[chosen] = high if random.random() < 0.5 else low
    least = [min(SHAPES[shape].least_radius, high) for _, shape in pairs]
    return [float(radius) for radius in np.maximum(radii, least)]


def _anchors(random: np.random.Generator, half: np.ndarray, radii: list[float]) -> list[np.ndarray]:
    """Draws positions (2,) far from each other: each is the best of ten random candidates."""
    anchors: list[np.ndarray] = []
    for number, radius in enumerate(radii):
        room = np.maximum(half - radius, 0.02)
        tries = random.uniform(-room, room, size=(10, 2))
        gaps = [
            min(
                (
                    float(np.hypot(*(place - other))) - radius - radii[index]
                    for index, other in enumerate(anchors[:number])
                ),
                default=0.0,
            )
            for place in tries
        ]
        anchors.append(tries[int(np.argmax(gaps))])
    return anchors


def _paths(random: np.random.Generator, inputs: list[PathInputs], theme: str) -> list[Path]:
    """Draws a path for each object: by the theme first, then for objects that enter or leave."""
    count = len(inputs)
    paths = [motion.mixed(item, random) for item in inputs]
    chosen = int(random.integers(count))
    if theme == "one still":
        paths = [motion.line(item, random) for item in inputs]
        paths[chosen] = motion.still(inputs[chosen], random)
    elif theme == "one moves":
        paths = [motion.still(item, random) for item in inputs]
        paths[chosen] = motion.mixed(inputs[chosen], random)
        if paths[chosen].program == "still":
            paths[chosen] = motion.line(inputs[chosen], random)
    elif theme == "speeds":
        lengths = [0.85 * 0.52**rank for rank in range(count)]
        for number, rank in enumerate(random.permutation(count)):
            rest = rank > 2 and random.random() < 0.5
            paths[number] = (
                motion.still(inputs[number], random)
                if rest
                else motion.line(inputs[number], random, length=lengths[rank])
            )
    elif theme == "headings":
        for number, heading in enumerate(random.permutation([*motion.DIRECTIONS, *motion.DIRECTIONS][:count])):
            if random.random() < 0.75:
                paths[number] = motion.line(inputs[number], random, heading=str(heading))
            else:
                paths[number] = motion.still(inputs[number], random)
    for chance, program in ((ENTER, motion.enter), (LEAVE, motion.leave)):
        if count > 1 and random.random() < chance:
            several = random.permutation(count)[: 2 if count > 3 and random.random() < 0.35 else 1]
            # the times of two objects differ clearly
            for number, when in zip(several, (random.uniform(0.35, 0.6), random.uniform(0.1, 0.25)), strict=False):
                paths[number] = program(inputs[number], random, when)
    return paths


def _plan_occlusion(
    random: np.random.Generator,
    pairs: list[Pair],
    inputs: list[PathInputs],
    paths: list[Path],
    order: list[int],
    least: float,
) -> None:
    """Makes one object pass in front of or behind another. Changes `inputs`, `paths` and `order` in place."""
    candidates = [number for number, (_, shape) in enumerate(pairs) if SHAPES[shape].solid]
    if not candidates:
        return
    front = candidates[random.integers(len(candidates))]
    back = int(random.choice([number for number in range(len(pairs)) if number != front]))
    large = max(inputs[front].radius, min(1.35 * inputs[back].radius, 0.2))
    small = max(least, min(inputs[back].radius, 0.72 * large))
    inputs[front], inputs[back] = replace(inputs[front], radius=large), replace(inputs[back], radius=small)
    mover, other = (front, back) if random.random() < 0.5 else (back, front)
    time = inputs[mover].time
    frame = int(random.integers(len(time) // 3, 2 * len(time) // 3 + 1))
    # the passed object lies closer to the centre, so that the path of the other one can be long
    calm = replace(inputs[other], anchor=inputs[other].anchor * 0.75)
    waiting = motion.still(calm, random) if random.random() < 0.6 else motion.line(calm, random, length=0.15)
    passing = motion.across(inputs[mover], waiting.place[frame], float(time[frame]), random)
    if passing is None:
        return
    paths[mover], paths[other] = passing, waiting
    order.remove(front)
    order.insert(order.index(back) + 1 + int(random.integers(len(order) - order.index(back))), front)


def _actor(random: np.random.Generator, pair: Pair, radius: float, path: Path) -> Actor:
    """An object with a random initial angle and, with some probability, a rotation."""
    colour, shape = pair
    tilt = random.uniform(-0.25, 0.25) if random.random() < 0.55 else random.uniform(0, 2 * np.pi)
    if SHAPES[shape].spins and random.random() < (0.12 if path.program == "still" else 0.22):
        turn = random.choice([-1, 1]) * random.uniform(1.4, 6.0)
        path = replace(path, angle=turn * np.linspace(0, 1, len(path.angle)))
    return Actor(colour, shape, radius, tilt, path)

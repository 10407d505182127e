"""Training samples: sampled frames with instructions and their masks, or with a dialogue."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from vrshq.operators.synth import KINDS, SynthVideo
from vrshq.operators.synth.colours import COLOURS
from vrshq.operators.synth.facts import Facts
from vrshq.operators.synth.judging import Verdicts
from vrshq.operators.synth.motion import DIRECTIONS
from vrshq.operators.synth.shapes import SHAPES

COLOUR_NAMES, SHAPE_NAMES = tuple(COLOURS), tuple(SHAPES)
# Facts about an object that a single frame, or a single token, does not show: its motion, and its rank in the video.
DEEDS: dict[str, Callable[[Facts], Verdicts]] = {
    "largest": lambda facts: facts.extreme_size(_all_of(facts)),
    "smallest": lambda facts: facts.extreme_size(_all_of(facts), smallest=True),
    **{
        f"furthest {way}": partial(lambda facts, way: facts.outermost(way, _all_of(facts)), way=way)
        for way in DIRECTIONS
    },
    "fastest": lambda facts: facts.fastest(_all_of(facts)),
    "slowest": lambda facts: facts.slowest(_all_of(facts)),
    "still": lambda facts: facts.still,
    **{f"heading {way}": partial(lambda facts, way: facts.heading(way), way=way) for way in DIRECTIONS},
    "hidden": lambda facts: facts.hidden,
    "hiding": lambda facts: facts.hiding,
    "entering": lambda facts: facts.entering,
    "entering last": lambda facts: facts.last_to_enter(),
    "leaving": lambda facts: facts.leaving,
    "leaving first": lambda facts: facts.first_to_leave(),
    "growing": lambda facts: facts.grown(),
    "shrinking": lambda facts: facts.grown(smaller=True),
    "turning": lambda facts: facts.turning,
}


@dataclass(frozen=True, eq=False)
class Objects:
    """Labels of the O objects of a synthetic clip, for oracle prompts and training-only heads.

    Attributes:
        masks: (O, n, H, W) bool, the visible part of each object.
        colours, shapes: (O,) int64, indices in `COLOUR_NAMES` and `SHAPE_NAMES`.
        places: (O, n, 3) float32: x of the centre in frame widths, y in frame heights, and the radius in shorter sides.
        meant: (E, O) bool, which objects each instruction means.
        referred: (E, O) bool, the object that an instruction names beside the one it means, as "the red ring" in "what is
            nearest to the red ring?"; no object for most instructions.
        deeds: (O, D) int8, the verdict (`vrshq.operators.synth.judging`) on each of `DEEDS` in the whole video.
    """

    masks: np.ndarray
    colours: np.ndarray
    shapes: np.ndarray
    places: np.ndarray
    meant: np.ndarray
    referred: np.ndarray
    deeds: np.ndarray


@dataclass(frozen=True, eq=False)
class Clip:
    """One sample: n frames with E instructions, or with a dialogue.

    Attributes:
        source: name of the data set, for logs.
        frames: (n, H, W, 3) uint8 RGB, in temporal order; n = 1 for an image.
        texts: the instructions, normalised.
        masks: (E, n, H, W) bool; all zero for an instruction without a target. None in a dialogue.
        ignored: (H, W) bool, pixels that the mask losses leave out (ADE20K's void, ReasonSeg's "ignore"). None: no pixel.
        is_video: whether TDA applies; the recipe applies it to videos only.
        words: for each instruction, the text of the answer after the masks, "" for none; () if no instruction has any.
        turns: (question, answer) pairs of a dialogue about the frames, in place of instructions.
        objects: labels of the objects; None unless the clip is synthetic.
    """

    source: str
    frames: np.ndarray
    texts: tuple[str, ...] = ()
    masks: np.ndarray | None = None
    ignored: np.ndarray | None = None
    is_video: bool = True
    words: tuple[str, ...] = ()
    turns: tuple[tuple[str, str], ...] = ()
    objects: Objects | None = None


def choose_frames(random: np.random.Generator, total: int, least: int, most: int) -> np.ndarray:
    """Draws ascending frame numbers: a random frame from each of `least` to `most` equal segments of the video.

    A video of fewer frames gives all of them.

    Args:
        random: source of all random numbers.
        total: number of frames of the video.
        least: least number of segments.
        most: largest number of segments.

    Returns:
        (n,) int64.
    """
    count = min(int(random.integers(least, most + 1)), total)
    bounds = np.linspace(0, total, count + 1).astype(int)
    return random.integers(bounds[:-1], bounds[1:])


def _all_of(facts: Facts) -> np.ndarray:
    return np.ones(len(facts), dtype=bool)


def judge_deeds(video: SynthVideo) -> np.ndarray:
    """The verdicts on `DEEDS` for each object of a video: (O, D) int8."""
    facts = Facts(video.objects, *video.frames.shape[1:3])
    return np.stack([judge(facts) for judge in DEEDS.values()], axis=1)


def from_synth(
    video: SynthVideo,
    random: np.random.Generator,
    frames: tuple[int, int],
    expressions: int | None = None,
    kinds: Sequence[str] = KINDS,
) -> Clip:
    """Draws a clip from a synthetic video.

    Args:
        video: the video.
        random: source of all random numbers.
        frames: (least, most) number of sampled frames.
        expressions: the most expressions of the clip; default: all.
        kinds: kinds of the expressions.
    """
    from vrshq.operators.models.vrs_hq.prompt import normalize

    chosen = choose_frames(random, len(video.frames), *frames)
    kept = [expression for expression in video.expressions if expression.kind in kinds]
    if expressions is not None and len(kept) > expressions:
        kept = [kept[number] for number in sorted(random.choice(len(kept), expressions, replace=False))]
    height, width = video.frames.shape[1:3]
    meant, referred = np.zeros((2, len(kept), len(video.objects)), bool)
    for row, expression in enumerate(kept):
        meant[row, list(expression.object_ids)] = True
        if reference := expression.names.get("reference"):
            referred[row] = [
                all(getattr(item, key) == name for key, name in reference.items()) for item in video.objects
            ]
    masks = video.masks[:, chosen]
    places = np.stack(
        [
            np.column_stack([item.centre / (width, height), item.radius / min(height, width)])[chosen]
            for item in video.objects
        ]
    )
    return Clip(
        source="synth",
        frames=video.frames[chosen],
        texts=tuple(normalize(expression.text) for expression in kept),
        masks=np.stack([masks[row].any(0) for row in meant]) if len(meant) else np.zeros((0, *masks.shape[1:]), bool),
        objects=Objects(
            masks=masks,
            colours=np.array([COLOUR_NAMES.index(item.colour) for item in video.objects]),
            shapes=np.array([SHAPE_NAMES.index(item.shape) for item in video.objects]),
            places=places.astype(np.float32),
            meant=meant,
            referred=referred,
            deeds=judge_deeds(video),
        ),
    )

"""Oracle queries: descriptions of objects by colour, shape and way, and the masks that answer them.

An oracle prompt encodes a query in SAM2's prompt space. SAM2 can learn from it before the language model does; later it is
the language model's target.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from vrshq.operators.training.clip import COLOUR_NAMES, SHAPE_NAMES, Objects

UNKNOWN = -1  # a colour or shape that a query does not name
KEEP_COLOUR, KEEP_SHAPE, KEEP_PLACE = 0.6, 0.5, 0.5  # probabilities that a query names it


@dataclass(frozen=True, eq=False)
class Queries:
    """E descriptions of objects.

    Attributes:
        colours: (E,) int64, an index in `COLOUR_NAMES` or `UNKNOWN`.
        shapes: (E,) int64, an index in `SHAPE_NAMES` or `UNKNOWN`.
        ways: (E, 5) float32: mean x, y and radius of the object over the clip, and its displacement x, y from the first
            frame to the last, in sides of the square that SAM2 sees.
        placed: (E,) bool, whether the query names the way.
        nothing: (E,) bool, whether the query asks for nothing at all.
    """

    colours: np.ndarray
    shapes: np.ndarray
    ways: np.ndarray
    placed: np.ndarray
    nothing: np.ndarray


def ways(objects: Objects) -> np.ndarray:
    """The ways (O, 5) float32 of all objects, see `Queries`."""
    height, width = objects.masks.shape[-2:]
    long = max(height, width)
    scale = np.array([width / long, height / long, min(height, width) / long], np.float32)
    places = objects.places * scale
    return np.concatenate([places.mean(1), places[:, -1, :2] - places[:, 0, :2]], axis=1)


def draw_queries(objects: Objects, random: np.random.Generator) -> tuple[Queries, np.ndarray]:
    """Draws a query for each object and two queries that no object answers.

    A query that names no place means every object of its colour and shape.

    Returns:
        The queries, and the masks (E, n, H, W) bool that answer them.
    """
    count = len(objects.colours)
    colours, shapes, placed = objects.colours.copy(), objects.shapes.copy(), random.random(count) < KEEP_PLACE
    colours[random.random(count) > KEEP_COLOUR] = UNKNOWN
    shapes[random.random(count) > KEEP_SHAPE] = UNKNOWN
    bare = (colours == UNKNOWN) & (shapes == UNKNOWN) & ~placed
    colours[bare] = objects.colours[bare]
    fits = ((colours[:, None] == objects.colours) | (colours[:, None] == UNKNOWN)) & (
        (shapes[:, None] == objects.shapes) | (shapes[:, None] == UNKNOWN)
    )
    fits = np.where(placed[:, None], np.eye(count, dtype=bool), fits)
    there = set(zip(objects.colours.tolist(), objects.shapes.tolist(), strict=True))
    absent = [(c, s) for c in range(len(COLOUR_NAMES)) for s in range(len(SHAPE_NAMES)) if (c, s) not in there]
    # near misses: they share a colour or a shape with an object
    near = [pair for pair in absent if pair[0] in objects.colours or pair[1] in objects.shapes]
    chosen = [near[random.integers(len(near))], None]
    missing = np.array([pair or (UNKNOWN, UNKNOWN) for pair in chosen])
    queries = Queries(
        np.concatenate([colours, missing[:, 0]]),
        np.concatenate([shapes, missing[:, 1]]),
        np.concatenate([ways(objects), np.zeros((2, 5), np.float32)]),
        np.concatenate([placed, [False, False]]),
        np.concatenate([np.zeros(count, bool), [False, True]]),
    )
    masks = np.stack([objects.masks[row].any(0) for row in fits])
    return queries, np.concatenate([masks, np.zeros((2, *masks.shape[1:]), bool)])


def meant_queries(objects: Objects) -> tuple[Queries, np.ndarray]:
    """The full query for each instruction, and (E,) bool: whether the instruction means at most one object."""
    number = objects.meant.sum(1)
    first = objects.meant.argmax(1)
    nothing: np.ndarray = number == 0
    queries = Queries(
        np.where(nothing, UNKNOWN, objects.colours[first]),
        np.where(nothing, UNKNOWN, objects.shapes[first]),
        ways(objects)[first],
        ~nothing,
        nothing,
    )
    return queries, number <= 1


def simplest(queries: Queries, objects: Objects) -> Queries:
    """Reduces queries to the colour alone where no other object of the clip has the same colour.

    SAM2 follows such prompts best, so a query says more only where the colour does not decide.
    """
    alone = (queries.colours[:, None] == objects.colours).sum(1) == 1
    return replace(queries, shapes=np.where(alone, UNKNOWN, queries.shapes), placed=queries.placed & ~alone)

"""A mask as one closed polygon, for formats that have no other shape."""

from __future__ import annotations

import cv2
import numpy as np

_ROWS = 256  # points whose distances are computed at once


def one_polygon(mask: np.ndarray) -> np.ndarray:
    """The outline of a mask as one closed polygon through the centres of its border pixels, holes and all parts included.

    Parts and holes are joined by lines there and back between the points that are nearest to each other, as in the converters
    that YOLO's format comes with. Filled by the even-odd rule with its own edges drawn (`cv2.fillPoly`), the polygon gives the
    mask, and besides only the pixels of the joining lines. Those to a hole lie in the mask or touch it.

    Args:
        mask: (H, W), bool or 0/1 uint8.

    Returns:
        (n, 2) int64 of x and y, without the repeated first point; n is 0 for an empty mask, and 1 or 2 for as many pixels.

    Costs time in proportion to the square of the number of border pixels where there are several rings.
    """
    found, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [ring[:, 0].astype(np.int64) for ring in found]
    if not rings:
        return np.zeros((0, 2), np.int64)
    return _without_midpoints(_joined(rings))


def _joined(rings: list[np.ndarray]) -> np.ndarray:
    """One ring of all: each time the one nearest to those joined already, so that no line crosses another ring."""
    points = np.concatenate(rings)
    ends = np.cumsum([len(ring) for ring in rings])
    owner = np.repeat(np.arange(len(rings)), [len(ring) for ring in rings])
    path = list(range(ends[0]))
    free = np.arange(ends[0], len(points))
    nearest, distance = np.zeros(len(free), np.int64), np.full(len(free), np.iinfo(np.int64).max)
    latest = np.arange(ends[0])
    while len(free):
        for first in range(0, len(latest), _ROWS):
            some = latest[first : first + _ROWS]
            apart = ((points[some, None] - points[None, free]) ** 2).sum(-1)
            best = apart.argmin(0)
            closer = apart[best, np.arange(len(free))] < distance
            nearest[closer], distance[closer] = some[best[closer]], apart[best, np.arange(len(free))][closer]
        arrival = int(free[distance.argmin()])
        place = path.index(int(nearest[distance.argmin()]))
        end = int(ends[owner[arrival]])
        start = end - len(rings[owner[arrival]])
        path[place + 1 : place + 1] = [*range(arrival, end), *range(start, arrival + 1), path[place]]
        latest = np.arange(start, end)
        kept = owner[free] != owner[arrival]
        free, nearest, distance = free[kept], nearest[kept], distance[kept]
    return points[path]


def _without_midpoints(ring: np.ndarray) -> np.ndarray:
    """The ring without repeated points, and without those at which it goes straight on."""
    ring = ring[(ring != np.roll(ring, 1, 0)).any(1)] if len(ring) > 1 else ring
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    turned = before[:, 0] * after[:, 1] - before[:, 1] * after[:, 0] != 0
    back = (before * after).sum(1) < 0
    return ring[turned | back] if len(ring) > 2 else ring

"""One polygon for a mask: filled as YOLO's loader fills it, it is the mask, but for the lines that join parts."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vrshq.operators.masks.polygon import one_polygon

sides = st.integers(1, 24)


def filled(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    mask = np.zeros((height, width), np.uint8)
    if len(ring):
        cv2.fillPoly(mask, [ring.astype(np.int32)], 1)
    return mask > 0


def edges(ring: np.ndarray, height: int, width: int) -> np.ndarray:
    drawn = np.zeros((height, width), np.uint8)
    if len(ring):
        cv2.polylines(drawn, [ring.astype(np.int32)], True, 1)
    return drawn > 0


@settings(max_examples=300, deadline=None)
@given(st.tuples(sides, sides).flatmap(lambda size: arrays(np.bool_, size)))
def test_the_filled_polygon_is_the_mask_but_for_joining_lines(mask: np.ndarray) -> None:
    ring = one_polygon(mask)
    found = filled(ring, *mask.shape)
    assert not (mask & ~found).any()
    assert not (found & ~mask & ~edges(ring, *mask.shape)).any()


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(3, 60)] * 2, st.integers(1, 3)), min_size=1, max_size=6))
def test_a_connected_mask_with_holes_is_exact_within_a_pixel_of_its_border(holes: list[tuple[int, int, int]]) -> None:
    mask = np.zeros((72, 72), np.uint8)
    cv2.circle(mask, (35, 36), 33, 1, -1)
    for x, y, size in holes:
        cv2.rectangle(mask, (x, y), (x + size, y + size), 0, -1)
    count, parts = cv2.connectedComponents(mask)
    sizes = [int((parts == part).sum()) for part in range(1, count)]
    mask = (parts == 1 + int(np.argmax(sizes))).astype(np.uint8)
    wrong = filled(one_polygon(mask), 72, 72) != (mask > 0)
    border = cv2.dilate(mask, np.ones((3, 3))) != cv2.erode(mask, np.ones((3, 3)))
    assert not (wrong & ~border).any()


def test_corners_alone_are_kept() -> None:
    mask = np.zeros((20, 30), bool)
    mask[4:10, 5:25] = True
    assert sorted(map(tuple, one_polygon(mask).tolist())) == [(5, 4), (5, 9), (24, 4), (24, 9)]
    assert one_polygon(np.zeros((5, 5), bool)).shape == (0, 2)
    dot = np.zeros((5, 5), bool)
    dot[2, 3] = True
    assert one_polygon(dot).tolist() == [[3, 2]]

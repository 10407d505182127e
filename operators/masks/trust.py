"""Signals that tell without ground truth how far a track can be trusted, from run-length codes and object logits alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from pycocotools import mask as coco

from vrshq.operators.masks.rle import EncodedMask, encode, union


@dataclass(frozen=True)
class Trust:
    """Signals of one instruction over its labelled frames; neighbours are labelled frames that follow each other.

    A signal is None where it has nothing to look at.

    Attributes:
        flicker: mean of 1 - IoU of neighbours' masks, 0 to 1, over neighbours of which one has a mask.
        longest_gap: most frames in a row without a mask between frames with one; 0 without a gap.
        area_jump: the largest change of area between neighbours that both have a mask, as a share of the larger one, 0 to 1.
        score_dips: share of the frames whose object logit is below 0.
        lowest_score: the lowest object logit.
        border_share: share of all mask pixels that lie in a frame's outermost rows and columns.
    """

    flicker: float | None
    longest_gap: float | None
    area_jump: float | None
    score_dips: float | None
    lowest_score: float | None
    border_share: float | None


NAMES = tuple(Trust.__dataclass_fields__)


def united(objects: Sequence[Sequence[EncodedMask]], height: int, width: int) -> list[EncodedMask]:
    """The union of the objects on each frame. Costs a merge for each frame on which several have a mask."""
    if len(objects) == 1:
        return list(objects[0])
    return [_joined(masks, height, width) for masks in zip(*objects, strict=True)]


class TrustSoFar:
    """The signals of one track, of which some frames after the other are looked at.

    Cost: an IoU of run-length codes for each pair of neighbours, and an intersection for each mask at the frame's border.

    Args:
        height: of the masks, in pixels.
        width: likewise.

    Attributes:
        area: mask pixels on the frames so far.
    """

    def __init__(self, height: int, width: int) -> None:
        self._size = height, width
        self._last: EncodedMask | None = None
        self._pairs = self._scores = self._dips = self.area = self._border = 0
        self._change = 0.0
        self._gap, self._longest_gap = -1, -1.0  # frames since the last mask; -1 before the first one
        self._jump: float | None = None
        self._lowest: float | None = None

    def add(self, masks: Sequence[EncodedMask], scores: Sequence[float]) -> None:
        """Looks at the next frames.

        Args:
            masks: one mask for each labelled frame, in their order, (height, width) pixels each.
            scores: the frames' object logits; empty where the answer has no object. Those that are not finite do not count.
        """
        for mask in masks:
            if self._last is not None:
                self._compare(self._last, mask)
            self._last = mask
            self.area += mask.area
            self._border += _border(mask, *self._size)
            if mask.area:
                self._longest_gap = max(self._longest_gap, self._gap, 0.0)
            self._gap = 0 if mask.area else self._gap + (self._gap >= 0)
        finite = [score for score in scores if math.isfinite(score)]
        self._scores += len(finite)
        self._dips += sum(score < 0 for score in finite)
        self._lowest = min([*finite, *([] if self._lowest is None else [self._lowest])], default=None)

    def _compare(self, one: EncodedMask, other: EncodedMask) -> None:
        if not (one.area or other.area):
            return
        self._pairs += 1
        self._change += 1 - _iou(one, other, *self._size)
        if one.area and other.area:
            jump = 1 - min(one.area, other.area) / max(one.area, other.area)
            self._jump = jump if self._jump is None else max(self._jump, jump)

    def result(self) -> Trust:
        """The signals of the frames so far."""
        return Trust(
            flicker=self._change / self._pairs if self._pairs else None,
            longest_gap=self._longest_gap if self.area else None,
            area_jump=self._jump,
            score_dips=self._dips / self._scores if self._scores else None,
            lowest_score=self._lowest,
            border_share=self._border / self.area if self.area else None,
        )


def trust(masks: Sequence[EncodedMask], scores: Sequence[float], height: int, width: int) -> Trust:
    """The signals of one track, whose frames are there at once; arguments as for `TrustSoFar`."""
    signals = TrustSoFar(height, width)
    signals.add(masks, scores)
    return signals.result()


def _joined(masks: Sequence[EncodedMask], height: int, width: int) -> EncodedMask:
    shown = [mask for mask in masks if mask.area]
    return union([mask.rle for mask in shown], height, width) if len(shown) > 1 else (shown or masks)[0]


def _code(mask: EncodedMask, height: int, width: int) -> dict[str, Any]:
    return {"size": [height, width], "counts": mask.rle}


def _iou(one: EncodedMask, other: EncodedMask, height: int, width: int) -> float:
    if not (one.area and other.area):
        return 0.0
    if one.rle == other.rle:
        return 1.0
    return float(coco.iou([_code(one, height, width)], [_code(other, height, width)], [0])[0, 0])


def _border(mask: EncodedMask, height: int, width: int) -> int:
    """Pixels of a mask in the outermost rows and columns."""
    left, top, box_width, box_height = mask.bbox
    if not mask.area or (left and top and left + box_width < width and top + box_height < height):
        return 0
    return int(coco.area(coco.merge([_code(mask, height, width), _code(_ring(height, width), height, width)], True)))


@lru_cache(maxsize=8)
def _ring(height: int, width: int) -> EncodedMask:
    ring = np.ones((1, height, width), bool)
    ring[0, 1:-1, 1:-1] = False
    return encode(ring)[0]

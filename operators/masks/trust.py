"""Signals that tell without ground truth how far a track can be trusted, from run-length codes and object logits alone."""

from __future__ import annotations

import itertools
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


def trust(masks: Sequence[EncodedMask], scores: Sequence[float], height: int, width: int) -> Trust:
    """The signals of one track.

    Args:
        masks: one mask for each labelled frame, in their order, (height, width) pixels each.
        scores: the frames' object logits; empty where the answer has no object. Those that are not finite do not count.
        height: of the masks, in pixels.
        width: likewise.

    Cost: an IoU of run-length codes for each pair of neighbours, and an intersection for each mask at the frame's border.
    """
    pairs = [(one, other) for one, other in itertools.pairwise(masks) if one.area or other.area]
    both = [(one.area, other.area) for one, other in pairs if one.area and other.area]
    area = sum(mask.area for mask in masks)
    finite = [score for score in scores if math.isfinite(score)]
    return Trust(
        flicker=sum(1 - _iou(one, other, height, width) for one, other in pairs) / len(pairs) if pairs else None,
        longest_gap=_longest_gap(masks),
        area_jump=max((1 - min(areas) / max(areas) for areas in both), default=None),
        score_dips=sum(score < 0 for score in finite) / len(finite) if finite else None,
        lowest_score=min(finite, default=None),
        border_share=sum(_border(mask, height, width) for mask in masks) / area if area else None,
    )


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


def _longest_gap(masks: Sequence[EncodedMask]) -> float | None:
    shown = [place for place, mask in enumerate(masks) if mask.area]
    return (
        float(max((later - earlier - 1 for earlier, later in itertools.pairwise(shown)), default=0)) if shown else None
    )


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

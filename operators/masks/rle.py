"""Masks as COCO's compressed run-length codes (column-major), through pycocotools."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from pycocotools import mask as coco


class Rle(TypedDict):
    """COCO's compressed run-length code of one frame: size (height, width) and column-major counts."""

    size: tuple[int, int]
    counts: bytes


@dataclass(frozen=True)
class EncodedMask:
    """One encoded mask.

    Attributes:
        rle: COCO's compressed counts, column-major.
        area: foreground pixels.
        bbox: x, y, width and height of the tightest box, in pixels; zeros for an empty mask.
    """

    rle: bytes
    area: int
    bbox: tuple[int, int, int, int]


def encode(masks: np.ndarray) -> list[EncodedMask]:
    """Encodes binary masks (n, H, W), bool or 0/1 uint8."""
    # pycocotools needs (H, W, n) in Fortran order
    columns = np.asfortranarray(masks.astype(np.uint8, copy=False).transpose(1, 2, 0))
    codes = coco.encode(columns)
    boxes = coco.toBbox(codes).astype(np.int64)
    return [
        EncodedMask(code["counts"], int(area), (int(box[0]), int(box[1]), int(box[2]), int(box[3])))
        for code, area, box in zip(codes, coco.area(codes), boxes, strict=True)
    ]


def union(codes: Sequence[bytes], height: int, width: int) -> EncodedMask:
    """The union of masks, from and to compressed counts."""
    merged = coco.merge([{"size": [height, width], "counts": code} for code in codes])
    x, y, box_width, box_height = coco.toBbox(merged).astype(np.int64).tolist()
    return EncodedMask(merged["counts"], int(coco.area(merged)), (x, y, box_width, box_height))


def decode(rle: bytes, height: int, width: int) -> np.ndarray:
    """Decodes the compressed counts of a row of `masks/` to a mask (H, W) uint8 of 0 and 1."""
    mask: np.ndarray = coco.decode({"size": [height, width], "counts": rle})
    return mask

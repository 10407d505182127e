"""Masks as COCO's compressed run-length codes (column-major), through pycocotools."""

from __future__ import annotations

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
    """One mask: compressed counts, area in pixels, box (x, y, width, height), zeros when empty."""

    rle: bytes
    area: int
    bbox: tuple[int, int, int, int]


def encode(masks: np.ndarray) -> list[EncodedMask]:
    """Encodes binary masks (n, H, W), bool or 0/1 uint8."""
    # pycocotools wants (H, W, n) in Fortran order, which is exactly this transpose of a C-ordered (n, W, H)
    columns = np.asfortranarray(masks.astype(np.uint8, copy=False).transpose(1, 2, 0))
    codes = coco.encode(columns)
    boxes = coco.toBbox(codes).astype(np.int64)
    return [
        EncodedMask(code["counts"], int(area), (int(box[0]), int(box[1]), int(box[2]), int(box[3])))
        for code, area, box in zip(codes, coco.area(codes), boxes, strict=True)
    ]


def decode(rle: bytes, height: int, width: int) -> np.ndarray:
    """The mask (H, W) uint8 in 0/1 of one row of `masks/`."""
    mask: np.ndarray = coco.decode({"size": [height, width], "counts": rle})
    return mask

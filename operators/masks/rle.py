"""Masks as COCO's compressed run-length codes (column-major). pycocotools writes and reads the codes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypedDict

import numpy as np
from pycocotools import mask as coco

if TYPE_CHECKING:
    from torch import Tensor

_WORD = 8  # bytes; unchanged words of this length are skipped


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
    """Encodes binary masks (n, H, W), bool or 0/1 uint8.

    Nothing is transposed: the places where a mask's value changes are found in the order of its rows, and only they are
    brought into the order of its columns. Cost: two passes over the bytes of each mask, and a sort of its changes.
    """
    count, height, width = masks.shape
    size = height * width
    flat = np.ascontiguousarray(masks).view(np.uint8).reshape(count, size)
    changed = np.zeros(-(-size // _WORD) * _WORD, np.uint8)
    counts = []
    for mask in flat:
        np.bitwise_xor(mask[width:], mask[:-width], out=changed[width:size])
        # above the first row of a column is the last row of the column before
        changed[0] = mask[0]
        np.bitwise_xor(mask[1:width], mask[size - width : -1], out=changed[1:width])
        words = np.flatnonzero(changed.view(np.uint64) != 0)
        word, byte = np.nonzero(changed.reshape(-1, _WORD)[words])
        counts.append(_counts(words[word] * _WORD + byte, height, width))
    return _encoded(counts, height, width)


def packed_changes(masks: Tensor) -> Tensor:
    """Where masks (n, H, W) bool change down their columns, eight pixels in a byte: (n, B) uint8 on the masks' device.

    B is H*W / 8, filled up to whole words of 8 bytes. A pixel's bit is set if it differs from the pixel above it, or, in the
    first row, from the last one of the column before. `encode_changes` makes codes of this; a copy to the host is an eighth
    of the masks' bytes.
    """
    import torch  # here, because the tables' schemas import this module in commands that run no network

    count, height, width = masks.shape
    size = height * width
    flat = masks.reshape(count, size).view(torch.uint8)
    changed = flat.new_zeros(count, -(-size // (8 * _WORD)) * _WORD, 8)
    line = changed.view(count, -1)
    line[:, width:size] = flat[:, width:] ^ flat[:, :-width]
    line[:, 0] = flat[:, 0]
    line[:, 1:width] = flat[:, 1:width] ^ flat[:, size - width : -1]
    weights = torch.ones_like(changed[0, 0]) << torch.arange(8, dtype=torch.uint8, device=masks.device)
    return (changed * weights).sum(-1, dtype=torch.uint8)


def encode_changes(packed: np.ndarray, height: int, width: int) -> list[EncodedMask]:
    """Encodes masks of `height` x `width` pixels from their `packed_changes` (n, B)."""
    counts = []
    for line in np.ascontiguousarray(packed):
        words = np.flatnonzero(line.view(np.uint64))
        bits = np.unpackbits(line.reshape(-1, _WORD)[words], axis=1, bitorder="little")
        word, bit = np.nonzero(bits)
        counts.append(_counts(words[word] * (8 * _WORD) + bit, height, width))
    return _encoded(counts, height, width)


def encode_tensor(masks: Tensor) -> list[EncodedMask]:
    """Encodes masks (n, H, W) bool. From a GPU, only their packed changes are copied."""
    if masks.device.type == "cpu":
        return encode(masks.numpy())
    return encode_changes(packed_changes(masks).cpu().numpy(), *masks.shape[1:])


def _counts(places: np.ndarray, height: int, width: int) -> np.ndarray:
    """COCO's counts from the places of a mask's changes, given as flat row-major numbers."""
    rows, columns = np.divmod(places, width)
    edges = columns * height + rows
    edges.sort()
    return np.diff(edges, prepend=0, append=height * width)


def _encoded(counts: list[np.ndarray], height: int, width: int) -> list[EncodedMask]:
    if not counts:
        return []
    codes = coco.frPyObjects([{"size": [height, width], "counts": one} for one in counts], height, width)
    boxes = coco.toBbox(codes).astype(np.int64).tolist()
    return [
        EncodedMask(code["counts"], int(one[1::2].sum()), tuple(box))
        for code, one, box in zip(codes, counts, boxes, strict=True)
    ]


def union(codes: Sequence[bytes], height: int, width: int) -> EncodedMask:
    """The union of masks, from and to compressed counts."""
    merged = coco.merge([{"size": [height, width], "counts": code} for code in codes])
    x, y, box_width, box_height = coco.toBbox(merged).astype(np.int64).tolist()
    return EncodedMask(merged["counts"], int(coco.area(merged)), (x, y, box_width, box_height))


def intersection(codes: Sequence[bytes], height: int, width: int) -> int:
    """Pixels that all masks have, given as compressed counts."""
    rles = [{"size": [height, width], "counts": code} for code in codes]
    return int(coco.area(coco.merge(rles, intersect=True)))


def decode(rle: bytes, height: int, width: int) -> np.ndarray:
    """Decodes the compressed counts of a row of `masks/` to a mask (H, W) uint8 of 0 and 1."""
    mask: np.ndarray = coco.decode({"size": [height, width], "counts": rle})
    return mask

"""Checks the run-length codes of data sets, which are untrusted input, before pycocotools decodes them.

pycocotools reads beyond its buffers if counts end too early or do not add up to the number of pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from pycocotools import mask as coco

from vrshq.operators.masks.bits import RleError, runs
from vrshq.operators.masks.rle import Rle

MAX_PIXELS = 7680 * 4320


class MaskError(ValueError):
    """An entry is not a mask. The message gives the reason."""


def as_rles(entry: Any) -> list[Rle]:
    """The masks in the entry of one frame of a mask file: none for null, one for an RLE, several for a list of RLEs.

    An RLE is `{"size": [height, width], "counts": ...}`. Its counts are COCO's compressed counts as str or bytes, or
    uncompressed counts as a list.

    Raises:
        MaskError: the entry is something else, or its counts do not fit its size.
    """
    return frames_of([entry])[0]


def frames_of(entries: Sequence[Any]) -> list[list[Rle]]:
    """The masks of all frames of a video, faster than `as_rles` for each frame.

    Raises:
        MaskError: as for `as_rles`; it names the frame.
    """
    frames = []
    for index, entry in enumerate(entries):
        try:
            frames.append(_codes(entry))
        except MaskError as error:
            raise MaskError(f"frame {index}: {error}") from error
    try:
        runs([code for frame in frames for code in frame])
    except RleError:
        for index, frame in enumerate(frames):
            try:
                runs(frame)
            except RleError as error:
                raise MaskError(f"frame {index}: {error}") from error
        raise
    return frames


def _codes(entry: Any) -> list[Rle]:
    """The masks of an entry. Compressed counts are not checked here."""
    if entry is None or entry == {} or entry == []:
        return []
    if isinstance(entry, list) and not any(isinstance(inner, list) for inner in entry):
        return [code for inner in entry for code in _codes(inner)]
    if not isinstance(entry, dict) or "size" not in entry or "counts" not in entry:
        raise MaskError(f"expected an RLE with size and counts, or null; got {_short(entry)}")
    height, width = _size(entry["size"])
    counts = entry["counts"]
    if isinstance(counts, list | tuple):
        if not all(type(count) is int and count >= 0 for count in counts) or sum(counts) != height * width:
            raise MaskError(f"counts are not those of {height} x {width} pixels: {_short(counts)}")
        uncompressed = {"size": [height, width], "counts": list(counts)}
        return [Rle(size=(height, width), counts=bytes(coco.frPyObjects(uncompressed, height, width)["counts"]))]
    if isinstance(counts, str):
        counts = counts.encode(errors="replace")  # characters that are not ASCII make the code invalid
    if not isinstance(counts, bytes):
        raise MaskError(f"counts are neither text nor a list: {_short(counts)}")
    return [Rle(size=(height, width), counts=counts)]


def _size(size: Any) -> tuple[int, int]:
    numbers = isinstance(size, list | tuple) and len(size) == 2 and all(type(side) is int and side > 0 for side in size)
    if not numbers or size[0] * size[1] > MAX_PIXELS:
        raise MaskError(f"size is not [height, width] of at most {MAX_PIXELS:,} pixels: {_short(size)}")
    return size[0], size[1]


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."

"""Masks as packed bits, for boundary measures. They are made directly from run-length codes, and only inside a window.

A *bit image* is a uint64 array (..., words, columns). A word holds 64 rows of a column, the first row in the lowest bit.
COCO's code runs down the columns, so runs become bits without an image of pixels in between. Each operation processes 64
pixels at once. Columns are the last axis because NumPy is fastest along it and there are more columns than words.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from vrshq.operators.masks.rle import Rle

WORD = 64
_ONE = np.uint64(1)


class RleError(ValueError):
    """A run-length code that does not describe a mask of its size; the message is one line."""


@dataclass(frozen=True)
class Runs:
    """A mask as the flat column-major positions at which its value changes, starting with background.

    Attributes:
        height, width: size of the mask, in pixels.
        edges: (2n,) int64, ascending, start and exclusive end of each of n runs of foreground.
    """

    height: int
    width: int
    edges: np.ndarray

    @cached_property
    def area(self) -> int:
        """Number of foreground pixels."""
        return int((self.edges[1::2] - self.edges[::2]).sum())

    @cached_property
    def box(self) -> Window:
        """The smallest window that holds all foreground; of full height if any run continues in the next column."""
        columns, rows = np.divmod(self.edges, self.height)
        begin, end = columns[::2], columns[1::2]
        at_end = rows[1::2] == 0  # the run ends in the last row: its exclusive end is the first row of the next column
        if ((end - at_end) != begin).any():
            top, bottom = 0, self.height
        else:
            top = int(rows[::2].min())
            bottom = self.height if at_end.any() else int(rows[1::2].max())
        return Window(top, bottom, int(begin[0]), int(end[-1] - at_end[-1]) + 1)


@dataclass(frozen=True)
class Window:
    """A rectangle of an image: rows `top` to `bottom` and columns `left` to `right`, the ends exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    def union(self, other: Window) -> Window:
        """The smallest window that holds both windows."""
        return Window(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )

    def grown(self, by: int, height: int, width: int) -> Window:
        """The window with `by` more rows and columns on each side, within an image of `height` x `width` pixels."""
        return Window(
            max(0, self.top - by), min(height, self.bottom + by), max(0, self.left - by), min(width, self.right + by)
        )

    @property
    def words(self) -> int:
        """Number of words of the window's bit image."""
        return -(-(self.bottom - self.top) // WORD) * (self.right - self.left)

    def touches(self, other: Window) -> bool:
        """Whether the two windows share a pixel."""
        return (
            self.top < other.bottom and other.top < self.bottom and self.left < other.right and other.left < self.right
        )


def runs(codes: Sequence[Rle]) -> list[Runs]:
    """Decodes masks in COCO's compressed code (pycocotools, maskApi.c, `rleFrString`) to runs.

    A count is written in digits of 5 bits, the lowest first. A sixth bit is set in all digits but the last, and the last digit
    holds the sign. From the fourth count on, the code holds the difference to the count two places before. All masks are
    decoded in one pass, because their codes are short and each NumPy call has a fixed cost.

    Raises:
        RleError: counts that are not those of a mask of their size; the message names the mask's position in `codes`.
    """
    if not codes:
        return []
    sizes = np.array([code["size"] for code in codes], np.int64)
    ends = np.cumsum([len(code["counts"]) for code in codes])
    chars = np.frombuffer(b"".join(code["counts"] for code in codes), np.uint8) - np.uint8(48)  # below 48: wraps around
    _refuse(codes, np.diff(ends, prepend=0) == 0, "the run-length code is empty")
    _refuse(codes, np.maximum.reduceat(chars, np.r_[0, ends[:-1]]) > 63, "not a compressed run-length code")
    _refuse(codes, chars[ends - 1] > 31, "the run-length code is cut short")

    last = np.flatnonzero(chars < 32)  # last digit of each count
    first = np.r_[0, last[:-1] + 1]
    digits = last - first + 1
    numbers = np.diff(np.searchsorted(last, ends), prepend=0)  # number of counts of each code
    begin = np.cumsum(numbers) - numbers
    _refuse(codes, np.maximum.reduceat(digits, begin) > 12, "the run-length code holds a count beyond 60 bits")
    digit = np.arange(chars.size) - np.repeat(first, digits)
    counts = np.add.reduceat((chars & 31).astype(np.int64) << 5 * digit, first)
    counts -= (chars[last] >> 4).astype(np.int64) << 5 * digits

    of_code = np.repeat(np.arange(len(codes)), numbers)
    place = np.arange(counts.size) - begin[of_code]
    for chain in (place % 2 == 1, (place % 2 == 0) & (place > 0)):
        index = np.flatnonzero(chain)
        running = np.r_[0, np.cumsum(counts[index])]
        counts[index] = running[1:] - running[np.searchsorted(index, begin)][of_code[index]]
    pixels = sizes[:, 0] * sizes[:, 1]
    wrong = np.minimum.reduceat(counts, begin) < 0
    wrong |= np.maximum.reduceat(counts, begin) > pixels
    wrong |= np.add.reduceat(counts, begin) != pixels
    _refuse(codes, wrong, "the run-length code does not have as many pixels as its size")

    edges = np.cumsum(counts) - (np.cumsum(pixels) - pixels)[of_code]
    has_empty_runs = bool(np.any(counts[place % 2 == 1] == 0))
    found = []
    for (height, width), start, number in zip(sizes.tolist(), begin.tolist(), numbers.tolist(), strict=True):
        mine = edges[start : start + number // 2 * 2]  # an odd number of counts ends with background
        if has_empty_runs:  # they are dropped
            mine = mine.reshape(-1, 2)[mine[::2] < mine[1::2]].ravel()
        found.append(Runs(height, width, mine))
    return found


def _refuse(codes: Sequence[Rle], wrong: np.ndarray, reason: str) -> None:
    """Raises RleError for the first code for which `wrong` (n,) bool is set."""
    if wrong.any():
        place = int(np.argmax(wrong))
        height, width = codes[place]["size"]
        raise RleError(f"mask {place} of {height} x {width}: {reason}: {bytes(codes[place]['counts'][:40])!r}")


def pack(masks: Sequence[Runs], window: Window) -> np.ndarray:
    """Packs masks of one size into bit images (n, words, columns) of a window that holds all their foreground.

    A run over the bits b to e - 1 of a word is the number 2^e - 2^b. A run that continues in the next word has no 2^e in its
    first word: modulo 2^64, that word is -2^b. In a word that it enters from the word before, a run that ends there is
    2^e - 1.
    """
    height, width = masks[0].height, masks[0].width
    rows, columns = window.bottom - window.top, window.right - window.left
    words = -(-rows // WORD)
    # all masks side by side in one long image; a column between two masks takes the exclusive end of a last run
    edges = np.concatenate([mask.edges + place * height * (width + 1) for place, mask in enumerate(masks)])
    starts = ((width + 1) * np.arange(len(masks))[:, None] + np.arange(window.left, window.right)) * height + window.top
    from_before = np.searchsorted(edges, starts) & 1  # 1 where a run continues from the column before
    column, row = np.divmod(edges, height)
    row -= window.top
    image = np.repeat(np.arange(len(masks)), [mask.edges.size for mask in masks])
    column -= image * (width + 1) + window.left
    places = (image * words + (row >> 6)) * columns + column
    powers = _ONE << (row & 63).astype(np.uint64)
    np.negative(powers[::2], out=powers[::2])
    inside = (row >= 0) & (row < rows) & (column < columns)
    if not inside.all():  # a run may end in the row below the window
        places, powers = places[inside], powers[inside]
    bits = np.zeros((len(masks), words, columns), np.uint64)
    np.add.at(bits.reshape(-1), places, powers)
    bits[:, 0] -= from_before.astype(np.uint64)
    if words > 1:
        odd = np.bincount(places, minlength=bits.size).reshape(bits.shape) & 1
        odd[:, 0] ^= from_before
        bits[:, 1:] -= np.bitwise_xor.accumulate(odd, axis=1)[:, :-1].astype(np.uint64)
    bits &= _rows(rows)
    return bits


def boundary(bits: np.ndarray, rows: int) -> np.ndarray:
    """The boundary map of bit images with `rows` rows, as DAVIS's toolkit (davis2017/metrics.py) defines it.

    A pixel is on the boundary if it differs from its right, its lower or its lower right neighbour. In the last row only
    the right neighbour counts, and in the last column only the lower one. The last corner is never on the boundary.

    The map of a window equals the image's map inside the window if the window ends where the image ends, or with a row and
    a column without foreground: at such an end all neighbours are equal, so the exceptions change nothing.
    """
    lower = _down(bits, 1, np.empty_like(bits), np.empty_like(bits[..., 1:, :]))
    edges = bits ^ lower
    edges[..., :-1] |= bits[..., :-1] ^ lower[..., 1:]
    edges &= _rows(rows - 1, bits.shape[-2])
    edges[..., :-1] |= bits[..., :-1] ^ bits[..., 1:]
    return np.asarray(edges)


def dilate(bits: np.ndarray, radius: int) -> np.ndarray:
    """Dilation of bit images (n, words, columns) by the disk x^2 + y^2 <= radius^2.

    The result is exact inside the window for foreground inside the window.

    At each horizontal distance from its centre, the disk is a vertical segment. `along` is dilated by the segments, from
    the shortest, at the largest distance, to the longest. The cost grows with the radius, not with the disk's area. The
    result may have bits set below the last row.
    """
    images, words, columns = bits.shape
    along = np.zeros((images, words, columns + radius), np.uint64)  # the margin takes bits that are shifted over a side
    along[..., :columns] = bits
    result = np.zeros_like(along)
    flat, flat_result = along.reshape(-1), result.reshape(-1)
    scratch = np.empty_like(along), np.empty((images, words - 1, columns + radius), np.uint64)
    reach = 0
    for across in range(min(radius, columns - 1), -1, -1):
        for step in _steps(reach, math.isqrt(radius * radius - across * across)):
            # the second shift applies to the result of the first, so segments grow on both sides
            along |= _up(along, step, *scratch)
            along |= _down(along, step, *scratch)
            reach += step
        flat_result[across:] |= flat[: flat.size - across]
        if across:
            flat_result[:-across] |= flat[across:]
    return result[..., :columns]


def without_gaps(bits: np.ndarray, radius: int) -> np.ndarray:
    """Drops columns that are empty in all bit images and not within `radius` to the right of a filled column.

    Distances between pixels up to `radius` stay the same, and larger distances stay larger than `radius`.
    """
    filled = np.flatnonzero(bits.any(axis=(0, 1)))
    columns = np.arange(bits.shape[-1])
    before = filled[np.maximum(np.searchsorted(filled, columns, side="right") - 1, 0)]
    keep = (columns >= before) & (columns - before <= radius)
    return bits if keep.all() else bits[..., keep]


def count(bits: np.ndarray) -> np.ndarray:
    """Number of foreground pixels of each bit image: int64 (...)."""
    total: np.ndarray = np.bitwise_count(bits).sum(axis=(-2, -1), dtype=np.int64)
    return total


def _steps(reach: int, target: int) -> Iterator[int]:
    """Shifts, each to both sides, that widen a segment of 2 reach + 1 pixels to 2 target + 1 pixels.

    A shift is at most reach + 1. Each half of the segment then grows from its own side without gaps, even if the end of the
    window cuts off the other half.
    """
    while reach < target:
        step = min(target - reach, reach + 1, WORD - 1)
        yield step
        reach += step


def _rows(rows: int, words: int | None = None) -> np.ndarray:
    """A column (words, 1) uint64 with its first `rows` bits set."""
    words = -(-rows // WORD) if words is None else words
    line = np.zeros(words, np.uint64)
    line[: rows // WORD] = ~np.uint64(0)
    if rows % WORD:
        line[rows // WORD] = (_ONE << np.uint64(rows % WORD)) - _ONE
    return line[:, None]


def _up(bits: np.ndarray, by: int, moved: np.ndarray, carried: np.ndarray) -> np.ndarray:
    """Moves every pixel `by` rows away from the first row, into `moved`; `carried` is scratch (..., words - 1, columns)."""
    np.left_shift(bits, np.uint64(by), out=moved)
    if carried.size:
        np.right_shift(bits[..., :-1, :], np.uint64(WORD - by), out=carried)
        moved[..., 1:, :] |= carried
    return moved


def _down(bits: np.ndarray, by: int, moved: np.ndarray, carried: np.ndarray) -> np.ndarray:
    """Moves every pixel `by` rows towards the first row, into `moved`; otherwise as `_up`."""
    np.right_shift(bits, np.uint64(by), out=moved)
    if carried.size:
        np.left_shift(bits[..., 1:, :], np.uint64(WORD - by), out=carried)
        moved[..., :-1, :] |= carried
    return moved

"""Masks as bits: what boundary measures need of a mask, straight from its run-length code and only inside a window.

A *bit image* is a uint64 array (..., words, columns): 64 rows of a column in a word, the first row in the lowest bit. COCO's
code runs down the columns, so that runs become bits without an image of pixels in between, and each operation takes 64
pixels at once. Columns come last because NumPy is fast along the last axis, and there are more columns than words.
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
    """A run-length code that is not one of a mask of its size; one line."""


@dataclass(frozen=True)
class Runs:
    """A mask as the flat column-major positions where it changes its value, beginning outside.

    Attributes:
        height, width: of the mask, pixels.
        edges: (2n,) int64, ascending, begin and end (exclusive) of each run of foreground.
    """

    height: int
    width: int
    edges: np.ndarray

    @cached_property
    def area(self) -> int:
        """Pixels of foreground."""
        return int((self.edges[1::2] - self.edges[::2]).sum())

    @cached_property
    def box(self) -> Window:
        """The smallest window with all foreground, or a higher one where a run goes on in the next column."""
        columns, rows = np.divmod(self.edges, self.height)
        begin, end = columns[::2], columns[1::2]
        at_end = rows[1::2] == 0  # up to the last row: the exclusive end is the next column's first row
        if ((end - at_end) != begin).any():
            top, bottom = 0, self.height
        else:
            top = int(rows[::2].min())
            bottom = self.height if at_end.any() else int(rows[1::2].max())
        return Window(top, bottom, int(begin[0]), int(end[-1] - at_end[-1]) + 1)


@dataclass(frozen=True)
class Window:
    """Rows top to bottom and columns left to right of an image, the ends exclusive."""

    top: int
    bottom: int
    left: int
    right: int

    def union(self, other: Window) -> Window:
        """The smallest window that holds both."""
        return Window(
            min(self.top, other.top),
            max(self.bottom, other.bottom),
            min(self.left, other.left),
            max(self.right, other.right),
        )

    def grown(self, by: int, height: int, width: int) -> Window:
        """With `by` more rows and columns on each side, as far as the image goes."""
        return Window(
            max(0, self.top - by), min(height, self.bottom + by), max(0, self.left - by), min(width, self.right + by)
        )

    @property
    def words(self) -> int:
        """Of a bit image inside."""
        return -(-(self.bottom - self.top) // WORD) * (self.right - self.left)

    def touches(self, other: Window) -> bool:
        """Whether they share a pixel."""
        return (
            self.top < other.bottom and other.top < self.bottom and self.left < other.right and other.left < self.right
        )


def runs(codes: Sequence[Rle]) -> list[Runs]:
    """The runs of masks in COCO's compressed code, all in one pass: a mask's codes are short, and NumPy's calls are not free.

    A count is written as digits of 5 bits, the lowest first, a sixth bit on all but the last, the sign in the last; from the
    fourth count on it is the difference to the count before the previous one.

    Raises RleError, naming the position, where counts are not those of a mask of their size.
    """
    if not codes:
        return []
    sizes = np.array([code["size"] for code in codes], np.int64)
    ends = np.cumsum([len(code["counts"]) for code in codes])
    chars = np.frombuffer(b"".join(code["counts"] for code in codes), np.uint8) - np.uint8(48)  # below 48: large
    _refuse(codes, np.diff(ends, prepend=0) == 0, "the run-length code is empty")
    _refuse(codes, np.maximum.reduceat(chars, np.r_[0, ends[:-1]]) > 63, "not a compressed run-length code")
    _refuse(codes, chars[ends - 1] > 31, "the run-length code is cut short")

    last = np.flatnonzero(chars < 32)  # of each count
    first = np.r_[0, last[:-1] + 1]
    digits = last - first + 1
    numbers = np.diff(np.searchsorted(last, ends), prepend=0)  # of counts, by code
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
    without = bool(np.any(counts[place % 2 == 1] == 0))
    found = []
    for (height, width), start, number in zip(sizes.tolist(), begin.tolist(), numbers.tolist(), strict=True):
        mine = edges[start : start + number // 2 * 2]  # an odd number of counts ends with background
        if without:  # runs of no pixel
            mine = mine.reshape(-1, 2)[mine[::2] < mine[1::2]].ravel()
        found.append(Runs(height, width, mine))
    return found


def _refuse(codes: Sequence[Rle], wrong: np.ndarray, reason: str) -> None:
    if wrong.any():
        place = int(np.argmax(wrong))
        height, width = codes[place]["size"]
        raise RleError(f"mask {place} of {height} x {width}: {reason}: {bytes(codes[place]['counts'][:40])!r}")


def pack(masks: Sequence[Runs], window: Window) -> np.ndarray:
    """The bit images (n, words, columns) of masks of one size inside a window that holds all their foreground.

    A run from bit b to before bit e of a word is 2^e - 2^b. Modulo 2^64 this also holds for the word in which a run begins
    that goes on in the next one, without its 2^e; a word into which a run comes over has 1 less, without its 2^b.
    """
    height, width = masks[0].height, masks[0].width
    rows, columns = window.bottom - window.top, window.right - window.left
    words = -(-rows // WORD)
    # all masks as one long image, side by side with a column between them, in which a run of the last column may end
    edges = np.concatenate([mask.edges + place * height * (width + 1) for place, mask in enumerate(masks)])
    starts = ((width + 1) * np.arange(len(masks))[:, None] + np.arange(window.left, window.right)) * height + window.top
    from_before = np.searchsorted(edges, starts) & 1  # runs that come over from the column before
    column, row = np.divmod(edges, height)
    row -= window.top
    image = np.repeat(np.arange(len(masks)), [mask.edges.size for mask in masks])
    column -= image * (width + 1) + window.left
    places = (image * words + (row >> 6)) * columns + column
    powers = _ONE << (row & 63).astype(np.uint64)
    np.negative(powers[::2], out=powers[::2])
    inside = (row >= 0) & (row < rows) & (column < columns)
    if not inside.all():  # a run may end in the row under the window, which is not in it
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

    A pixel is on the boundary where it differs from its right, its lower or its lower right neighbour; in the last row
    only the right one counts, in the last column only the lower one, and the last corner is never on it.

    The map of a window is that of the image inside the window, if the window ends at the image's end or with a row and a
    column without foreground: there all neighbours are equal, and so are those that the rule leaves out.
    """
    lower = _down(bits, 1, np.empty_like(bits), np.empty_like(bits[..., 1:, :]))
    edges = bits ^ lower
    edges[..., :-1] |= bits[..., :-1] ^ lower[..., 1:]
    edges &= _rows(rows - 1, bits.shape[-2])
    edges[..., :-1] |= bits[..., :-1] ^ bits[..., 1:]
    return np.asarray(edges)


def dilate(bits: np.ndarray, radius: int) -> np.ndarray:
    """Dilation of bit images (n, words, columns) by the disk x^2 + y^2 <= radius^2.

    Exact inside the window for what lies inside the window.

    For each distance across, the disk is a segment along the columns: `along` grows from the shortest segment, at the
    largest distance, to the longest. The work grows with the radius and not with the disk's area. Bits under the last
    row may be set afterwards.
    """
    images, words, columns = bits.shape
    along = np.zeros((images, words, columns + radius), np.uint64)  # what is shifted over a side ends in the margin
    along[..., :columns] = bits
    result = np.zeros_like(along)
    flat, flat_result = along.reshape(-1), result.reshape(-1)
    scratch = np.empty_like(along), np.empty((images, words - 1, columns + radius), np.uint64)
    reach = 0
    for across in range(min(radius, columns - 1), -1, -1):
        for step in _steps(reach, math.isqrt(radius * radius - across * across)):
            # one after the other: what went up by `step` comes down to where it was, and the rest goes below
            along |= _up(along, step, *scratch)
            along |= _down(along, step, *scratch)
            reach += step
        flat_result[across:] |= flat[: flat.size - across]
        if across:
            flat_result[:-across] |= flat[across:]
    return result[..., :columns]


def without_gaps(bits: np.ndarray, radius: int) -> np.ndarray:
    """The bit images without columns that are empty in all of them and further than `radius` right of the last one that is not.

    Pixels keep their distances up to `radius`, and none comes nearer than that.
    """
    filled = np.flatnonzero(bits.any(axis=(0, 1)))
    columns = np.arange(bits.shape[-1])
    before = filled[np.maximum(np.searchsorted(filled, columns, side="right") - 1, 0)]
    keep = (columns >= before) & (columns - before <= radius)
    return bits if keep.all() else bits[..., keep]


def count(bits: np.ndarray) -> np.ndarray:
    """Number of pixels of each bit image: int64 (...)."""
    total: np.ndarray = np.bitwise_count(bits).sum(axis=(-2, -1), dtype=np.int64)
    return total


def _steps(reach: int, target: int) -> Iterator[int]:
    """Shifts that widen a segment of 2 reach + 1 pixels to 2 target + 1, each to both sides.

    A shift is at most reach + 1, so that each half of the segment grows without gaps from what lies on its own side: the
    other half may be cut off by the window's end.
    """
    while reach < target:
        step = min(target - reach, reach + 1, WORD - 1)
        yield step
        reach += step


def _rows(rows: int, words: int | None = None) -> np.ndarray:
    """A column (words, 1) with its first `rows` bits set."""
    words = -(-rows // WORD) if words is None else words
    line = np.zeros(words, np.uint64)
    line[: rows // WORD] = ~np.uint64(0)
    if rows % WORD:
        line[rows // WORD] = (_ONE << np.uint64(rows % WORD)) - _ONE
    return line[:, None]


def _up(bits: np.ndarray, by: int, moved: np.ndarray, carried: np.ndarray) -> np.ndarray:
    """Every pixel `by` rows further from the first row, in `moved`; `carried` has the size of all words but one a column."""
    np.left_shift(bits, np.uint64(by), out=moved)
    if carried.size:
        np.right_shift(bits[..., :-1, :], np.uint64(WORD - by), out=carried)
        moved[..., 1:, :] |= carried
    return moved


def _down(bits: np.ndarray, by: int, moved: np.ndarray, carried: np.ndarray) -> np.ndarray:
    """Every pixel `by` rows nearer to the first row, in `moved`; as `_up`."""
    np.right_shift(bits, np.uint64(by), out=moved)
    if carried.size:
        np.left_shift(bits[..., 1:, :], np.uint64(WORD - by), out=carried)
        moved[..., :-1, :] |= carried
    return moved

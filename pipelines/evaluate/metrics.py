"""The measures of the public evaluators for each frame, computed from run-length codes.

J and F are those of DAVIS (davis2017/metrics.py). A and R are those of the ReVOS evaluation (tools/metrics.py in the VISA and
VRS-HQ code). That evaluation reads predictions as PNG files of 0 and 255 and compares them with ground truth of 0 and 1, which
distorts its A and R. This module computes both versions: as published, with that fault (`a`, `r`), and on 0/1 masks (`a_fixed`,
`r_fixed`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from pycocotools import mask as coco

from vrshq.operators.masks.bits import Runs, Window, boundary, count, dilate, pack, runs, without_gaps
from vrshq.operators.masks.rle import Rle

BOUNDARY_SHARE = 0.008  # of the image's diagonal
GROUP_WORDS = 8192  # 64-bit words of a group's true masks, and as many of its predicted ones: 128 KiB fit a fast cache
GROUP_WASTE = 0.3  # by this share the shared window may be larger than the pairs' own windows


@dataclass(frozen=True)
class FrameMeasures:
    """Measures of one expression. All arrays are (frames,).

    Several true masks on a frame count as their union, except for `a` and `r`, which use their sum.

    Attributes:
        pixels: number of pixels of a frame.
        j: region similarity, float64 in 0..1.
        f: boundary F-measure, float64 in 0..1.
        a: accuracy, float64, as the public evaluation computes it in 8-bit arithmetic.
        r: robustness, float64, as the public evaluation computes it in 8-bit arithmetic; NaN without a foreground.
        a_fixed: share of pixels that are right, on 0/1 masks, float64 in 0..1.
        r_fixed: max(0, 1 - false positives / foreground of all objects) on 0/1 masks, float64; NaN without a foreground.
        truth_area: pixels of the true mask, int64.
        predicted_area: pixels of the predicted mask, int64.
        intersection: pixels of both, int64.
        union: pixels of either, int64.
    """

    pixels: int
    j: np.ndarray
    f: np.ndarray
    a: np.ndarray
    r: np.ndarray
    a_fixed: np.ndarray
    r_fixed: np.ndarray
    truth_area: np.ndarray
    predicted_area: np.ndarray
    intersection: np.ndarray
    union: np.ndarray


@dataclass(frozen=True)
class Overlap:
    """J and F of one frame in 0..1, and the areas of its masks in pixels."""

    j: float
    f: float
    truth_area: int
    predicted_area: int
    intersection: int

    @property
    def union(self) -> int:
        """Pixels in either mask."""
        return self.truth_area + self.predicted_area - self.intersection


@cache
def tolerance(height: int, width: int) -> int:
    """The largest distance of matching boundaries in pixels: 8 at 480x854, 12 at 720x1280, 18 at 1080x1920.

    It is `BOUNDARY_SHARE` of the image's diagonal, rounded up (davis2017/metrics.py).
    """
    return int(np.ceil(BOUNDARY_SHARE * np.linalg.norm((height, width))))


def measure(
    truth: Sequence[Sequence[Rle]],
    predicted: Sequence[Rle],
    foreground: Sequence[Sequence[Rle]] | None = None,
    *,
    value: int = 255,
) -> FrameMeasures:
    """Measures the predicted masks of one expression.

    Cost: a pair of masks is packed into bits inside their common box (`vrshq.operators.masks.bits`). Whole images are decoded
    only for frames whose true masks overlap.

    Args:
        truth: for each frame the masks whose sum is the ground truth; empty for a frame without the object.
        predicted: one mask per frame.
        foreground: for each frame the masks whose sum is the annotated foreground of all objects; None: R is NaN.
        value: value of a predicted pixel in the files that the public evaluation reads: 255 or 1.

    Raises:
        ValueError: the numbers of frames or the sizes differ, or there is no frame.
        RleError: a run-length code is broken.
    """
    if not predicted or len(truth) != len(predicted) or (foreground is not None and len(foreground) != len(predicted)):
        frames = [len(truth), len(predicted), *([] if foreground is None else [len(foreground)])]
        raise ValueError(f"expected as many frames of truth, prediction and foreground, at least one; got {frames}")
    height, width = predicted[0]["size"]
    _check_sizes((height, width), predicted, truth, foreground or ())
    truths = runs([merged(masks, height, width) for masks in truth])
    rows = []
    for position, frame in enumerate(overlaps(truths, runs(predicted))):
        levels = _levels(truth[position], frame, predicted[position])
        around = None if foreground is None else foreground[position]
        rows.append(
            (
                frame.j,
                frame.f,
                _accuracy(levels, height * width, value),
                _robustness(levels, around, value),
                (height * width - frame.union + frame.intersection) / (height * width),
                _robustness_fixed(frame, around, height, width),
                frame.truth_area,
                frame.predicted_area,
                frame.intersection,
                frame.union,
            )
        )
    columns = [np.array(column) for column in zip(*rows, strict=True)]
    measures = [column.astype(np.float64) for column in columns[:6]]
    areas = [column.astype(np.int64) for column in columns[6:]]
    return FrameMeasures(height * width, *measures, *areas)


def merged(masks: Sequence[Rle], height: int, width: int) -> Rle:
    """The union of masks of one size; an empty mask if there are none."""
    if len(masks) == 1:
        return masks[0]
    if not masks:
        empty: Rle = coco.frPyObjects({"size": [height, width], "counts": [height * width]}, height, width)
        return empty
    union: Rle = coco.merge([{"size": list(mask["size"]), "counts": mask["counts"]} for mask in masks])
    return union


def overlaps(truth: Sequence[Runs], predicted: Sequence[Runs]) -> list[Overlap]:
    """J and F of pairs of masks, all of one size (definitions of davis2017/metrics.py).

    J is intersection over union, and 1 if both masks are empty. F is the harmonic mean of precision and recall of the
    boundaries: the share of each boundary that lies within `tolerance` of the other. A mask that is empty or covers the image
    has no boundary. F is 0 if one of the masks has none, and 1 if both have none.

    Pairs with nearly the same window are measured together, because NumPy's cost per call is the same for small arrays.

    Args:
        truth: true masks.
        predicted: predicted masks, as many.
    """
    found: dict[int, Overlap] = {}
    open_pairs: list[tuple[int, Window]] = []
    for place, (true, guess) in enumerate(zip(truth, predicted, strict=True)):
        done = _without_pixels(true, guess)
        if done is not None:
            found[place] = done
        else:
            window = true.box.union(guess.box).grown(1, true.height, true.width)
            open_pairs.append((place, window))
    for places, window in _groups(open_pairs):
        found |= _in_window(truth, predicted, places, window)
    return [found[place] for place in range(len(truth))]


def _without_pixels(truth: Runs, predicted: Runs) -> Overlap | None:
    """The result if runs and boxes determine it: equal masks, an empty mask, or masks further apart than the tolerance."""
    height, width = truth.height, truth.width
    areas = truth.area, predicted.area
    if np.array_equal(truth.edges, predicted.edges):
        return Overlap(1.0, 1.0, *areas, areas[0])
    if 0 in areas:
        return Overlap(0.0, float(height * width in areas), *areas, 0)
    # a boundary reaches one pixel beyond its mask
    near = truth.box.grown(tolerance(height, width) + 1, height, width).touches(predicted.box.grown(1, height, width))
    return None if near else Overlap(0.0, 0.0, *areas, 0)


def _groups(pairs: Sequence[tuple[int, Window]]) -> Iterator[tuple[list[int], Window]]:
    """Groups of neighbouring pairs with a shared window that wastes little and fits into a fast cache."""
    places: list[int] = []
    shared, alone = Window(0, 0, 0, 0), 0
    for place, window in pairs:
        wider = shared.union(window) if places else window
        words = wider.words * (len(places) + 1)
        if places and (words > GROUP_WORDS or words > (1 + GROUP_WASTE) * (alone + window.words)):
            yield places, shared
            places, wider, alone = [], window, 0
        places.append(place)
        shared, alone = wider, alone + window.words
    if places:
        yield places, shared


def _in_window(
    truth: Sequence[Runs], predicted: Sequence[Runs], places: Sequence[int], window: Window
) -> dict[int, Overlap]:
    bits = pack([side[place] for place in places for side in (truth, predicted)], window)
    intersections = count(bits[::2] & bits[1::2]).tolist()
    radius = tolerance(truth[places[0]].height, truth[places[0]].width)
    edges = without_gaps(boundary(bits, window.bottom - window.top), radius)
    lengths = count(edges).tolist()
    other = dilate(edges, radius).reshape(len(places), 2, *edges.shape[1:])[:, ::-1].reshape(edges.shape)
    matched = count(edges & other).tolist()
    found = {}
    for number, place in enumerate(places):
        areas = truth[place].area, predicted[place].area
        j = intersections[number] / (sum(areas) - intersections[number])
        both = slice(2 * number, 2 * number + 2)
        found[place] = Overlap(j, _f_measure(matched[both], lengths[both]), *areas, intersections[number])
    return found


def _f_measure(matched: Sequence[int], lengths: Sequence[int]) -> float:
    """The harmonic mean of recall and precision, in the order of operations of davis2017/metrics.py.

    Args:
        matched: matched boundary pixels of truth and prediction.
        lengths: boundary pixels of truth and prediction.
    """
    if 0 in lengths:
        return float(lengths[0] == lengths[1])
    recall, precision = matched[0] / lengths[0], matched[1] / lengths[1]
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _levels(masks: Sequence[Rle], frame: Overlap, predicted: Rle) -> dict[tuple[int, bool], int]:
    """Number of pixels by (sum of the true masks, whether predicted), without the pixels outside all masks.

    The sum exceeds 1 only where true masks overlap. Without an overlap, the areas give the numbers without decoding.
    """
    if len(masks) < 2 or int(coco.area(list(masks)).sum()) == frame.truth_area:
        return {
            (1, True): frame.intersection,
            (1, False): frame.truth_area - frame.intersection,
            (0, True): frame.predicted_area - frame.intersection,
        }
    total = coco.decode(list(masks)).sum(axis=2, dtype=np.uint8)
    guess = coco.decode(predicted).astype(bool)
    levels = {(int(level), True): int(number) for level, number in enumerate(np.bincount(total[guess]))}
    levels |= {(level, False): int(number) for level, number in enumerate(np.bincount(total[~guess])) if level}
    return levels


def _accuracy(levels: dict[tuple[int, bool], int], pixels: int, value: int) -> float:
    """Share of pixels whose truth equals the prediction by value; `value` is that of a predicted pixel."""
    background = pixels - sum(levels.values())
    equal = sum(number for (level, predicted), number in levels.items() if level == (value if predicted else 0))
    return (background + equal) / pixels


def _robustness(levels: dict[tuple[int, bool], int], foreground: Sequence[Rle] | None, value: int) -> float:
    """max(0, 1 - sum((1 - truth) * prediction) / (sum(foreground) + 1e-6)), the product in 8-bit arithmetic."""
    if foreground is None:
        return math.nan
    wrong = sum(
        number * ((((1 - level) % 256) * value) % 256) for (level, predicted), number in levels.items() if predicted
    )
    total = int(coco.area(list(foreground)).sum()) if foreground else 0
    return max(1 - wrong / (total + 1e-6), 0.0)


def _robustness_fixed(frame: Overlap, foreground: Sequence[Rle] | None, height: int, width: int) -> float:
    if foreground is None:
        return math.nan
    total = int(coco.area(merged(foreground, height, width)))
    return max(1 - (frame.predicted_area - frame.intersection) / (total + 1e-6), 0.0)


def _check_sizes(size: tuple[int, int], predicted: Sequence[Rle], *others: Sequence[Sequence[Rle]]) -> None:
    sizes = {tuple(mask["size"]) for mask in predicted}
    sizes |= {tuple(mask["size"]) for frames in others for masks in frames for mask in masks}
    if sizes != {tuple(size)}:
        raise ValueError(f"masks of several sizes: {', '.join(f'{h}x{w}' for h, w in sorted(sizes))}")

"""Coverage of pixels by objects, and the objects' masks after occlusion."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from vrshq.operators.synth.shapes import Contours

SHIFT = 4  # fractional bits of the vertices in OpenCV's polygon filling


@dataclass(frozen=True, eq=False)
class Patch:
    """Coverage (h, w) float32 in 0..1 of a rectangle of the frame whose upper left pixel is in row `top`, column `left`."""

    top: int
    left: int
    coverage: np.ndarray

    @property
    def window(self) -> tuple[slice, slice]:
        """The rows and columns of a frame (H, W) that the patch covers."""
        height, width = self.coverage.shape
        return slice(self.top, self.top + height), slice(self.left, self.left + width)


def cover(contours: Contours, height: int, width: int, streak: np.ndarray) -> Patch | None:
    """Coverage of closed contours in a frame.

    Each pixel has 4 x 4 samples, 2 x 2 in frames whose shorter side exceeds 300 pixels.

    Args:
        contours: closed polygons (K, 2) of x, y in pixels; the centre of the upper left pixel is 0.5, 0.5.
        height: height of the frame, in pixels.
        width: width of the frame, in pixels.
        streak: (2,) displacement x, y in pixels while the shutter is open; the coverage is averaged along it.

    Returns:
        The coverage, or None if the contours touch no pixel of the frame.
    """
    points = np.concatenate(contours)
    reach = np.abs(streak) / 2 + 1
    left, top = np.floor(points.min(axis=0) - reach).astype(int)
    right, bottom = np.ceil(points.max(axis=0) + reach).astype(int)
    left, top, right, bottom = max(left, 0), max(top, 0), min(right, width), min(bottom, height)
    if left >= right or top >= bottom:
        return None
    # the canvas is larger by the streak: parts that enter the frame while the shutter is open count too
    pad = int(np.ceil(np.abs(streak).max())) if np.abs(streak).max() >= 1 else 0
    fine = 4 if min(height, width) <= 300 else 2
    size = ((right - left + 2 * pad), (bottom - top + 2 * pad))
    canvas = np.zeros((size[1] * fine, size[0] * fine), np.uint8)
    corners = [
        np.round(((contour - (left - pad, top - pad)) * fine - 0.5) * (1 << SHIFT)).astype(np.int32)
        for contour in contours
    ]
    cv2.fillPoly(canvas, corners, 255, shift=SHIFT)
    coverage = cv2.resize(canvas, size, interpolation=cv2.INTER_AREA).astype(np.float32) / np.float32(255)
    if pad:
        coverage = cv2.filter2D(coverage, -1, _line(streak), borderType=cv2.BORDER_CONSTANT)[pad:-pad, pad:-pad]
    if not coverage.any():
        return None
    return Patch(int(top), int(left), coverage)


def _line(streak: np.ndarray) -> np.ndarray:
    """A kernel (k, k) float32 that averages along a segment with the length and direction of `streak`."""
    half = int(np.ceil(np.abs(streak).max() / 2))
    kernel = np.zeros((2 * half + 1, 2 * half + 1), np.float32)
    steps = np.linspace(-0.5, 0.5, 4 * half + 5)
    places = np.round(half + steps[:, None] * streak).astype(int)
    np.add.at(kernel, (places[:, 1], places[:, 0]), 1)
    averaging: np.ndarray = kernel / kernel.sum()
    return averaging


@dataclass(frozen=True, eq=False)
class Layers:
    """Coverage and visibility of n objects in T frames.

    Attributes:
        patches: patches[t][i] is the patch of object i in frame t; objects are ordered from back to front. None where the
            object is outside the frame or absent.
        masks: (n, T, H, W) bool. A pixel belongs to an object where the object's coverage, times the share that all
            objects in front leave uncovered, is at least 0.5. If two objects reach exactly 0.5, it belongs to the front
            one.
        inside: (n, T) float64, pixels that the object covers in the frame, without occlusion.
        visible: (n, T) float64, pixels that the object covers in the frame, less those that objects in front cover.
        hidden_by: (n, n, T) float64; [i, j] is the share of object i's `inside` that object j, in front of it, covers.
    """

    patches: list[list[Patch | None]]
    masks: np.ndarray
    inside: np.ndarray
    visible: np.ndarray
    hidden_by: np.ndarray


def layer(patches: list[list[Patch | None]], height: int, width: int) -> Layers:
    """Computes masks and visibility from `patches[t][i]`, whose objects are ordered from back to front."""
    frames, count = len(patches), len(patches[0])
    masks = np.zeros((count, frames, height, width), bool)
    inside, visible = np.zeros((count, frames)), np.zeros((count, frames))
    hidden_by = np.zeros((count, count, frames))
    for frame, row in enumerate(patches):
        uncovered = np.ones((height, width), np.float32)
        taken = np.zeros((height, width), bool)
        for number in reversed(range(count)):
            patch = row[number]
            if patch is None:
                continue
            own = patch.coverage * uncovered[patch.window]
            mask = (own >= 0.5) & ~taken[patch.window]
            masks[number, frame][patch.window] = mask
            taken[patch.window] |= mask
            uncovered[patch.window] *= 1 - patch.coverage
            inside[number, frame] = patch.coverage.sum(dtype=np.float64)
            visible[number, frame] = own.sum(dtype=np.float64)
            for front in range(number + 1, count):
                shared = _shared(patch, row[front])
                if shared:
                    hidden_by[number, front, frame] = shared / inside[number, frame]
    return Layers(patches, masks, inside, visible, hidden_by)


def _shared(one: Patch, other: Patch | None) -> float:
    """The area, in pixels, that both patches cover."""
    if other is None:
        return 0.0
    top, left = max(one.top, other.top), max(one.left, other.left)
    bottom = min(one.top + one.coverage.shape[0], other.top + other.coverage.shape[0])
    right = min(one.left + one.coverage.shape[1], other.left + other.coverage.shape[1])
    if top >= bottom or left >= right:
        return 0.0
    first = one.coverage[top - one.top : bottom - one.top, left - one.left : right - one.left]
    second = other.coverage[top - other.top : bottom - other.top, left - other.left : right - other.left]
    return float((first * second).sum(dtype=np.float64))

"""Whether masks lie on the frames that they were drawn on: another shift in time fits some data sets' videos better.

A mask's outline follows edges of its own frame. Where the object moves, the outline of frame t lies beside the edges of
frame t + s. So the strength of the edges under the outlines, as a function of s, has its peak at the true shift.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np

MOST = 5  # frames, the largest shift in either direction
LONGEST_SIDE = 384  # pixels of the pictures that are compared
# When another shift fits clearly better. A video of a still object, or a short one, has no clear answer.
_LEAST_PAIRS = 6
_LEAST_GAIN = 1.1
_LEAST_SHARE = 0.75
_LEAST_Z = 4.0


@dataclass(frozen=True)
class Shift:
    """Another shift in time that fits a video's masks better than the given one.

    Attributes:
        frames: the masks of frame t fit frame t + `frames`.
        gain: edges under the outlines at that shift, relative to no shift; 1.3 is 30 % stronger.
        better: masks that fit better at that shift.
        of: masks that were compared.
    """

    frames: int
    gain: float
    better: int
    of: int


def edges(frame: np.ndarray) -> np.ndarray:
    """The strength of a picture's edges, relative to the picture's mean.

    Args:
        frame: (H, W, 3) uint8.

    Returns:
        (h, w) float32, the longest side at most `LONGEST_SIDE`: the largest gradient of the three channels.
    """
    height, width = small_size(*frame.shape[:2])
    small = cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA).astype(np.float32)
    across, down = cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1)
    strength = np.hypot(across, down).max(axis=2)
    relative: np.ndarray = strength / max(float(strength.mean()), 1e-6)
    return relative


def outline(mask: np.ndarray) -> np.ndarray:
    """Indices into the flat (h, w) picture of `edges` where a mask's outline lies: (n,) int64, empty for an empty mask.

    Args:
        mask: (H, W) uint8, 0 or 1.
    """
    height, width = small_size(*mask.shape)
    small = (cv2.resize(mask * np.uint8(255), (width, height), interpolation=cv2.INTER_AREA) > 127).astype(np.uint8)
    # the picture's own border is no edge of the object
    inside = cv2.erode(small, np.ones((3, 3), np.uint8), borderType=cv2.BORDER_CONSTANT, borderValue=1)
    return np.flatnonzero(small - inside)


def small_size(height: int, width: int) -> tuple[int, int]:
    """(h, w) of the pictures that are compared; never larger than the frame."""
    scale = min(1.0, LONGEST_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def better_shift(pictures: Sequence[np.ndarray], objects: Sequence[Sequence[np.ndarray]]) -> Shift | None:
    """Another shift that fits the masks of a whole video clearly better than none; None without clear evidence.

    Clear: at least 10 % stronger edges on average, on at least three quarters of the masks, and a paired z-score of the
    difference of at least 4.

    Args:
        pictures: `edges` of consecutive frames, all of one size.
        objects: for each object its `outline` on each of these frames.
    """
    best: Shift | None = None
    for shift in (shift for shift in range(-MOST, MOST + 1) if shift):
        pairs = np.array(
            [
                (pictures[index].flat[line].mean(), pictures[index + shift].flat[line].mean())
                for lines in objects
                for index, line in enumerate(lines)
                if len(line) and 0 <= index + shift < len(pictures)
            ]
        )
        if len(pairs) < _LEAST_PAIRS:
            continue
        difference = pairs[:, 1] - pairs[:, 0]
        gain = float(pairs[:, 1].mean() / max(pairs[:, 0].mean(), 1e-6))
        better = int((difference > 0).sum())
        z = difference.mean() / max(difference.std(ddof=1) / np.sqrt(len(pairs)), 1e-6)
        clear = gain >= _LEAST_GAIN and better >= _LEAST_SHARE * len(pairs) and z >= _LEAST_Z
        if clear and (best is None or gain > best.gain):
            best = Shift(shift, gain, better, len(pairs))
    return best

"""Motion as a term of the choice of the keyframe: how much more the picture changes inside a candidate's mask than outside."""

from __future__ import annotations

import itertools

import cv2
import numpy as np

SIDE = 128  # longer side of the pictures that are compared, in pixels


def motion_scores(frames: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """The motion of a candidate mask on each of n sampled frames.

    A frame is compared with the sampled frames before and after it, in grey at `SIDE` pixels. The score is the mean absolute
    difference inside the mask minus that outside, so that motion of the whole picture counts for nothing.

    Args:
        frames: (n, H, W, 3) uint8, in order.
        masks: (n, H, W) bool.

    Returns:
        (n,) float64, in grey values -255 to 255; 0 for a mask that is empty or covers the frame, and where n is 1.
    """
    height, width = frames.shape[1:3]
    scale = min(1.0, SIDE / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    grey = [_small(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), size) for frame in frames]
    changes = [np.abs(after - before) for before, after in itertools.pairwise(grey)]
    scores = np.zeros(len(frames))
    for place, mask in enumerate(masks):
        near = changes[max(0, place - 1) : place + 1]
        inside = _small(mask.astype(np.uint8), size) >= 0.5
        if near and inside.any() and not inside.all():
            change = np.mean(near, axis=0)
            scores[place] = change[inside].mean() - change[~inside].mean()
    return scores


def _small(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    small: np.ndarray = cv2.resize(picture.astype(np.float32), size, interpolation=cv2.INTER_AREA)
    return small

"""J, F, A and R computed on whole images, one at a time: the reference for the fast measures."""

from __future__ import annotations

import cv2
import numpy as np


def jaccard(truth: np.ndarray, predicted: np.ndarray) -> float:
    """J: intersection over union of the non-zero pixels of two masks (H, W); 1 if both are empty."""
    either = np.count_nonzero((truth != 0) | (predicted != 0))
    return float(np.count_nonzero((truth != 0) & (predicted != 0)) / either) if either else 1.0


def boundary_map(mask: np.ndarray) -> np.ndarray:
    """Pixels that differ from their right, lower or lower right neighbour, bool (H, W)."""
    mask = mask != 0
    edges = np.zeros_like(mask)
    edges[:-1, :-1] = (mask[:-1, :-1] != mask[:-1, 1:]) | (mask[:-1, :-1] != mask[1:, :-1])
    edges[:-1, :-1] |= mask[:-1, :-1] != mask[1:, 1:]
    edges[-1, :-1] = mask[-1, :-1] != mask[-1, 1:]
    edges[:-1, -1] = mask[:-1, -1] != mask[1:, -1]
    return edges


def disk(radius: int) -> np.ndarray:
    """The structuring element x^2 + y^2 <= radius^2, uint8 (2 * radius + 1, 2 * radius + 1)."""
    offsets = np.arange(-radius, radius + 1)
    return (offsets[:, None] ** 2 + offsets**2 <= radius**2).astype(np.uint8)


def boundary_f(truth: np.ndarray, predicted: np.ndarray) -> float:
    """F: harmonic mean of boundary precision and recall; 0 if one mask has no boundary, 1 if both have none."""
    element = disk(int(np.ceil(0.008 * np.linalg.norm(truth.shape))))
    edges = [boundary_map(truth), boundary_map(predicted)]
    near = [cv2.dilate(one.astype(np.uint8), element) > 0 for one in edges]
    true, found = (int(one.sum()) for one in edges)
    if not true or not found:
        return float(true == found)
    recall, precision = int((edges[0] & near[1]).sum()) / true, int((edges[1] & near[0]).sum()) / found
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def accuracy(truth: np.ndarray, predicted: np.ndarray) -> float:
    """A: share of equal values of two images uint8 (H, W)."""
    return float(np.mean(truth == predicted))


def robustness(truth: np.ndarray, predicted: np.ndarray, foreground: np.ndarray) -> float:
    """R in uint8 arithmetic, as in the public script, of images uint8 (H, W). For 0/1 images it is the corrected R."""
    wrong = ((np.uint8(1) - truth) * predicted).sum()
    return float(max(1 - wrong / (foreground.sum() + 1e-6), 0.0))

"""Filling of small holes in low-resolution mask logits."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor


def fill_holes(low_res: Tensor, hole_area: int) -> Tensor:
    """Sets small holes of low-resolution mask logits to 0.1, as SAM2's `fill_holes_in_mask_scores` does on a GPU.

    A hole is an 8-connected region of logits <= 0 with at most `hole_area` pixels. A second call changes nothing more.

    Cost: one copy of a byte per pixel to the host for the whole batch, and one labelling of each mask. Areas are counted
    only in masks whose background has several regions.

    Args:
        low_res: (B, l, l) float; it is not changed.
        hole_area: largest area of a hole, in low-resolution pixels; 0: no hole is filled.

    Returns:
        (B, l, l) logits.
    """
    if hole_area <= 0:
        return low_res
    background = (low_res <= 0).cpu().numpy().view(np.uint8)
    found = {place: holes for place, image in enumerate(background) if (holes := _holes(image, hole_area)) is not None}
    if not found:
        return low_res
    holes = np.zeros(background.shape, dtype=bool)
    for place, own in found.items():
        holes[place] = own
    return torch.where(torch.from_numpy(holes).to(low_res.device), 0.1, low_res)


def _holes(background: np.ndarray, hole_area: int) -> np.ndarray | None:
    """The pixels (l, l) bool of small regions of a background (l, l) uint8; None where there are none."""
    # narrow labels are faster; no two regions share a block of 2x2 pixels, so a quarter of the pixels bounds their number
    narrow = (background.shape[0] + 1) // 2 * ((background.shape[1] + 1) // 2) < 1 << 16
    count, labels = cv2.connectedComponents(background, connectivity=8, ltype=cv2.CV_16U if narrow else cv2.CV_32S)
    if count == 1 or (count == 2 and cv2.countNonZero(background) > hole_area):
        return None
    small = np.bincount(labels.ravel(), minlength=count) <= hole_area
    small[0] = False  # label 0 is the foreground here
    return np.take(small, labels) if small.any() else None

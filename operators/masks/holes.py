"""Filling of small holes in low-resolution mask logits."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor


def fill_holes(low_res: Tensor, hole_area: int) -> Tensor:
    """Sets small holes of low-resolution mask logits to 0.1, as SAM2's `fill_holes_in_mask_scores` does on a GPU.

    A hole is an 8-connected region of logits <= 0 with at most `hole_area` pixels.

    Args:
        low_res: (B, l, l) float; it is not changed.
        hole_area: largest area of a hole, in low-resolution pixels; 0: no hole is filled.

    Returns:
        (B, l, l) logits.
    """
    if hole_area <= 0:
        return low_res
    background = (low_res <= 0).to(torch.uint8).cpu().numpy()
    holes = np.zeros(background.shape, dtype=bool)
    for index, image in enumerate(background):
        count, labels, stats, _ = cv2.connectedComponentsWithStats(image, connectivity=8)
        small = stats[:, cv2.CC_STAT_AREA] <= hole_area
        small[0] = False  # label 0 is the foreground here
        if count > 1 and small.any():
            holes[index] = small[labels]
    if not holes.any():
        return low_res
    return torch.where(torch.from_numpy(holes).to(low_res.device), 0.1, low_res)

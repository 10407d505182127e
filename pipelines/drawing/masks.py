"""A mask drawn over a picture."""

from __future__ import annotations

import cv2
import numpy as np

Color = tuple[int, int, int]

MASK_COLOR: Color = (255, 45, 170)
KEYFRAME_COLOR: Color = (255, 196, 46)
MASK_OPACITY = 0.42


def overlaid(picture: np.ndarray, mask: np.ndarray, color: Color = MASK_COLOR) -> np.ndarray:
    """The picture with the mask in a translucent colour, outlined in white inside black to be visible on any background."""
    height, width = picture.shape[:2]
    shrinks = mask.shape[1] >= width
    filter_ = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=filter_)
    inside = cover >= 0.5
    if not inside.any():
        inside = cover > 0  # a mask smaller than a pixel of the sheet is enlarged to be visible
    blend = MASK_OPACITY * np.maximum(cover, inside)[..., None]
    mixed: np.ndarray = (picture * (1 - blend) + np.array(color) * blend).round().astype(np.uint8)
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(mixed, outlines, -1, (0, 0, 0), 3)
    cv2.drawContours(mixed, outlines, -1, (255, 255, 255), 1)
    return mixed

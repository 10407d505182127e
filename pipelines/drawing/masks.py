"""A mask drawn over a picture."""

from __future__ import annotations

import cv2
import numpy as np

Color = tuple[int, int, int]

MASK_COLOR: Color = (255, 45, 170)
KEYFRAME_COLOR: Color = (255, 196, 46)
MASK_OPACITY = 0.42
# The colours of several objects, which differ in lightness, too (after Okabe and Ito); later objects begin again.
OBJECT_COLORS: tuple[Color, ...] = (
    MASK_COLOR,
    (0, 158, 255),
    (240, 228, 66),
    (0, 190, 120),
    (213, 94, 0),
    (150, 110, 255),
    (120, 235, 235),
    (190, 190, 190),
)


def color_of(number: int) -> Color:
    """The colour of an object by its number."""
    return OBJECT_COLORS[number % len(OBJECT_COLORS)]


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

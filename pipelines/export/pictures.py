"""Masks as PNG: one channel with 0 and 255, or a palette image whose values are object ids."""

from __future__ import annotations

import io
from collections.abc import Mapping

import cv2
import numpy as np
from PIL import Image

from vrshq.operators.masks.rle import decode
from vrshq.pipelines.export.answers import FrameMask, RunVideo

MOST_OBJECTS = 255  # a palette image has 256 values, one of them for no object


def binary_png(mask: FrameMask, height: int, width: int) -> bytes:
    """One channel, 8 bits, 0 and 255."""
    pixels = np.ascontiguousarray(decode(mask.rle, height, width)) * np.uint8(255)
    return cv2.imencode(".png", pixels)[1].tobytes()  # half the time of Pillow's


def painted(video: RunVideo, masks: Mapping[int, FrameMask | None]) -> np.ndarray:
    """The object ids (H, W) uint8 of one frame: the winner's key + 1, 0 where no object is.

    The object with the highest score wins a pixel, the lowest key among equals.
    """
    ids = np.zeros((video.height, video.width), np.uint8)
    given = [(mask, key) for key, mask in masks.items() if mask and mask.area]
    # the winner is painted last
    for mask, key in sorted(given, key=lambda item: (_rank(item[0].score), -item[1])):
        ids[decode(mask.rle, video.height, video.width) > 0] = key + 1
    return ids


def _rank(score: float | None) -> float:
    return -np.inf if score is None or np.isnan(score) else score


def palette_png(ids: np.ndarray) -> bytes:
    """A palette image of object ids (H, W) uint8, in the colours of PASCAL VOC, which DAVIS uses too."""
    image = Image.fromarray(ids)
    image.putpalette(voc_palette())  # turns the mode from L to P
    sink = io.BytesIO()
    image.save(sink, "PNG")
    return sink.getvalue()


def voc_palette() -> list[int]:
    """768 values: colour i takes its bits, three at a time, to the high ends of red, green and blue (VOC's devkit)."""
    return [
        sum((index >> (3 * bit + channel) & 1) << (7 - bit) for bit in range(8))
        for index in range(256)
        for channel in range(3)
    ]

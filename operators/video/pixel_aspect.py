"""Pixels that are not square: the size at which people see a frame."""

from __future__ import annotations

from typing import Any


def displayed_size(height: int, width: int, pixel_aspect: float) -> tuple[int, int]:
    """(height, width) at which people see a frame of `pixel_aspect` (width of a pixel over its height): no side shrinks."""
    if pixel_aspect >= 1:
        return height, round(width * pixel_aspect)
    return round(height / pixel_aspect), width


def pixel_aspect_of(video: Any) -> float:
    """The width of a video's pixels over their height; a video that states none has square ones."""
    ratio: float = getattr(video, "pixel_aspect", 1.0)
    return ratio

"""Frames whose size differs from the first one's: scaled to it, where the configuration allows it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

SHOWN_CHANGES = 5


def scaled(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An RGB picture (H, W, 3) uint8 at another (height, width), by Pillow's bilinear filter."""
    return np.asarray(Image.fromarray(picture).resize(size[::-1], Image.Resampling.BILINEAR))


def size_note(changes: Sequence[tuple[int, int, int]], size: tuple[int, int]) -> str:
    """The note of a video whose frames are scaled.

    Args:
        changes: (frame, height, width) at each change.
        size: (height, width) of the first frame.
    """
    words = [f"to {width}x{height} at frame {frame}" for frame, height, width in changes[:SHOWN_CHANGES]]
    if len(changes) > SHOWN_CHANGES:
        words.append(f"and {len(changes) - SHOWN_CHANGES} times more")
    return f"the frame size changes {', '.join(words)}; frames are scaled to {size[1]}x{size[0]}"

"""A frame as the vision tower reads it: resized twice as in the reference, normalised, and cut into patches."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resize

from vrshq.operators.video.pixel_aspect import displayed_size

FIRST_FACTOR, SECOND_FACTOR = 28, 32  # both sides become multiples of these
FIRST_MIN, FIRST_MAX = 4 * 784, 16384 * 784  # limits of the area after the first resize, pixels
MERGE = 2  # patches that become one token, along each side


@dataclass(frozen=True)
class Picture:
    """The patches of a frame.

    Attributes:
        patches: (h*w, 2*3*p*p) float32, in blocks of 2x2 patches; the frame twice along time.
        grid: (1, h, w), the number of patches along time, height and width.
    """

    patches: Tensor
    grid: tuple[int, int, int]

    @property
    def tokens(self) -> int:
        """Tokens that stand for the picture in the prompt."""
        return self.grid[1] * self.grid[2] // MERGE**2


def fitted(height: int, width: int, factor: int, least: int, most: int) -> tuple[int, int]:
    """Both sides to the nearest multiple of `factor` (halves to even), with an area from `least` to `most` pixels.

    Source: `smart_resize` of Qwen2-VL; the reference calls it first with factor 28, then with factor 32.
    """
    new_height, new_width = (max(factor, round(side / factor) * factor) for side in (height, width))
    if new_height * new_width > most:
        scale = math.sqrt(height * width / most)
        new_height, new_width = (max(factor, math.floor(side / scale / factor) * factor) for side in (height, width))
    elif new_height * new_width < least:
        scale = math.sqrt(least / (height * width))
        new_height, new_width = (math.ceil(side * scale / factor) * factor for side in (height, width))
    return new_height, new_width


def first_resize(frame: np.ndarray, pixel_aspect: float = 1.0) -> np.ndarray:
    """The first resize, by Pillow (bicubic): (H, W, 3) uint8 to multiples of 28, as people see the frame."""
    shown = displayed_size(frame.shape[0], frame.shape[1], pixel_aspect)
    height, width = fitted(*shown, FIRST_FACTOR, FIRST_MIN, FIRST_MAX)
    return np.asarray(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))


def picture(frame: np.ndarray, *, patch: int, least: int, most: int, pixel_aspect: float = 1.0) -> Picture:
    """The picture of a frame.

    Args:
        frame: (H, W, 3) uint8 RGB.
        patch: side of a patch, pixels.
        least: smallest area after the second resize, pixels.
        most: largest area after the second resize, pixels.
        pixel_aspect: width of a pixel over its height; the network sees the frame as people do.
    """
    pixels = torch.from_numpy(first_resize(frame, pixel_aspect).copy()).permute(2, 0, 1)
    size = fitted(pixels.shape[1], pixels.shape[2], SECOND_FACTOR, least, most)
    pixels = resize(pixels, list(size), interpolation=InterpolationMode.BICUBIC, antialias=True)
    return _cut((pixels.float() - 127.5) / 127.5, patch)


def _cut(pixels: Tensor, patch: int) -> Picture:
    rows, columns = (side // patch for side in pixels.shape[1:])
    blocks = pixels.view(3, rows // MERGE, MERGE, patch, columns // MERGE, MERGE, patch)
    # block row, block column, row in block, column in block, channel, row, column
    blocks = blocks.permute(1, 4, 2, 5, 0, 3, 6)[..., None, :, :].expand(-1, -1, -1, -1, -1, 2, -1, -1)
    return Picture(blocks.reshape(rows * columns, -1), (1, rows, columns))

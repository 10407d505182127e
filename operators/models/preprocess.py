"""The inputs of the three image networks, made from video frames.

SAM2 takes a padded square. The pre-sampling CLIP takes a centre crop. The MLLM's tower takes a centre crop of another size,
or the whole frame.

Frames are resized by Pillow as uint8, as in the reference, because its filters antialias. One frame is resized at a time.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from vrshq.operators.models.config import CLIP_MEAN, CLIP_STD, TowerConfig
from vrshq.operators.video.pixel_aspect import displayed_size

# SAM2's means and standard deviations of red, green and blue, on the 0..255 scale
SAM2_MEAN, SAM2_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

# the same on the 0..1 scale, as Sa2VA gives them
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def sam2_size(height: int, width: int, image_size: int) -> tuple[int, int]:
    """The (height, width) of a frame after its longest side is resized to `image_size` pixels; each is at least 1."""
    scale = image_size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


def sam2_input(frames: np.ndarray, image_size: int, pixel_aspect: float = 1.0) -> tuple[Tensor, tuple[int, int]]:
    """SAM2's input: the longest side resized to `image_size` (bilinear), normalised, then padded with zeros right and below.

    Args:
        frames: (n, H, W, 3) uint8 RGB.
        image_size: S, side of the square in pixels.
        pixel_aspect: width of a frame's pixels over their height; the network sees the frame as people do.

    Returns:
        (n, 3, S, S) float32, and the (height, width) that a frame covers in it.
    """
    height, width = sam2_size(*displayed_size(frames.shape[1], frames.shape[2], pixel_aspect), image_size)
    result = np.zeros((len(frames), 3, image_size, image_size), np.float32)
    for target, frame in zip(result, frames, strict=True):
        image = Image.fromarray(frame).resize((width, height), Image.Resampling.BILINEAR)
        target[:, :height, :width] = _normalized(np.asarray(image, np.float32), SAM2_MEAN, SAM2_STD)
    return torch.from_numpy(result), (height, width)


def square_input(frames: np.ndarray, image_size: int, _pixel_aspect: float = 1.0) -> tuple[Tensor, tuple[int, int]]:
    """SAM2's input in Sa2VA: frames resized to the square (bicubic) whatever their aspect, and normalised on the 0..1 scale.

    Args:
        frames: (n, H, W, 3) uint8 RGB.
        image_size: S, side of the square in pixels.

    Returns:
        (n, 3, S, S) float32, and (S, S): a frame covers all of it.
    """
    result = np.empty((len(frames), 3, image_size, image_size), np.float32)
    for target, frame in zip(result, frames, strict=True):
        image = Image.fromarray(frame).resize((image_size, image_size), Image.Resampling.BICUBIC)
        target[:] = _normalized(np.asarray(image, np.float32) / np.float32(255), IMAGENET_MEAN, IMAGENET_STD)
    return torch.from_numpy(result), (image_size, image_size)


def clip_input(frames: np.ndarray, image_size: int, pixel_aspect: float = 1.0) -> Tensor:
    """CLIP's input, for the MLLM's tower and for pre-sampling: shortest side resized to `image_size` (bicubic), centre crop.

    Pixels outside the central square of a frame have no influence.

    Args:
        frames: (n, H, W, 3) uint8 RGB.
        image_size: S, side of the square in pixels.
        pixel_aspect: width of a frame's pixels over their height; the network sees the frame as people do.

    Returns:
        (n, 3, S, S) float32.
    """
    frames = _central(frames, pixel_aspect)
    height, width = displayed_size(frames.shape[1], frames.shape[2], pixel_aspect)
    short = min(height, width)
    new_height, new_width = int(image_size * height / short), int(image_size * width / short)
    top, left = (new_height - image_size) // 2, (new_width - image_size) // 2
    result = np.empty((len(frames), 3, image_size, image_size), np.float32)
    for target, frame in zip(result, frames, strict=True):
        image = Image.fromarray(frame).resize((new_width, new_height), Image.Resampling.BICUBIC)
        target[:] = _clip_normalized(image.crop((left, top, left + image_size, top + image_size)))
    return torch.from_numpy(result)


@dataclass(frozen=True)
class View:
    """The rectangle of a frame that a network sees, in pixels of the frame, and the rows and columns of its patches."""

    left: int
    top: int
    width: int
    height: int
    rows: int
    columns: int


def tower_view(height: int, width: int, tower: TowerConfig) -> View:
    """The tower's view of a frame of `height` x `width` pixels.

    With `view: whole`, the grid has the frame's aspect and at most as many patches as the square grid.
    """
    side = tower.image_size // tower.patch_size
    short, long = min(height, width), max(height, width)
    if tower.view == "centre":
        return View((width - short) // 2, (height - short) // 2, short, short, side, side)
    few = max(1, round(side * (short / long) ** 0.5))
    many = min(side**2 // few, max(1, round(side * (long / short) ** 0.5)))
    rows, columns = (few, many) if height < width else (many, few)
    return View(0, 0, width, height, rows, columns)


def tower_input(frames: np.ndarray, tower: TowerConfig, pixel_aspect: float = 1.0) -> Tensor:
    """The input of the MLLM's tower: `clip_input`, or with `view: whole` the whole frame, resized (bicubic) to its grid.

    Args:
        frames: (n, H, W, 3) uint8 RGB.
        tower: sizes and view of the tower.
        pixel_aspect: width of a frame's pixels over their height; the network sees the frame as people do.

    Returns:
        (n, 3, h, w) float32; h and w are the rows and columns of `tower_view` times the patch's side.
    """
    if tower.view == "centre":
        return clip_input(frames, tower.image_size, pixel_aspect)
    view = tower_view(*displayed_size(frames.shape[1], frames.shape[2], pixel_aspect), tower)
    height, width = view.rows * tower.patch_size, view.columns * tower.patch_size
    result = np.empty((len(frames), 3, height, width), np.float32)
    for target, frame in zip(result, frames, strict=True):
        target[:] = _clip_normalized(Image.fromarray(frame).resize((width, height), Image.Resampling.BICUBIC))
    return torch.from_numpy(result)


def _central(frames: np.ndarray, pixel_aspect: float) -> np.ndarray:
    """Cuts frames longer than 16:1 to their central 16:1, so that resizing a 1 x 10,000 frame does not take gigabytes."""
    height, width = frames.shape[1:3]
    displayed = displayed_size(height, width, pixel_aspect)
    long = 16 * min(displayed)
    rows, columns = (
        stored if seen <= long else max(1, stored * long // seen)
        for stored, seen in zip((height, width), displayed, strict=True)
    )
    top, left = (height - rows) // 2, (width - columns) // 2
    return frames[:, top : top + rows, left : left + columns]


def _clip_normalized(image: Image.Image) -> np.ndarray:
    return _normalized(np.asarray(image, np.float32) / np.float32(255), CLIP_MEAN, CLIP_STD)


def _normalized(pixels: np.ndarray, mean: tuple[float, ...], std: tuple[float, ...]) -> np.ndarray:
    """Normalises (H, W, 3) to (3, H, W) float32, with NumPy: on one small image, torch's threads cost more than they save."""
    normalized: np.ndarray = (pixels - np.array(mean, np.float32)) / np.array(std, np.float32)
    return normalized.transpose(2, 0, 1)

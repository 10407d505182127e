"""The inputs of the three image networks, made from video frames.

SAM2 takes a padded square. The pre-sampling CLIP takes a centre crop. The MLLM's tower takes a centre crop of another size,
or the whole frame.

Frames are resized by Pillow as uint8, as in the reference, because its filters antialias. One frame is resized at a time.
The resized bytes go to the device (`*_pixels`), which normalises them (`Pixels.on`): a quarter of the copy, and none of the
arithmetic on the host. A GPU resizes them too, where it gives Pillow's bytes. `*_input` does all on the CPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from vrshq.operators.models.config import CLIP_MEAN, CLIP_STD, TowerConfig
from vrshq.operators.models.resample import Order, Resize, pillow_order, resample
from vrshq.operators.video.pixel_aspect import displayed_size

_CPU = torch.device("cpu")

# SAM2's means and standard deviations of red, green and blue, on the 0..255 scale
SAM2_MEAN, SAM2_STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)

# the same on the 0..1 scale, as Sa2VA gives them
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def sam2_size(height: int, width: int, image_size: int) -> tuple[int, int]:
    """The (height, width) of a frame after its longest side is resized to `image_size` pixels; each is at least 1."""
    scale = image_size / max(height, width)
    return max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5))


@dataclass(frozen=True)
class Scale:
    """How bytes become a network's values: divided by `unit`, less the mean, divided by the standard deviation."""

    unit: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


SAM2_SCALE = Scale(1.0, SAM2_MEAN, SAM2_STD)
IMAGENET_SCALE = Scale(255.0, IMAGENET_MEAN, IMAGENET_STD)
CLIP_SCALE = Scale(255.0, CLIP_MEAN, CLIP_STD)


@dataclass(frozen=True)
class Pixels:
    """Resized frames as bytes, and how a device makes a network's input of them.

    Attributes:
        rows: (n, h, w, 3) uint8 RGB.
        scale: of their values.
        square: S, the side of the square that is padded with zeros right and below; None: nothing is padded.
        made: for rows on a GPU, when they are there.
    """

    rows: Tensor
    scale: Scale
    square: int | None = None
    made: torch.cuda.Event | None = None

    @property
    def covered(self) -> tuple[int, int]:
        """The (height, width) that a frame covers in the input."""
        return self.rows.shape[1], self.rows.shape[2]

    def staged(self, device: torch.device) -> Pixels:
        """The same, to be used by another thread on a device. The bytes are put where a GPU copies them beside the host."""
        if self.rows.is_cuda:
            return replace(self, made=torch.cuda.current_stream(self.rows.device).record_event())
        return replace(self, rows=self.rows.pin_memory()) if device.type == "cuda" else self

    def on(self, device: torch.device | str, dtype: torch.dtype = torch.float32) -> Tensor:
        """The network's input on a device: (n, 3, h, w), or (n, 3, S, S) where it is padded.

        The values are computed in float32, in one order and rounded at each step, so they are the same on every device.
        """
        if self.made is not None:
            stream = torch.cuda.current_stream(self.rows.device)
            stream.wait_event(self.made)
            self.rows.record_stream(stream)
        rows = self.rows.to(device, non_blocking=True)
        count, height, width, _ = rows.shape
        size = (self.square, self.square) if self.square else (height, width)
        make = torch.empty if size == (height, width) else torch.zeros
        result = make(count, 3, *size, dtype=torch.float32, device=rows.device)
        covered = result[:, :, :height, :width]
        covered.copy_(rows.permute(0, 3, 1, 2))
        # tensors on the device: a GPU multiplies by the rounded inverse of a divisor that is a number of the host
        unit, mean, std = torch.tensor(
            [[self.scale.unit] * 3, self.scale.mean, self.scale.std], dtype=torch.float32, device=rows.device
        ).view(3, 3, 1, 1)
        if self.scale.unit != 1:
            covered.div_(unit)
        covered.sub_(mean).div_(std)
        return result.to(dtype)

    @staticmethod
    def concatenate(parts: Sequence[Pixels]) -> Pixels:
        """The frames of several values of one size and scale."""
        return replace(parts[0], rows=torch.cat([part.rows for part in parts]))


def sam2_pixels(frames: np.ndarray, image_size: int, pixel_aspect: float = 1.0, device: torch.device = _CPU) -> Pixels:
    """SAM2's frames before they are normalised and padded: the longest side resized to `image_size` (bilinear).

    Args:
        frames: (n, H, W, 3) uint8 RGB.
        image_size: S, side of the square in pixels.
        pixel_aspect: width of a frame's pixels over their height; the network sees the frame as people do.
        device: that of the network.
    """
    size = sam2_size(*displayed_size(frames.shape[1], frames.shape[2], pixel_aspect), image_size)
    return Pixels(_resized(frames, Resize(size, "bilinear", 0, 0, size), device), SAM2_SCALE, image_size)


def square_pixels(
    frames: np.ndarray, image_size: int, _pixel_aspect: float = 1.0, device: torch.device = _CPU
) -> Pixels:
    """SAM2's frames in Sa2VA before they are normalised: resized to the square (bicubic) whatever their aspect."""
    size = (image_size, image_size)
    return Pixels(_resized(frames, Resize(size, "bicubic", 0, 0, size), device), IMAGENET_SCALE)


def sam2_input(frames: np.ndarray, image_size: int, pixel_aspect: float = 1.0) -> tuple[Tensor, tuple[int, int]]:
    """SAM2's input: the longest side resized to `image_size` (bilinear), normalised, then padded with zeros right and below.

    Args:
        frames: (n, H, W, 3) uint8 RGB.
        image_size: S, side of the square in pixels.
        pixel_aspect: width of a frame's pixels over their height; the network sees the frame as people do.

    Returns:
        (n, 3, S, S) float32, and the (height, width) that a frame covers in it.
    """
    pixels = sam2_pixels(frames, image_size, pixel_aspect)
    return pixels.on("cpu"), pixels.covered


def square_input(frames: np.ndarray, image_size: int, _pixel_aspect: float = 1.0) -> tuple[Tensor, tuple[int, int]]:
    """SAM2's input in Sa2VA: frames resized to the square (bicubic) whatever their aspect, and normalised on the 0..1 scale.

    Args:
        frames: (n, H, W, 3) uint8 RGB.
        image_size: S, side of the square in pixels.

    Returns:
        (n, 3, S, S) float32, and (S, S): a frame covers all of it.
    """
    pixels = square_pixels(frames, image_size)
    return pixels.on("cpu"), pixels.covered


def clip_pixels(frames: np.ndarray, image_size: int, pixel_aspect: float = 1.0, device: torch.device = _CPU) -> Pixels:
    """The frames of `clip_input` before they are normalised."""
    frames = _central(frames, pixel_aspect)
    height, width = displayed_size(frames.shape[1], frames.shape[2], pixel_aspect)
    short = min(height, width)
    size = int(image_size * height / short), int(image_size * width / short)
    top, left = (size[0] - image_size) // 2, (size[1] - image_size) // 2
    return Pixels(_resized(frames, Resize(size, "bicubic", top, left, (image_size, image_size)), device), CLIP_SCALE)


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
    return clip_pixels(frames, image_size, pixel_aspect).on("cpu")


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


def tower_pixels(
    frames: np.ndarray, tower: TowerConfig, pixel_aspect: float = 1.0, device: torch.device = _CPU
) -> Pixels:
    """The frames of `tower_input` before they are normalised."""
    if tower.view == "centre":
        return clip_pixels(frames, tower.image_size, pixel_aspect, device)
    view = tower_view(*displayed_size(frames.shape[1], frames.shape[2], pixel_aspect), tower)
    size = view.rows * tower.patch_size, view.columns * tower.patch_size
    return Pixels(_resized(frames, Resize(size, "bicubic", 0, 0, size), device), CLIP_SCALE)


def tower_input(frames: np.ndarray, tower: TowerConfig, pixel_aspect: float = 1.0) -> Tensor:
    """The input of the MLLM's tower: `clip_input`, or with `view: whole` the whole frame, resized (bicubic) to its grid.

    Args:
        frames: (n, H, W, 3) uint8 RGB.
        tower: sizes and view of the tower.
        pixel_aspect: width of a frame's pixels over their height; the network sees the frame as people do.

    Returns:
        (n, 3, h, w) float32; h and w are the rows and columns of `tower_view` times the patch's side.
    """
    return tower_pixels(frames, tower, pixel_aspect).on("cpu")


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


def _resized(frames: np.ndarray, resize: Resize, device: torch.device) -> Tensor:
    """Resized frames (n, h, w, 3) uint8: on a GPU where it gives Pillow's bytes, else made by Pillow on the CPU."""
    if device.type == "cuda" and (order := pillow_order(frames.shape[1:3], resize, device)):
        return resized_there(frames, resize, order, device)
    result = np.empty((len(frames), *resize.kept, 3), np.uint8)
    for target, frame in zip(result, frames, strict=True):
        target[:] = resize.by_pillow(frame)
    return torch.from_numpy(result)


def resized_there(frames: np.ndarray, resize: Resize, order: Order, device: torch.device) -> Tensor:
    """Resized frames on a device. The host copies the bytes of one frame after the other."""
    parts = []
    for frame in frames:
        host = torch.empty(frame.shape, dtype=torch.uint8, pin_memory=device.type == "cuda")
        host.numpy()[:] = frame
        parts.append(resample(host.to(device, non_blocking=True), resize, order))
    return torch.stack(parts)

"""Pillow's resizing of bytes, in integers on any device, with the same bytes as a result.

Pillow resizes in one direction, then in the other. Each output is a sum of neighbouring inputs with weights of 22 fractional
bits, rounded to a byte after each direction. The sums are integers, so every device gets the same ones.

Source: `Resample.c` of Pillow. On a CPU its own loops are faster; on a GPU the host only copies the frame.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

Filter = Literal["bilinear", "bicubic"]
Order = Literal["columns", "rows"]
_BITS = 22
_MOST = 1 << 26  # products at a time, 4 bytes each
_TRIED, _TRIES = 4096, 256  # pixels that the two orders are compared on, and frames at most
_PILLOW: dict[Filter, Image.Resampling] = {
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
}
_SUPPORT: dict[Filter, float] = {"bilinear": 1.0, "bicubic": 2.0}


@dataclass(frozen=True)
class Resize:
    """A resize of frames, and the window of its result that is kept.

    Attributes:
        size: (height, width) of the whole result.
        kind: the filter.
        top, left: the window's first row and column in the result.
        kept: (height, width) of the window.
    """

    size: tuple[int, int]
    kind: Filter
    top: int
    left: int
    kept: tuple[int, int]

    def by_pillow(self, frame: np.ndarray) -> np.ndarray:
        """The window of a resized frame (H, W, 3) uint8."""
        height, width = self.kept
        image = Image.fromarray(frame).resize(self.size[::-1], _PILLOW[self.kind])
        if self.kept != self.size:
            image = image.crop((self.left, self.top, self.left + width, self.top + height))
        return np.asarray(image)


def resample(frame: Tensor, resize: Resize, order: Order) -> Tensor:
    """Resizes a frame in integers. What the window does not need is not computed.

    Args:
        frame: (H, W, 3) uint8.
        resize: what is made of it.
        order: the direction that is resized first.

    Returns:
        (h, w, 3) uint8, on the frame's device. Working memory there: at most 0.4 GB.
    """
    rows, down = _window(taps(frame.shape[0], resize.size[0], resize.kind), resize.top, resize.kept[0])
    columns, across = _window(taps(frame.shape[1], resize.size[1], resize.kind), resize.left, resize.kept[1])
    top, left = int(rows.min()), int(columns.min())
    seen = frame[top : int(rows.max()) + 1, left : int(columns.max()) + 1]
    rows, columns = rows - top, columns - left
    if order == "rows":
        return _along(_along(seen, 0, rows, down), 1, columns, across)
    return _along(_along(seen, 1, columns, across), 0, rows, down)


@lru_cache(maxsize=32)
def pillow_order(source: tuple[int, int], resize: Resize, device: torch.device) -> Order | None:
    """The order in which Pillow resizes frames of a size, tried on noise on the device.

    Pillow's versions differ in the order that they choose. None: the device does not give Pillow's bytes, so it is not to be
    used. Both orders agree on most bytes, so a small window is tried on several frames. Cost: for a window of `_TRIED` pixels
    or more one frame resized by Pillow and two on the device, once in a process.
    """
    random, height, width = np.random.default_rng(0), *resize.kept
    orders: list[Order] = ["columns", "rows"]
    for _ in range(max(1, min(_TRIES, _TRIED // (height * width)))):
        noise = random.integers(0, 256, (*source, 3), dtype=np.uint8)
        want, frame = torch.from_numpy(resize.by_pillow(noise).copy()), torch.from_numpy(noise).to(device)
        orders = [order for order in orders if torch.equal(resample(frame, resize, order).cpu(), want)]
    return orders[0] if orders else None


def _window(found: tuple[np.ndarray, np.ndarray], first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
    return found[0][:, first : first + count], found[1][:, first : first + count]


@lru_cache(maxsize=32)
def taps(inputs: int, outputs: int, kind: Filter) -> tuple[np.ndarray, np.ndarray]:
    """The inputs of each output along one side, and their weights times 2^22: (k, outputs) int64 and int32."""
    scale = inputs / outputs
    wide = max(scale, 1.0)
    support = _SUPPORT[kind] * wide
    centre = (np.arange(outputs) + 0.5) * scale
    first = np.maximum((centre - support + 0.5).astype(np.int64), 0)
    end = np.minimum((centre + support + 0.5).astype(np.int64), inputs)
    places = first + np.arange(math.ceil(support) * 2 + 1)[:, None]
    weights = np.where(places < end, _filtered((places - centre + 0.5) * (1.0 / wide), kind), 0.0)
    total = np.zeros(outputs)
    for row in weights:  # in Pillow's order
        total += row
    weights /= np.where(total == 0, 1.0, total)
    whole = np.trunc(weights * (1 << _BITS) + np.where(weights < 0, -0.5, 0.5)).astype(np.int32)
    used = int((end - first).max())
    return np.minimum(places, inputs - 1)[:used], whole[:used]


def _filtered(x: np.ndarray, kind: Filter) -> np.ndarray:
    x = np.abs(x)
    if kind == "bilinear":
        return np.where(x < 1, 1 - x, 0.0)
    a = -0.5
    near, far = ((a + 2) * x - (a + 3)) * x * x + 1, (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def _along(frame: Tensor, dim: int, places: np.ndarray, weights: np.ndarray) -> Tensor:
    """Sums the inputs of each output along a dimension: from bytes to bytes. All weights in few operations, piece by piece."""
    count, outputs = places.shape
    index = torch.from_numpy(np.ascontiguousarray(places.T)).flatten().to(frame.device, non_blocking=True)
    shape = (1, outputs, count, 1) if dim else (outputs, count, 1, 1)
    factors = torch.from_numpy(np.ascontiguousarray(weights.T)).view(shape).to(frame.device, non_blocking=True)
    pieces = []
    length, step = frame.shape[1 - dim], max(1, _MOST // (3 * places.size))
    for begin in range(0, length, step):
        piece = frame.narrow(1 - dim, begin, min(step, length - begin))
        inputs = piece.index_select(dim, index)
        inputs = inputs.view(*inputs.shape[:dim], outputs, count, *inputs.shape[dim + 1 :])
        total = (inputs * factors).sum(dim + 1, dtype=torch.int32)
        pieces.append(total.add_(1 << (_BITS - 1)).bitwise_right_shift_(_BITS).clamp_(0, 255).to(torch.uint8))
    return torch.cat(pieces, 1 - dim) if len(pieces) > 1 else pieces[0]

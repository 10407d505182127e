"""Where the objects of a synthetic clip are: centres and paces by frame, and labels of each place of a feature map.

Shape letters: O objects, E instructions, n frames, N places of a grid.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from vrshq.operators.models.preprocess import View
from vrshq.operators.training.clip import COLOUR_NAMES, SHAPE_NAMES, Objects


def seen_places(objects: Objects, view: View) -> np.ndarray:
    """The centres x, y (O, n, 2) float32 of all objects in the tower's view; 0 to 1 inside the view."""
    height, width = objects.masks.shape[-2:]
    places = objects.places[..., :2] * np.array([width, height], np.float32)
    return (places - np.array([view.left, view.top], np.float32)) / np.array([view.width, view.height], np.float32)


def padded_view(height: int, width: int, side: int) -> View:
    """SAM2's view of a frame: padded on the right and below to a square, on a grid of side x side places."""
    long = max(height, width)
    return View(0, 0, long, long, side, side)


def meant_places(objects: Objects, view: View) -> tuple[Tensor, Tensor]:
    """Where the first object that each instruction means is.

    Returns:
        x, y in the tower's view and radius, (E, n, 3) float32, and whether the frame shows the object, (E, n) bool.
    """
    first = objects.meant.argmax(1)
    places = np.concatenate([seen_places(objects, view), objects.places[..., 2:]], axis=2)
    return torch.from_numpy(places[first]), torch.from_numpy(objects.masks[first].any((2, 3)))


def paces(objects: Objects, view: View) -> tuple[np.ndarray, np.ndarray]:
    """The pace of each object up to each frame.

    Returns:
        (O, n, 4) float32: diagonal of the box around the centres so far, step from the previous centre, 4 * radius, visible
        share of the object; the first two in sides of the square with the area of the tower's view. And (O, n) bool: whether
        an earlier frame shows the object.
    """
    shown = np.asarray(objects.masks.any((2, 3)))
    area = objects.masks.sum((2, 3)) / np.maximum(objects.places[..., 2], 1e-6) ** 2
    result = np.zeros((*shown.shape, 4), np.float32)
    before = np.zeros(shown.shape, bool)
    sides = np.array([view.width, view.height], np.float32) / (view.width * view.height) ** 0.5
    for number, places in enumerate(seen_places(objects, view) * sides):
        seen = np.flatnonzero(shown[number])
        for last, frame in itertools.pairwise(seen):
            so_far = places[seen[seen <= frame]]
            result[number, frame, :2] = (
                np.linalg.norm(np.ptp(so_far, axis=0)),
                np.linalg.norm(places[frame] - places[last]),
            )
            before[number, frame] = True
    result[..., 2] = 4 * objects.places[..., 2]
    result[..., 3] = area / np.maximum(area.max(1, keepdims=True), 1e-6)
    return result, before


@dataclass(frozen=True, eq=False)
class DenseLabels:
    """The object at each of n * N places of a grid.

    A place has the colour of the object that covers at least half of it, and the shape of the object that covers at least a
    tenth: shapes are visible at their borders.

    Attributes:
        colour: (n * N,) int64, an index in `COLOUR_NAMES`; its length for none.
        shape: (n * N,) int64, an index in `SHAPE_NAMES`; its length for none.
        weight: (n * N,) float32, of the shape; the places of one object in one frame sum to 1.
        radius: (n * N,) float32, of the object; 0 for none.
        centre: (n * N, 2) float32, x, y of the object's centre in sides of the grid.
    """

    colour: Tensor
    shape: Tensor
    weight: Tensor
    radius: Tensor
    centre: Tensor


def dense_labels(objects: Objects, view: View) -> DenseLabels:
    """The labels of a view's N = rows * columns places, row by row. SAM2's padding beyond the frame holds no object."""
    masks = objects.masks[..., view.top : view.top + view.height, view.left : view.left + view.width]
    height, width = masks.shape[-2:]
    masks = np.pad(masks, ((0, 0), (0, 0), (0, view.height - height), (0, view.width - width)))
    share = F.interpolate(torch.from_numpy(masks).float(), size=(view.rows, view.columns), mode="area").flatten(2)
    best, number = share.max(0)  # (n, N)
    touched = best >= 0.1
    mine = torch.zeros_like(share, dtype=torch.bool).scatter_(0, number[None], touched[None])
    count = mine.sum(2, keepdim=True).clamp(min=1)
    colour = torch.from_numpy(objects.colours)[number].masked_fill(best < 0.5, len(COLOUR_NAMES))
    shape = torch.from_numpy(objects.shapes)[number].masked_fill(~touched, len(SHAPE_NAMES))
    lies = torch.from_numpy(objects.places)[number, torch.arange(len(number))[:, None]]  # (n, N, 3)
    radii = lies[..., 2].masked_fill(best < 0.5, 0)
    centres = torch.from_numpy(seen_places(objects, view))[number, torch.arange(len(number))[:, None]]
    weight = (mine / count).sum(0)
    return DenseLabels(colour.flatten(), shape.flatten(), weight.flatten(), radii.flatten(), centres.flatten(0, 1))

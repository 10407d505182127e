"""Ground truth kept as one PNG per frame: binary ones, and palette ones whose values are objects' ids."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from vrshq.cluster.storage.errors import StorageError, StorageNotFoundError
from vrshq.cluster.storage.folder import Folder
from vrshq.operators.masks.rle import Rle, encode
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Expression, Video
from vrshq.pipelines.evaluate.datasets.codes import MAX_PIXELS
from vrshq.pipelines.evaluate.datasets.problems import Report
from vrshq.pipelines.evaluate.datasets.truth import Key, Truth


class Place(NamedTuple):
    """Where an expression's masks are: a folder of `<frame>.png`, and the values that count (None: all but 0)."""

    folder: str
    values: tuple[int, ...] | None


class PngMasks(Truth):
    """Annotation images by frame.

    Args:
        folder: the data set's root.
        places: for each expression its place; None where it has no object, so no image is looked at.

    An image that is missing is a DatasetError, not an empty mask. A palette image counts by its values, not colours; one
    with colour channels counts where any channel is not 0, and cannot tell objects apart.
    The images of one folder are kept as run-length codes, so that all expressions of a video share one decode.
    """

    def __init__(self, folder: Folder, places: Mapping[Key, Place | None]) -> None:
        self.folder = folder
        self.places = places
        self._open = ""
        self._codes: dict[str, dict[int, Rle]] = {}
        self._broken: set[str] = set()

    def masks(self, video: Video, expression: Expression) -> list[list[Rle]]:
        """The true masks: for each frame, the RLE codes of the expression's objects."""
        place = self.places[video.video_id, expression.expression_id]
        if place is None:
            return [[] for _ in video.frames]
        return [_chosen(self._read(place.folder, frame), place) for frame in video.frames]

    def check(self, video: Video, expression: Expression, report: Report) -> list[list[Rle]]:
        """Like `masks`, but reports every problem instead of raising at the first."""
        place = self.places[video.video_id, expression.expression_id]
        frames: list[list[Rle]] = [[] for _ in video.frames]
        if place is None:
            return frames
        for index, frame in enumerate(video.frames):
            try:
                frames[index] = _chosen(self._read(place.folder, frame), place)
            except DatasetError as error:
                name = f"{place.folder}/{frame}"
                if name in self._broken:
                    continue
                self._broken.add(name)
                missing = isinstance(error.__cause__, StorageNotFoundError)
                where = f"{video.video_id}, expression {expression.expression_id}: {error}"
                report.add("mask-missing" if missing else "mask-unreadable", where)
        return frames

    def count(self, video: Video, expression: Expression) -> int:
        """Number of objects that the expression means."""
        place = self.places[video.video_id, expression.expression_id]
        return 0 if place is None else 1 if place.values is None else len(place.values)

    def _read(self, folder: str, frame: str) -> dict[int, Rle]:
        if folder != self._open:
            self._open, self._codes = folder, {}
        if frame not in self._codes:
            self._codes[frame] = self._decode(f"{folder}/{frame}.png")
        return self._codes[frame]

    def _decode(self, name: str) -> dict[int, Rle]:
        try:
            data = self.folder.read_bytes(name)
        except (StorageError, ValueError) as error:
            raise DatasetError(f"{error}; expected an annotation image for each frame") from error
        try:
            with Image.open(io.BytesIO(data), formats=("PNG",)) as image:
                if image.width * image.height > MAX_PIXELS or image.mode.startswith(("I", "F")):
                    raise ValueError(f"{image.width}x{image.height} in mode {image.mode}")
                pixels = np.asarray(image)
        except UnidentifiedImageError as error:  # whose text names an object in memory
            raise DatasetError(f"{self.folder.uri_of(name)} is not a PNG image") from error
        except Exception as error:  # Pillow raises what a broken file runs it into
            raise DatasetError(f"{self.folder.uri_of(name)} is not an 8-bit PNG: {error}") from error
        values = (pixels.reshape(*pixels.shape[:2], -1).any(-1) if pixels.ndim == 3 else pixels).astype(np.uint8)
        height, width = values.shape
        found = [int(value) for value in np.unique(values) if value]
        codes = encode(np.stack([values == value for value in found])) if found else []
        return {value: Rle(size=(height, width), counts=code.rle) for value, code in zip(found, codes, strict=True)}


def _chosen(codes: Mapping[int, Rle], place: Place) -> list[Rle]:
    return [code for value, code in codes.items() if place.values is None or value in place.values]

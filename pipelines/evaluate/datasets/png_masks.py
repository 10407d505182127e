"""Ground truth in one PNG per frame: binary masks, or palette images whose values are object ids."""

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
    """The location of an expression's masks.

    Attributes:
        folder: folder of `<frame>.png`, relative to the root.
        values: values of the expression's pixels; None: all except 0.
        sparse: whether a frame without the object has no image. At least one frame has one.
    """

    folder: str
    values: tuple[int, ...] | None
    sparse: bool = False


class PngMasks(Truth):
    """Annotation images by frame.

    A missing image is a DatasetError, not an empty mask, unless the place is sparse. Palette images are read by value, not by
    colour. In an image with colour channels, a pixel with any channel above 0 has value 1, so objects cannot be told apart. The
    images of the last folder are kept as run-length codes, so that all expressions of a video share one decode.

    Args:
        folder: the data set's root.
        name: the folder of all annotations inside it.
        places: location of the masks of each expression; None: the expression has no object, so no image is read.
    """

    def __init__(self, folder: Folder, name: str, places: Mapping[Key, Place | None]) -> None:
        self.folder = folder
        self.name = name
        self.places = places
        self._open = ""
        self._codes: dict[str, dict[int, Rle]] = {}
        self._listed: set[str] | None = None
        self._broken: set[str] = set()

    def masks(self, video: Video, expression: Expression) -> list[list[Rle]]:
        """The true masks, as for `Benchmark.masks`."""
        place = self.places[video.video_id, expression.expression_id]
        if place is None:
            return [[] for _ in video.frames]
        self._turn_to(place, video)
        return [_chosen(self._read(frame), place) for frame in video.frames]

    def check(self, video: Video, expression: Expression, report: Report) -> list[list[Rle]]:
        """The true masks. Every problem is added to `report`, where `masks` would raise at the first."""
        place = self.places[video.video_id, expression.expression_id]
        frames: list[list[Rle]] = [[] for _ in video.frames]
        if place is None:
            return frames
        try:
            self._turn_to(place, video)
        except DatasetError as error:
            if place.folder not in self._broken:
                self._broken.add(place.folder)
                report.add("mask-missing", f"{video.video_id}, expression {expression.expression_id}: {error}")
            return frames
        for index, frame in enumerate(video.frames):
            try:
                frames[index] = _chosen(self._read(frame), place)
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
        """Number of target objects of the expression; 1 if the images are binary."""
        place = self.places[video.video_id, expression.expression_id]
        return 0 if place is None else 1 if place.values is None else len(place.values)

    def _turn_to(self, place: Place, video: Video) -> None:
        """Opens a place; forgets the images of the last one.

        Raises:
            DatasetError: a sparse place has no image of any frame, so that it is another object's, or misnamed.
        """
        if place.folder == self._open:
            return
        listed = None
        if place.sparse:
            wanted = {f"{place.folder}/{frame}.png" for frame in video.frames}
            listed = wanted & set(self.folder.list(place.folder))
            if not listed:
                raise DatasetError(
                    f"{self.folder.uri_of(place.folder)} has no image of any of the {len(wanted)} frames; expected a PNG, "
                    "named like its frame, for each frame that shows the object"
                )
        self._open, self._codes, self._listed = place.folder, {}, listed

    def _read(self, frame: str) -> dict[int, Rle]:
        name = f"{self._open}/{frame}.png"
        if self._listed is not None and name not in self._listed:
            return {}
        if frame not in self._codes:
            self._codes[frame] = self._decode(name)
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
        except UnidentifiedImageError as error:  # its own text holds a memory address
            raise DatasetError(f"{self.folder.uri_of(name)} is not a PNG image") from error
        except Exception as error:  # Pillow raises errors of many types for broken files
            raise DatasetError(f"{self.folder.uri_of(name)} is not an 8-bit PNG: {error}") from error
        values = (pixels.reshape(*pixels.shape[:2], -1).any(-1) if pixels.ndim == 3 else pixels).astype(np.uint8)
        height, width = values.shape
        found = [int(value) for value in np.unique(values) if value]
        codes = encode(np.stack([values == value for value in found])) if found else []
        return {value: Rle(size=(height, width), counts=code.rle) for value, code in zip(found, codes, strict=True)}


def _chosen(codes: Mapping[int, Rle], place: Place) -> list[Rle]:
    return [code for value, code in codes.items() if place.values is None or value in place.values]

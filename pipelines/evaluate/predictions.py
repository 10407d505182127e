"""Readers of predicted masks: a run directory, a tree of PNG files, or one results.json."""

from __future__ import annotations

import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image
from pycocotools import mask as coco

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.cluster.storage.uris import join_uri, parent_and_name
from vrshq.operators.batch import InputError
from vrshq.operators.masks.rle import Rle, encode, union
from vrshq.operators.video.frame_names import in_order, is_image_name
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Video
from vrshq.pipelines.evaluate.datasets.codes import MaskError, as_rles
from vrshq.pipelines.label.tables.schema import MASKS, TRACKS
from vrshq.pipelines.label.tables.spans import FRAME_COLUMNS, labelled_frames

# What is scored of an answer with several objects.
Objects = Literal["first", "union"]


class PredictionsError(DatasetError):
    """The predictions cannot be read. The one-line message says what was given and what was expected."""


@dataclass(frozen=True)
class Prediction:
    """The prediction for one expression.

    Attributes:
        masks: one mask for each of the video's frames; None: the mask is missing.
        value: value of a foreground pixel in the files that a public evaluation would read: 255, or 1 if files hold 0 and 1.
        asked: whether each frame was asked for. The others are not scored. None: all were.
        presence: the method's confidence, 0..1, that the video shows the target; None: the method gives none.
        scores: confidence for each frame, for example a logit; the highest one wins a pixel of two objects. None: unknown.
        problem: a fault of the prediction, in one line. The usable masks are kept.
    """

    masks: Sequence[Rle | None]
    value: int = 255
    asked: Sequence[bool] | None = None
    presence: float | None = None
    scores: Sequence[float] | None = None
    problem: str | None = None


class Predictions(ABC):
    """An opened source of predictions."""

    uri: str

    @abstractmethod
    def of(self, video: Video) -> Mapping[str, Prediction] | None:
        """The predictions of a video by expression_id, without the missing ones; None if the video has none."""

    def failure(self, video_id: str, expression_id: str) -> str | None:  # noqa: ARG002 - only a run knows
        """Why the prediction of an expression is missing; None: unknown."""
        return None

    def frames_read(self, video_id: str, expression_id: str) -> int | None:  # noqa: ARG002 - only a run knows
        """How many sampled frames the model read; None: unknown."""
        return None


def open_predictions(
    uri: str, root: str | None = None, objects: Objects = "first", videos: Collection[str] | None = None
) -> Predictions:
    """Opens predictions. The files at `uri` decide the kind.

    Args:
        uri: local or in a bucket. A run directory; a folder `[Annotations/]VIDEO/EXPRESSION/FRAME.png` with values 0/1 or
            0/255; a folder `anno_0` to `anno_3` with `VIDEO/FRAME.png`, whose values are object ids; or a `results.json` of
            {video: {expression: {"prediction_masks": [RLE, ...]}}}.
        root: the data set's folder. If a run labelled more frames than the metadata lists, their file names there match them.
        objects: of a run's answer with several objects, the first one, as Sa2VA's evaluation does, or the union of all.
        videos: ids of those that will be asked for; a run reads what it says of them alone. None: any.

    Raises:
        PredictionsError: there are no files of these kinds.
        StorageError: the storage cannot be read.
    """
    if uri.endswith(".json"):
        return ResultsJson(uri)
    folder = Folder(uri)
    if folder.exists("run.json"):
        return RunPredictions(uri, root, objects, videos)
    if folder.is_empty():
        raise PredictionsError(
            f"{uri}: nothing is there; expected a run directory, a folder VIDEO/EXPRESSION/FRAME.png, or a results.json"
        )
    if not folder.child("anno_0").is_empty():
        return PaletteTree(uri)
    return PngTree(uri)


class RunPredictions(Predictions):
    """The masks of a run directory as it is now. Some columns of `tracks/` stay in memory; masks are read video by video.

    Cost: a listing of `tracks/` and one of `masks/`, and what is read of them: of `tracks/` the rows of `videos`, once.
    """

    def __init__(self, uri: str, root: str | None, objects: Objects, videos: Collection[str] | None = None) -> None:
        self.uri, self.root, self.objects = uri, root, objects
        run = RunDirectory(uri)
        table, self._masks = run.reader("tracks", TRACKS), run.reader("masks", MASKS)
        manifest = run.read_manifest().select(["unit_id", "video_id"]).to_pydict()
        self.units: dict[str, list[str]] = {}
        for unit_id, video_id in zip(manifest["unit_id"], manifest["video_id"], strict=True):
            self.units.setdefault(video_id, []).append(unit_id)
        columns = ["video_id", "instruction_id", "status", *FRAME_COLUMNS, "keyframe_index", "presence"]
        columns += ["error_type", "error_message", "sampled_frames"]
        units = None
        if videos is not None and not self.units.keys() <= set(videos):
            units = [unit for video in videos for unit in self.units.get(video, ())]
        self.tracks: dict[str, list[dict[str, Any]]] = {}
        self.failures: dict[tuple[str, str], str] = {}
        self._read: dict[tuple[str, str], int] = {}
        for track in table.read(units, columns).to_pylist():
            if sampled := track.pop("sampled_frames"):
                self._read[track["video_id"], track["instruction_id"]] = len(sampled)
            if track["status"] != "error":
                self.tracks.setdefault(track["video_id"], []).append(track)
            else:
                key = (track["video_id"], track["instruction_id"])
                self.failures[key] = f"{track['error_type']}: {track['error_message']}"

    def of(self, video: Video) -> Mapping[str, Prediction] | None:
        """The predictions of a video, as for `Predictions.of`."""
        tracks = self.tracks.get(video.video_id)
        if not tracks:
            return None
        columns = ["instruction_id", "object_id", "frame_index", "height", "width", "rle", "object_score"]
        masks: dict[str, list[dict[str, Any]]] = {}
        for row in self._masks.read(self.units[video.video_id], columns).to_pylist():
            if self.objects == "union" or row["object_id"] == 0:
                masks.setdefault(row["instruction_id"], []).append(row)
        places: dict[int, list[int | None]] = {}
        found = {}
        for track in tracks:
            count = track["num_frames"]
            if count not in places:
                places[count] = self._places(video, count)
            rows = masks.get(track["instruction_id"], [])
            found[track["instruction_id"]] = _from_rows(rows, track, places[count])
        return found

    def failure(self, video_id: str, expression_id: str) -> str | None:
        """Error type and message of a failed instruction."""
        return self.failures.get((video_id, expression_id))

    def frames_read(self, video_id: str, expression_id: str) -> int | None:
        """How many sampled frames the model read; None: unknown."""
        return self._read.get((video_id, expression_id))

    def _places(self, video: Video, count: int) -> list[int | None]:
        """The frame_index in the run of each of the video's frames; None: unknown.

        A run orders the files of a folder by the numbers in their names.
        """
        names = sorted(video.frames, key=frame_number)
        if count != len(names) and self.root is not None:
            uri = join_uri(self.root, video.uri)
            images = filter(is_image_name, Folder(uri).list())
            try:
                names = [name.rpartition(".")[0] for name in in_order(uri, images)]
            except InputError:
                names = []
        if count != len(names):
            return [None] * len(video.frames)
        index = {name: place for place, name in enumerate(names)}
        return [index.get(name) for name in video.frames]


class PngTree(Predictions):
    """PNG files `[Annotations/]VIDEO/EXPRESSION/FRAME.png`. Every value except 0 is foreground."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        folder = Folder(uri)
        inner = folder.child("Annotations")
        self.folder = folder if inner.is_empty() else inner

    def of(self, video: Video) -> Mapping[str, Prediction] | None:
        """The predictions of a video, as for `Predictions.of`."""
        try:
            names = set(self.folder.list(video.video_id))
        except ValueError:  # the id would lead outside the folder
            return None
        if not names:
            return None
        found = {}
        for expression in video.expressions:
            prefix = f"{video.video_id}/{expression.expression_id}/"
            if any(name.startswith(prefix) for name in names):
                found[expression.expression_id] = self._read(prefix, video, names)
        return found

    def _read(self, prefix: str, video: Video, names: set[str]) -> Prediction:
        masks: list[Rle | None] = []
        values: set[int] = set()
        problem = None
        for frame in video.frames:
            name = f"{prefix}{frame}.png"
            if name not in names:
                masks.append(None)
                continue
            try:
                image = read_png(self.folder.read_bytes(name))
            except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
                problem = f"{name} cannot be read: {' '.join(str(error).split())[:200]}"
                masks.append(None)
                continue
            values |= set(np.unique(image).tolist()) - {0}
            masks.append(encoded(image != 0))
        if len(values) > 1:
            problem = problem or f"{prefix} holds several values besides 0: {sorted(values)[:5]}; all are foreground"
        return Prediction(masks, value=max(values, default=255), problem=problem)


class PaletteTree(Predictions):
    """PNG files `anno_K/VIDEO/FRAME.png` in the official DAVIS layout: K is the annotator, a pixel's value the object's id.

    The mask of expression e about object o is the pixels of value o of annotator e modulo 4.
    """

    def __init__(self, uri: str) -> None:
        self.uri, self.folder = uri, Folder(uri)

    def of(self, video: Video) -> Mapping[str, Prediction] | None:
        """The predictions of a video, as for `Predictions.of`."""
        images: dict[int, list[np.ndarray | None]] = {}
        found = {}
        for expression in video.expressions:
            if not expression.expression_id.isdecimal() or len(expression.object_ids) != 1:
                continue
            annotator = int(expression.expression_id) % 4
            if annotator not in images:
                images[annotator] = [
                    self._image(f"anno_{annotator}/{video.video_id}/{name}.png") for name in video.frames
                ]
            pictures = images[annotator]
            if any(picture is not None for picture in pictures):
                value = int(expression.object_ids[0])
                masks = [None if picture is None else encoded(picture == value) for picture in pictures]
                found[expression.expression_id] = Prediction(masks, value=1)
        return found or None

    def _image(self, name: str) -> np.ndarray | None:
        try:
            return read_png(self.folder.read_bytes(name))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None


class ResultsJson(Predictions):
    """Predictions in Sa2VA's results.json. The whole file is kept in memory."""

    def __init__(self, uri: str) -> None:
        self.uri = uri
        folder, name = parent_and_name(uri)
        try:
            content = json.loads(Folder(folder).read_bytes(name))
        except ValueError as error:
            raise PredictionsError(f"{uri}: not JSON: {' '.join(str(error).split())[:200]}") from error
        if not isinstance(content, dict):
            raise PredictionsError(f"{uri}: expected an object of videos, got {type(content).__name__}")
        self.videos: dict[str, Any] = content

    def of(self, video: Video) -> Mapping[str, Prediction] | None:
        """The predictions of a video, as for `Predictions.of`."""
        expressions = self.videos.get(video.video_id)
        if not isinstance(expressions, dict):
            return None
        found = {}
        for expression_id, entry in expressions.items():
            codes = entry.get("prediction_masks") if isinstance(entry, dict) else None
            if isinstance(codes, list):
                found[str(expression_id)] = _from_codes(codes, len(video.frames))
        return found


def frame_number(name: str) -> tuple[int, str]:
    """The sort key of a frame's name: the number at its end, -1 without one, then the name."""
    digits = re.search(r"(\d{1,18})$", name, re.ASCII)
    return (int(digits[1]) if digits else -1, name)


def read_png(data: bytes) -> np.ndarray:
    """The stored values (height, width) of a PNG: palette indices, grey values, or the largest of the colour channels.

    Raises:
        OSError, ValueError, SyntaxError, Image.DecompressionBombError: Pillow cannot decode the file.
    """
    with Image.open(io.BytesIO(data)) as image:
        values = np.asarray(image)
    if values.dtype == bool:
        values = values.astype(np.uint8)
    return values if values.ndim == 2 else values[..., :3].max(axis=2)


def encoded(mask: np.ndarray) -> Rle:
    """The run-length code of one mask (height, width) bool."""
    return {"size": (int(mask.shape[0]), int(mask.shape[1])), "counts": encode(mask[None])[0].rle}


def merge_objects(predictions: Mapping[str, Prediction]) -> dict[str, Prediction]:
    """Removes overlaps of objects, because a palette image gives a pixel to one object.

    A pixel goes to the object with the highest score on that frame, and to the first of equal ones. The public code takes the
    highest mask probability. Stored masks have no probabilities, so the object scores replace them.
    """
    names = list(predictions)
    merged = {name: list(predictions[name].masks) for name in names}
    for frame in range(max((len(predictions[name].masks) for name in names), default=0)):
        here = [name for name in names if merged[name][frame] is not None]
        scores = {name: (predictions[name].scores or [0.0] * (frame + 1))[frame] for name in here}
        taken: Rle | None = None
        for name in sorted(here, key=lambda name: (-scores[name], names.index(name))):
            mask = merged[name][frame]
            assert mask is not None
            if taken is not None and tuple(taken["size"]) == tuple(mask["size"]):
                if coco.area(coco.merge([taken, mask], intersect=True)):
                    merged[name][frame] = encoded(coco.decode(mask) > coco.decode(taken))
                taken = coco.merge([taken, mask])
            elif taken is None:
                taken = mask
    return {name: replace(predictions[name], masks=merged[name], value=1) for name in names}


def _from_rows(rows: list[dict[str, Any]], track: dict[str, Any], places: list[int | None]) -> Prediction:
    """The prediction from the mask rows of one instruction, in the order of the video's frames."""
    by_index: dict[int, dict[str, Any]] = {}
    for row in rows:
        other = by_index.get(row["frame_index"])
        by_index[row["frame_index"]] = row if other is None else _joined(other, row)
    chosen = [None if place is None else by_index.get(place) for place in places]
    masks: list[Rle | None] = [
        None if row is None else {"size": (row["height"], row["width"]), "counts": row["rle"]} for row in chosen
    ]
    problem = None
    if all(place is None for place in places):
        problem = f"the run has {track['num_frames']} frames, the metadata {len(places)}, and no names to match them by"
    frames = labelled_frames(track)
    whole = len(frames) == track["num_frames"]
    return Prediction(
        masks,
        asked=None if whole else [place is not None and place in frames for place in places],
        presence=track["presence"],
        scores=[-np.inf if row is None else row["object_score"] for row in chosen],
        problem=problem,
    )


def _joined(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The union of two objects' masks on a frame, with the higher score."""
    both = union([one["rle"], other["rle"]], one["height"], one["width"])
    return one | {"rle": both.rle, "object_score": max(one["object_score"], other["object_score"])}


def _from_codes(codes: list[Any], frames: int) -> Prediction:
    masks: list[Rle | None] = []
    problem = None if len(codes) == frames else f"{len(codes)} masks for {frames} frames"
    for position, code in enumerate(codes[:frames]):
        try:
            found = as_rles(code)
            if len(found) != 1:
                raise MaskError(f"expected one mask, got {len(found)}")
            masks += found
        except MaskError as error:
            masks.append(None)
            problem = problem or f"mask {position} is not a run-length code: {error}"
    return Prediction([*masks, *[None] * (frames - len(masks))], problem=problem)

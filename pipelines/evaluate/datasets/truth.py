"""Ground truth in one list of run-length codes per annotation: `mask_dict.json`, and VISA's `mask_dict.pkl`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.folder import Folder
from vrshq.operators.masks.rle import Rle
from vrshq.pipelines.evaluate.datasets.base import Benchmark, DatasetError, Expression, Folders, Video
from vrshq.pipelines.evaluate.datasets.codes import MaskError, as_rles, frames_of
from vrshq.pipelines.evaluate.datasets.metadata import read_json
from vrshq.pipelines.evaluate.datasets.pickles import read_plain_pickle
from vrshq.pipelines.evaluate.datasets.problems import Report

Key = tuple[str, str]  # video_id, expression_id


class Truth(ABC):
    """The source of a split's ground truth: `name` is its file or its folder, relative to the data set's root."""

    name: str

    @abstractmethod
    def masks(self, video: Video, expression: Expression) -> list[list[Rle]]:
        """The true masks, as for `Benchmark.masks`."""

    @abstractmethod
    def count(self, video: Video, expression: Expression) -> int:
        """Number of annotations that an expression names."""

    def load(self) -> None:  # noqa: B027 - some sources have no file to read first
        """Reads the file that all masks need.

        Raises:
            DatasetError: the file cannot be read.
        """

    @abstractmethod
    def check(self, video: Video, expression: Expression, report: Report) -> list[list[Rle]]:
        """Adds every inconsistency of an expression's masks to `report`; returns the readable masks, one list per frame.

        A problem of an annotation that several expressions share is added once.
        """


class MaskDict(Truth):
    """A file that maps an annotation id to a list with an RLE, a list of RLEs or null for each frame.

    The file is read at the first request of a mask, and the annotations in `keys` are kept. Reading a file of several hundred
    MB takes a multiple of that in memory for a short time.

    Masks beyond the number of frames are ignored, as in the public evaluators. A list with fewer masks than frames is a
    DatasetError, because the public evaluators fail on it (ReVOS scores 0, a worker of MeViS dies).

    Args:
        folder: the data set's root.
        name: the file inside it. A `.pkl` is unpickled without code; any other file is JSON.
        keys: for each expression, the ids of the annotations whose sum is its truth.
    """

    def __init__(self, folder: Folder, name: str, keys: Mapping[Key, Sequence[str]]) -> None:
        self.folder = folder
        self.name = name
        self.keys = keys
        self._entries: dict[str, Any] | None = None
        self._checked: set[str] = set()
        self._video = ""
        self._lists: dict[str, list[list[Rle]]] = {}

    @classmethod
    def where_there(cls, folder: Folder, name: str, keys: Mapping[Key, Sequence[str]]) -> MaskDict | None:
        """The masks of the file `name`; None if there is no such file."""
        return cls(folder, name, keys) if folder.exists(name) else None

    def masks(self, video: Video, expression: Expression) -> list[list[Rle]]:
        """The true masks, as for `Benchmark.masks`."""
        place = f"{video.video_id}, expression {expression.expression_id}"
        frames: list[list[Rle]] = [[] for _ in video.frames]
        for key in self.keys[video.video_id, expression.expression_id]:
            for frame, codes in zip(frames, self._masks_of(video, key, place), strict=True):
                frame += codes
        return frames

    def _masks_of(self, video: Video, key: str, place: str) -> list[list[Rle]]:
        """The masks of an annotation, one list per frame. Those of one video are kept, because its expressions share them."""
        if video.video_id != self._video:
            self._video, self._lists = video.video_id, {}
        if key not in self._lists:
            file = self.folder.uri_of(self.name)
            entries = self.entries().get(key)
            if not isinstance(entries, list):
                raise DatasetError(f"{file} has no masks for annotation {key} ({place})")
            if len(entries) < len(video.frames):
                raise DatasetError(
                    f"{file} has {len(entries)} masks for annotation {key}, expected {len(video.frames)}, one for each "
                    f"frame ({place})"
                )
            try:
                self._lists[key] = frames_of(entries[: len(video.frames)])
            except MaskError as error:
                raise DatasetError(f"{file}, annotation {key}, {error} ({place})") from error
        return self._lists[key]

    def check(self, video: Video, expression: Expression, report: Report) -> list[list[Rle]]:
        """The true masks. Every problem is added to `report`, where `masks` would raise at the first."""
        place = f"{video.video_id}, expression {expression.expression_id}"
        frames: list[list[Rle]] = [[] for _ in video.frames]
        for key in self.keys[video.video_id, expression.expression_id]:
            entries = self.entries().get(key)
            if not isinstance(entries, list):
                report.add("annotation-unknown", f"{place}: annotation {key}")
                continue
            seen = key in self._checked
            self._checked.add(key)
            if len(entries) != len(frames) and not seen:
                code = "mask-list-short" if len(entries) < len(frames) else "mask-list-long"
                report.add(code, f"{place}: annotation {key} has {len(entries)} masks for {len(frames)} frames")
            nulls = sum(entry is None for entry in entries)
            if nulls and not seen:
                report.add("mask-null", f"{place}: annotation {key}, {nulls} frames", nulls)
            for index, (frame, entry) in enumerate(zip(frames, entries, strict=False)):
                try:
                    frame += as_rles(entry)
                except MaskError as error:
                    if not seen:
                        why = str(error).removeprefix("frame 0: ")
                        report.add("mask-unreadable", f"{place}: annotation {key}, frame {index}: {why}")
        return frames

    def count(self, video: Video, expression: Expression) -> int:
        """Number of annotations that the expression names."""
        return len(self.keys[video.video_id, expression.expression_id])

    def load(self) -> None:
        """Reads the file of masks into memory."""
        self.entries()

    def entries(self) -> dict[str, Any]:
        """The annotations that the expressions name, by id; the file is read once.

        Raises:
            DatasetError: the file cannot be read.
        """
        if self._entries is None:
            read = read_plain_pickle if self.name.endswith(".pkl") else read_json
            found = read(self.folder, self.name)
            if not isinstance(found, dict):
                raise DatasetError(f"{self.folder.uri_of(self.name)} is not an object of annotation id -> masks")
            wanted = {key for keys in self.keys.values() for key in keys}
            self._entries = {str(key): value for key, value in found.items() if str(key) in wanted}
        return self._entries


class FileBenchmark(Benchmark):
    """The base class of benchmarks in files. A reader defines `name`, `splits` and `read`.

    Attributes:
        splits: names of the splits, the default first.
        folder: the root, local or in a bucket.
        split: the opened split.
        report: problems found in the metadata.
        frames_folder: folder of all videos' frames, relative to the root.
        question_file: file of the metadata, relative to the root.
        truth: source of the masks; None: the split has none.
        expects_masks: whether the layout has masks for this split.
        expects_foreground: whether the layout has foreground masks.
        has_foreground: whether `foreground` returns masks.
    """

    splits: ClassVar[tuple[str, ...]]
    frames_folder: str
    question_file: str
    truth: Truth | None
    expects_masks: bool
    expects_foreground: ClassVar[bool] = False
    has_foreground = False

    def __init__(self, folder: Folder, split: str | None, folders: Folders, report: Report) -> None:
        if split is not None and split not in self.splits:
            raise DatasetError(f"{self.name} has no split {split!r}; expected one of {', '.join(self.splits)}")
        self.folder = folder
        self.split = split or self.splits[0]
        self.report = report
        self.truth = None
        self.expects_masks = True
        self.read(folders)
        self.has_masks = self.truth is not None

    @abstractmethod
    def read(self, folders: Folders) -> None:
        """Reads the metadata: sets `videos`, `frames_folder`, `question_file`, and what is not as by default."""

    def masks(self, video: Video, expression: Expression) -> list[list[Rle]]:
        """The true masks, as for `Benchmark.masks`."""
        if self.truth is None:
            raise DatasetError(
                f"{self.name}, split {self.split} at {self.folder.uri}: there are no masks to score against"
            )
        try:
            return self.truth.masks(video, expression)
        except StorageError as error:
            raise DatasetError(str(error)) from error

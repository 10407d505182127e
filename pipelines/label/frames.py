"""The labelled frames of a run with their masks: one after the other, or by index as PyTorch's data loaders ask for them."""

from __future__ import annotations

import bisect
import itertools
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, TypedDict

import numpy as np
import pyarrow as pa
from torch.utils.data import Dataset

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.video.video import Video, open_video
from vrshq.pipelines.label.decoding import decode_config
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.tables.moved import VideoPlaces
from vrshq.pipelines.label.tables.opened import Masks, Run
from vrshq.pipelines.label.tables.schema import TRACKS
from vrshq.pipelines.label.tables.spans import FRAME_COLUMNS, labelled_frames
from vrshq.pipelines.label.work.videos import local_video


class LabelledFrame(TypedDict):
    """A frame of a video and what an instruction's answer has on it.

    Attributes:
        video_id: of the video.
        instruction_id: of the instruction.
        text: the instruction.
        frame: the frame's number in the video.
        picture: (H, W, 3) uint8 RGB, upright, as the run read it.
        mask: (H, W) bool, the union of the objects.
    """

    video_id: str
    instruction_id: str
    text: str
    frame: int
    picture: np.ndarray
    mask: np.ndarray


class RunDataset(Dataset[LabelledFrame]):
    """The labelled frames of a run by index: a map-style data set for `torch.utils.data.DataLoader`.

    Workers of a loader are to be spawned, not forked, because decoders have threads.

    Frames of one instruction follow each other, ascending; instructions are in the order of their ids. The open video and the
    masks of one instruction stay for the next item, so items in order cost one decode for each instruction, and items at random
    a seek for each. Memory does not depend on the length of the videos; it holds a short row of each instruction. Each process
    that it is sent to opens files of its own.

    Args:
        uri: the run directory, local or in a bucket.
        videos: folder where the videos lie now; default: where the run found them.
        keep: says of a row of `tracks/` (without its lists) whether its frames are wanted; default: all that did not fail.

    Raises:
        StorageError, RunDirectoryError: there is no run at `uri`. MovedVideosError: `videos` holds none of the videos.
    """

    def __init__(
        self,
        uri: str,
        *,
        videos: str | None = None,
        keep: Callable[[dict[str, Any]], bool] = lambda track: track["status"] != "error",
    ) -> None:
        self.uri = uri
        order = [("video_id", "ascending"), ("instruction_id", "ascending")]
        run = RunDirectory(uri)
        run.read_manifest()  # no run, no frames
        reader = run.reader("tracks", TRACKS)
        reader.schema = reader.stored_schema()
        columns = [field.name for field in reader.schema if not pa.types.is_list(field.type)]
        table = reader.read(columns=columns).sort_by(order)
        kept = (row for batch in table.to_batches(max_chunksize=1_000) for row in batch.to_pylist() if keep(row))
        names = ("video_id", "video_uri", "instruction_id", "text", *FRAME_COLUMNS)
        self._tracks = [{name: row[name] for name in names} for row in kept if row["num_frames"]]
        places = VideoPlaces(videos, (track["video_uri"] for track in self._tracks))
        for track in self._tracks:
            track["video_uri"] = places.now(track["video_uri"])
        self._ends = list(itertools.accumulate(len(labelled_frames(track)) for track in self._tracks))
        self._open: _Opened | None = None

    def __len__(self) -> int:
        return self._ends[-1] if self._ends else 0

    def __getitem__(self, index: int) -> LabelledFrame:
        """The item, which a data loader can collate with others of its size.

        Raises:
            IndexError: there is no such item. InputError, StorageError: its video cannot be read.
        """
        if not -len(self) <= index < len(self):
            raise IndexError(f"item {index}: there are {len(self)}")
        index %= len(self)
        place = bisect.bisect_right(self._ends, index)
        track = self._tracks[place]
        number = labelled_frames(track)[index - (self._ends[place - 1] if place else 0)]
        if self._open is None:
            self._open = _Opened(self.uri)
        return self._open.item(track, number)

    def __iter__(self) -> Iterator[LabelledFrame]:
        return (self[index] for index in range(len(self)))

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_open": None}


class _Opened:
    """The run's files: the video and the masks that were asked for last."""

    def __init__(self, uri: str) -> None:
        self._files = ExitStack()
        self._run = Run(uri)
        self._config = decode_config(RunDirectory(uri), Limits())
        self._uri = ""
        self._video: Video | None = None
        self._key = ("", "")
        self._masks: Masks | None = None

    def item(self, track: dict[str, Any], number: int) -> LabelledFrame:
        if self._video is None or self._uri != track["video_uri"]:
            self._files.close()
            self._video = None
            scratch = self._files.enter_context(tempfile.TemporaryDirectory(prefix="vrshq-frames-"))
            path = self._files.enter_context(local_video(track["video_uri"], scratch, Limits()))
            self._video = self._files.enter_context(open_video(path, self._config))
            self._uri = track["video_uri"]
        key = track["video_id"], track["instruction_id"]
        if self._masks is None or self._key != key:
            self._key, self._masks = key, self._run.masks(*key)
        (picture,) = self._video.frames([number])
        return LabelledFrame(
            video_id=key[0],
            instruction_id=key[1],
            text=track["text"],
            frame=number,
            picture=picture,
            mask=self._masks[number],
        )

    def __del__(self) -> None:
        self._files.close()

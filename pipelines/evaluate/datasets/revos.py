"""ReVOS: `meta_expressions_{split}_.json`, `mask_dict.json` of all splits, and `mask_dict_foreground.json` for R."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any

from vrshq.operators.masks.rle import Rle
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Folders, Video
from vrshq.pipelines.evaluate.datasets.codes import MaskError, frames_of
from vrshq.pipelines.evaluate.datasets.metadata import (
    build_videos,
    expression_entries,
    ids_of,
    plain_rule,
    read_json,
    video_entries,
)
from vrshq.pipelines.evaluate.datasets.problems import Report
from vrshq.pipelines.evaluate.datasets.truth import FileBenchmark, Key, MaskDict

FOREGROUND = "mask_dict_foreground.json"
# Folder and suffix of the files that `vrshq synth --format mp4` writes.
VIDEOS, SUFFIX = "videos", ".mp4"
_LOOKED_AT = 4  # videos of a set whose files are looked for


class Revos(FileBenchmark):
    """ReVOS, splits valid and train, with folders of frames or, as `vrshq synth` may write them, MP4 files.

    The file of foreground masks lies beside the mask file that `folders.masks` names.

    `source` is the first part of a video id with slashes, for example "TAO" of "TAO/...".
    """

    name = "revos"
    splits = ("valid", "train", "test", "test_unseen")  # the last two belong to `vrshq synth`
    expects_foreground = True

    def read(self, folders: Folders) -> None:
        """Reads the metadata and finds the masks."""
        self.question_file = folders.metadata or self._metadata()
        entries = video_entries(self.folder, self.question_file, self.report)
        self.frames_folder = folders.frames or "JPEGImages"
        if (
            folders.frames is None
            and self.folder.child(self.frames_folder).is_empty()
            and self._has_files(VIDEOS, entries)
        ):
            self.frames_folder = VIDEOS
        self.video_files = self._has_files(self.frames_folder, entries)
        self.videos = build_videos(
            entries,
            self.report,
            plain_rule,
            frames_folder=self.frames_folder,
            suffix=SUFFIX if self.video_files else "",
            source=lambda video_id, _: _prefix(video_id),
        )
        masks = folders.masks or "mask_dict.json"
        self.truth = MaskDict.where_there(self.folder, masks, annotation_keys(entries))
        parent = masks.rpartition("/")[0]
        self._foreground_name = f"{parent}/{FOREGROUND}" if parent else FOREGROUND
        self.has_foreground = self.folder.exists(self._foreground_name)
        self._foreground: dict[str, Any] | None = None
        self._last: tuple[str, list[list[Rle]]] | None = (
            None  # cache of one video: all its expressions need the same masks
        )

    def _has_files(self, folder: str, entries: Iterable[str]) -> bool:
        """Whether one of the first videos is a file in the folder."""
        return any(self.folder.exists(f"{folder}/{name}{SUFFIX}") for name in islice(entries, _LOOKED_AT))

    def _metadata(self) -> str:
        """The metadata of the split. Refuses a split that is not there, and names those that are."""
        names = {split: f"meta_expressions_{split}_.json" for split in self.splits}
        if not self.folder.exists(names[self.split]):
            there = [split for split, name in names.items() if self.folder.exists(name)]
            if there:
                raise DatasetError(
                    f"{self.folder.uri} has no split {self.split} ({names[self.split]} is missing); "
                    f"it has {', '.join(there)}: give --split {there[0]}"
                )
        return names[self.split]

    def foreground(self, video: Video) -> list[list[Rle]] | None:
        """The foreground masks of the video (`masks_rle`); None if the data set has no foreground file.

        Raises:
            DatasetError: the file lacks the video, has fewer masks than frames, or holds an entry that is not a mask. The
                public evaluator scores such a video 0.
        """
        if not self.has_foreground:
            return None
        if self._last is not None and self._last[0] == video.video_id:
            return self._last[1]
        if self._foreground is None:
            found = read_json(self.folder, self._foreground_name)
            wanted = {listed.video_id for listed in self.videos}
            # keep the entries of this split only
            self._foreground = {key: found[key] for key in found if key in wanted} if isinstance(found, dict) else {}
        where = f"{self.folder.uri_of(self._foreground_name)}: {video.video_id}"
        entry = self._foreground.get(video.video_id)
        masks = entry.get("masks_rle") if isinstance(entry, dict) else None
        if not isinstance(masks, list):
            raise DatasetError(f"{where} has no masks_rle")
        if len(masks) < len(video.frames):
            raise DatasetError(f"{where} has {len(masks)} masks for {len(video.frames)} frames")
        try:
            self._last = (video.video_id, frames_of(masks[: len(video.frames)]))
        except MaskError as error:
            raise DatasetError(f"{where}: {error}") from error
        return self._last[1]


def annotation_keys(entries: Mapping[str, Mapping[str, Any]]) -> dict[Key, tuple[str, ...]]:
    """The annotation ids in mask_dict (`anno_id`, as str) of each (video, expression)."""
    unread = Report("", "")  # `build_videos` has reported malformed entries already
    return {
        (video_id, expression_id): ids_of(expression, "anno_id")
        for video_id, entry in entries.items()
        for expression_id, expression in expression_entries(video_id, entry, unread)
    }


def _prefix(video_id: str) -> str | None:
    first, slash, _ = video_id.partition("/")
    return first if slash else None

"""Ref-YouTube-VOS, and Ref-DAVIS17 converted to its layout."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.evaluate.datasets.base import Folders, Video
from vrshq.pipelines.evaluate.datasets.metadata import build_videos, plain_rule, read_json, video_entries
from vrshq.pipelines.evaluate.datasets.png_masks import Place, PngMasks
from vrshq.pipelines.evaluate.datasets.truth import FileBenchmark, Key, MaskDict, Truth


class RefYoutubeVos(FileBenchmark):
    """Ref-YouTube-VOS. Split train has masks, split valid has none.

    Split valid has the 202 scored videos: those in the metadata of valid that the metadata of test does not list. The masks of
    split train are the palette images in the folder Annotations, or VISA's mask_dict.pkl if there is no such folder (see
    `running_index`). `folders.masks` names either, a `.pkl` or a folder.
    """

    name = "ref-youtube-vos"
    splits = ("valid", "train")

    def read(self, folders: Folders) -> None:
        """Reads the metadata and finds the masks."""
        self.frames_folder = folders.frames or f"{self.split}/JPEGImages"
        self.question_file = folders.metadata or f"meta_expressions/{self.split}/meta_expressions.json"
        entries = video_entries(self.folder, self.question_file, self.report)
        self.expects_masks = self.split == "train"
        if self.split == "valid":
            hidden = _listed(self.folder, "meta_expressions/test/meta_expressions.json")
            if hidden is None:
                self.report.add("test-list-missing", self.folder.uri_of("meta_expressions/test/meta_expressions.json"))
            entries = {key: entry for key, entry in entries.items() if key not in (hidden or {})}
        self.videos = build_videos(entries, self.report, plain_rule, frames_folder=self.frames_folder)
        if self.expects_masks:
            self.truth = _truth(self.folder, self.videos, folders.masks, ["train/Annotations", "train/mask_dict.pkl"])


class RefDavis(FileBenchmark):
    """Ref-DAVIS17 as VISA and VRS-HQ score it: one mask per expression, on all frames.

    The masks come from `{split}/mask_dict.pkl` (see `running_index`), or from the palette images if there is no such file. Both
    hold the same objects.
    """

    name = "ref-davis17"
    splits = ("valid", "train")
    mask_places: ClassVar[tuple[str, ...]] = ("mask_dict.pkl", "Annotations")

    def read(self, folders: Folders) -> None:
        """Reads the metadata and finds the masks."""
        self.frames_folder = folders.frames or f"{self.split}/JPEGImages"
        self.question_file = folders.metadata or f"meta_expressions/{self.split}/meta_expressions.json"
        entries = video_entries(self.folder, self.question_file, self.report)
        self.videos = build_videos(entries, self.report, plain_rule, frames_folder=self.frames_folder)
        places = [f"{self.split}/{place}" for place in self.mask_places]
        self.truth = _truth(self.folder, self.videos, folders.masks, places)


class RefDavisOfficial(RefDavis):
    """Ref-DAVIS17 for the official protocol: palette annotations and four annotators.

    expression_id = 4 * object_index + annotator. `object_ids` holds the palette value of the object, which the expressions of
    all four annotators share.
    """

    name = "ref-davis17-official"
    mask_places = ("Annotations",)


def running_index(videos: Iterable[Video]) -> dict[Key, tuple[str]]:
    """The key of each expression in VISA's mask_dict.pkl.

    The keys number all expressions in the order of their video ids, then of their ids as strings ("10" before "2"), see
    utils/refytvos_utils.py in cilinyan/VISA.
    """
    pairs = sorted((video.video_id, expression.expression_id) for video in videos for expression in video.expressions)
    return {pair: (str(index),) for index, pair in enumerate(pairs)}


def _truth(folder: Folder, videos: Iterable[Video], given: str | None, choices: list[str]) -> Truth | None:
    for choice in [given] if given else choices:
        if choice.endswith(".pkl") and folder.exists(choice):
            return MaskDict(folder, choice, running_index(videos))
        if not choice.endswith(".pkl") and not folder.child(choice).is_empty():
            return PngMasks(folder, choice, _palette_places(choice, videos))
    return None


def _palette_places(annotations: str, videos: Iterable[Video]) -> dict[Key, Place | None]:
    return {
        (video.video_id, expression.expression_id): Place(
            f"{annotations}/{video.video_id}",
            tuple(int(object_id) for object_id in expression.object_ids if object_id.isascii() and object_id.isdigit()),
        )
        for video in videos
        for expression in video.expressions
    }


def _listed(folder: Folder, name: str) -> Mapping[str, Any] | None:
    if not folder.exists(name):
        return None
    content = read_json(folder, name)
    videos = content.get("videos") if isinstance(content, dict) else None
    return videos if isinstance(videos, dict) else None

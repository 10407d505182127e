"""MeViS (v1 and v2) and LV-VIS: one folder per split with its frames, meta_expressions.json and mask_dict.json."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from vrshq.pipelines.evaluate.datasets.base import Expression, Folders
from vrshq.pipelines.evaluate.datasets.metadata import build_videos, ids_of, plain_rule, text_of, video_entries
from vrshq.pipelines.evaluate.datasets.revos import annotation_keys
from vrshq.pipelines.evaluate.datasets.truth import FileBenchmark, MaskDict

METADATA = ("meta_expressions.json", "meta_expressions_v2.json", "meta_expressions_v2_release.json")
METADATA_V2 = (*METADATA[1:], METADATA[0])


class Mevis(FileBenchmark):
    """MeViS. Splits valid_u and train have masks. Splits valid and test have none; their server scores an exported run.

    The metadata is the first file of `METADATA` in the split's folder, or `folders.metadata`. In a file with "v2" in its name,
    an expression whose `anno_id` is an empty list is no-target. The data set does not distinguish other kinds. The paths in
    `folders` are relative to the root, not to the split's folder.
    """

    name = "mevis"
    metadata: ClassVar[tuple[str, ...]] = METADATA
    splits = ("valid_u", "train", "valid", "test")

    def read(self, folders: Folders) -> None:
        """Reads the metadata and finds the masks."""
        self.frames_folder = folders.frames or f"{self.split}/JPEGImages"
        names = [f"{self.split}/{name}" for name in self.metadata]
        metadata = folders.metadata or next((name for name in names if self.folder.exists(name)), names[0])
        self.question_file = metadata
        entries = video_entries(self.folder, metadata, self.report)
        rule = _v2_rule if self.metadata is METADATA_V2 or "v2" in metadata.rpartition("/")[2] else plain_rule
        self.videos = build_videos(entries, self.report, rule, frames_folder=self.frames_folder)
        self.expects_masks = self.split in ("valid_u", "train")
        masks = folders.masks or f"{self.split}/mask_dict.json"
        self.truth = MaskDict.where_there(self.folder, masks, annotation_keys(entries)) if self.expects_masks else None


class MevisV2(Mevis):
    """MeViS v2: the videos and masks of MeViS with other texts, among them no-target ones, and the measures N-acc and T-acc.

    The metadata is the first file of `METADATA_V2` in the split's folder: `meta_expressions_v2.json`, for split valid
    `meta_expressions_v2_release.json`, or a copy under the name of v1. In the splits with masks, an expression whose `anno_id`
    is an empty list is no-target. Splits valid and test hold texts alone, so nobody but the server knows which are no-target.
    """

    name = "mevis-v2"
    metadata = METADATA_V2


class Lvvis(FileBenchmark):
    """LV-VIS as in the training mixture: split train in the format of MeViS. Texts are category names with underscores."""

    name = "lvvis"
    splits = ("train",)

    def read(self, folders: Folders) -> None:
        """Reads the metadata and finds the masks."""
        self.frames_folder = folders.frames or "train/JPEGImages"
        self.question_file = folders.metadata or "train/meta_expressions.json"
        entries = video_entries(self.folder, self.question_file, self.report)
        self.videos = build_videos(entries, self.report, _category_rule, frames_folder=self.frames_folder)
        masks = folders.masks or "train/mask_dict.json"
        self.truth = MaskDict.where_there(self.folder, masks, annotation_keys(entries))


def _v2_rule(expression_id: str, found: Mapping[str, Any]) -> Expression:
    no_target = found.get("anno_id") == []
    return Expression(expression_id, text_of(found, "exp"), "no-target" if no_target else None, ids_of(found, "obj_id"))


def _category_rule(expression_id: str, found: Mapping[str, Any]) -> Expression:
    return Expression(expression_id, text_of(found, "exp").replace("_", " "), None, ids_of(found, "obj_id"))

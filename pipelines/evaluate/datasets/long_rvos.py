"""Long-RVOS: one folder per split with its frames, meta_expressions.json, and an annotation folder per object.

    SPLIT/meta_expressions.json               {"videos": {VIDEO: {"frames": [STEM, ...],
                                                "expressions": {ID: {"exp": TEXT, "obj_id": OBJECT, "type": TYPE}}}}}
    SPLIT/JPEGImages/VIDEO/STEM.jpg           the frames
    SPLIT/Annotations/VIDEO/OBJECT/STEM.png   the masks, 8-bit: 0 is background, 255 the object

TYPE is "static", "dynamic" or "static+dynamic", which the paper (arXiv 2505.12702) calls hybrid. A frame that does not show the
object has no annotation image. The layout is that of the data set's README, loader and evaluation in the repository
iSEE-Laboratory/Long_RVOS at 447682a. The data themselves were not at hand.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrshq.pipelines.evaluate.datasets.base import Expression, Folders, Kind
from vrshq.pipelines.evaluate.datasets.metadata import build_videos, ids_of, is_inside, text_of, video_entries
from vrshq.pipelines.evaluate.datasets.png_masks import Place, PngMasks
from vrshq.pipelines.evaluate.datasets.truth import FileBenchmark

TYPES: dict[str, Kind] = {"static": "static", "dynamic": "dynamic", "static+dynamic": "hybrid", "hybrid": "hybrid"}


class LongRvos(FileBenchmark):
    """Long-RVOS. The kind of an expression is static, dynamic or hybrid.

    An expression of another type is in no mean, as in the public evaluation. A copy of a split without the folder Annotations
    can be labelled, but not scored. The paths in `folders` are relative to the root, not to the split's folder.
    """

    name = "long-rvos"
    splits = ("valid", "test", "train")

    def read(self, folders: Folders) -> None:
        """Reads the metadata and finds the masks."""
        self.frames_folder = folders.frames or f"{self.split}/JPEGImages"
        self.question_file = folders.metadata or f"{self.split}/meta_expressions.json"
        entries = video_entries(self.folder, self.question_file, self.report)
        self.videos = build_videos(entries, self.report, self._rule, frames_folder=self.frames_folder)
        masks = folders.masks or f"{self.split}/Annotations"
        if self.folder.child(masks).is_empty():
            return
        places: dict[tuple[str, str], Place | None] = {}
        for video in self.videos:
            for expression in video.expressions:
                where = f"{video.video_id}, expression {expression.expression_id}"
                if len(expression.object_ids) != 1:
                    self.report.add("bad-entry", f"{where}: {len(expression.object_ids)} obj_id, expected one")
                folder = f"{masks}/{video.video_id}/{'+'.join(expression.object_ids)}"
                if expression.object_ids and not is_inside(folder):
                    self.report.add("unsafe-id", f"{where}: {folder!r}")
                places[video.video_id, expression.expression_id] = Place(folder, None, sparse=True)
        self.truth = PngMasks(self.folder, masks, places)

    def _rule(self, expression_id: str, found: Mapping[str, Any]) -> Expression:
        kind = TYPES.get(text_of(found, "type"))
        if kind is None:
            shown = f"type {found.get('type')!r}, expected static, dynamic or static+dynamic"
            self.report.add("type-unknown", f"expression {expression_id} ({text_of(found, 'exp')[:80]!r}): {shown}")
        return Expression(expression_id, text_of(found, "exp"), kind, ids_of(found, "obj_id"))

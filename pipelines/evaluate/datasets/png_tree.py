"""The layout for a user's own data: a JSON file, a folder of frames and a folder of PNG masks.

    meta_expressions.json                       {"videos": {VIDEO: {"frames": [STEM, ...],
                                                  "expressions": {ID: {"exp": TEXT}}}}}
    JPEGImages/VIDEO/STEM.jpg or .png           the frames; STEM is a number, e.g. 00000
    Annotations/VIDEO/ID/STEM.png               the masks, 8-bit: 0 is background, anything else the object

VIDEO may hold slashes. An expression may have `"obj_id"`, and `"type_id"`: 0 referring, 1 reasoning, 2 no target. No-target
expressions need no images. A video may have `"source"`, `"height"` and `"width"`. Data without the folder Annotations can be
labelled but not scored. `vrshq export --format png-tree` writes masks in this layout.
"""

from __future__ import annotations

from vrshq.pipelines.evaluate.datasets.base import Folders
from vrshq.pipelines.evaluate.datasets.metadata import build_videos, is_inside, plain_rule, text_of, video_entries
from vrshq.pipelines.evaluate.datasets.png_masks import Place, PngMasks
from vrshq.pipelines.evaluate.datasets.truth import FileBenchmark


class PngTree(FileBenchmark):
    """The layout of this module. Its only split is "all"."""

    name = "png-tree"
    splits = ("all",)

    def read(self, folders: Folders) -> None:
        """Reads the metadata and finds the masks."""
        self.frames_folder = folders.frames or "JPEGImages"
        self.question_file = folders.metadata or "meta_expressions.json"
        entries = video_entries(self.folder, self.question_file, self.report)
        self.videos = build_videos(
            entries,
            self.report,
            plain_rule,
            frames_folder=self.frames_folder,
            source=lambda _video_id, entry: text_of(entry, "source") or None,
        )
        masks = folders.masks or "Annotations"
        self.expects_masks = False
        if self.folder.child(masks).is_empty():
            return
        places: dict[tuple[str, str], Place | None] = {}
        for video in self.videos:
            for expression in video.expressions:
                place = Place(f"{masks}/{video.video_id}/{expression.expression_id}", None)
                if not is_inside(place.folder):
                    self.report.add("unsafe-id", f"{video.video_id}, expression {expression.expression_id!r}")
                key = (video.video_id, expression.expression_id)
                places[key] = None if expression.kind == "no-target" else place
        self.truth = PngMasks(self.folder, masks, places)

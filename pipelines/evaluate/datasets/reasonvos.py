"""ReasonVOS: binary annotation images in `Annotations/<source>_<video>_<obj_id>/`, one folder per object."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from vrshq.pipelines.evaluate.datasets.base import Expression, Folders
from vrshq.pipelines.evaluate.datasets.metadata import build_videos, ids_of, is_inside, text_of, video_entries
from vrshq.pipelines.evaluate.datasets.png_masks import Place, PngMasks
from vrshq.pipelines.evaluate.datasets.truth import FileBenchmark


class ReasonVos(FileBenchmark):
    """ReasonVOS. Its only split is called test here, and all its expressions are of the kind reasoning.

    The text is `exp_text`, as in the public inference script, or `exp`. The public evaluator takes the images of the annotation
    folder as the frames. This reader takes the metadata's `frames`; a frame without an annotation image is a DatasetError.
    """

    name = "reasonvos"
    splits = ("test",)

    def read(self, folders: Folders) -> None:
        """Reads the metadata and finds the masks."""
        self.frames_folder = folders.frames or "JPEGImages"
        self.question_file = folders.metadata or "meta_expressions.json"
        entries = video_entries(self.folder, self.question_file, self.report)
        for video_id, entry in entries.items():
            if "frames" not in entry or isinstance(entry["frames"], int):  # some copies have a count instead of names
                entry["frames"] = self._list_frames(video_id)
        self.videos = build_videos(
            entries,
            self.report,
            _rule,
            frames_folder=self.frames_folder,
            source=lambda _video_id, entry: text_of(entry, "source") or None,
        )
        masks = folders.masks or "Annotations"
        if self.folder.child(masks).is_empty():
            return
        places: dict[tuple[str, str], Place | None] = {}
        for video in self.videos:
            for expression in video.expressions:
                object_id = next(iter(expression.object_ids), "")
                folder = f"{masks}/{video.source or ''}_{video.video_id}_{object_id}"
                if not is_inside(folder):
                    self.report.add("unsafe-id", f"{video.video_id}, expression {expression.expression_id}: {folder!r}")
                places[video.video_id, expression.expression_id] = Place(folder, None)
        self.truth = PngMasks(self.folder, masks, places)

    def _list_frames(self, video_id: str) -> list[str]:
        names = self.folder.list(f"{self.frames_folder}/{video_id}")
        return [name.rpartition("/")[2].rpartition(".")[0] for name in names if name.endswith(".jpg")]


def _rule(expression_id: str, found: Mapping[str, Any]) -> Expression:
    return Expression(expression_id, text_of(found, "exp_text", "exp"), "reasoning", ids_of(found, "obj_id"))

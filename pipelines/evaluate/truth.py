"""The ground truth of a benchmark by video, instruction and frame, for the oracles of keyframe choice."""

from __future__ import annotations

from typing import Any

import numpy as np
from pycocotools import mask as coco

from vrshq.operators.masks.rle import Rle
from vrshq.pipelines.evaluate.datasets import open_benchmark
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Folders
from vrshq.pipelines.evaluate.predictions import frame_number


class TrueMasks:
    """The true masks of a benchmark. Holds the metadata, and the masks of the expression that was last asked for.

    Args:
        dataset: name of the benchmark.
        root: the data set's folder.
        split: None: the data set's own.
        folders: fields of `Folders`.
    """

    def __init__(self, dataset: str, root: str, split: str | None, folders: dict[str, str | None]) -> None:
        self.benchmark = open_benchmark(dataset, root, split=split, folders=Folders(**folders))
        self.videos = {video.video_id: video for video in self.benchmark.videos}
        self._last: tuple[tuple[str, str], list[list[Rle]] | None] | None = None

    def __call__(self, video_id: str, instruction_id: str, frame: int) -> np.ndarray | None:
        """The union of the true masks of an expression on a frame of its video, as `SelectKeyframe.truth`.

        Args:
            video_id: id of the video.
            instruction_id: id of the expression.
            frame: number of the frame in presentation order.
        """
        key = (video_id, instruction_id)
        if self._last is None or self._last[0] != key:
            self._last = (key, self._masks(*key))
        masks = self._last[1]
        if masks is None or frame >= len(masks):
            return None
        size: list[int] = next((list(mask["size"]) for row in masks for mask in row), [0, 0])
        true = np.zeros(size, bool)
        for mask in masks[frame]:
            true |= coco.decode(_plain(mask)).astype(bool)
        return true if true.size else None

    def _masks(self, video_id: str, instruction_id: str) -> list[list[Rle]] | None:
        """By frame in presentation order; None where the data set has none."""
        video = self.videos[video_id]
        expression = next(one for one in video.expressions if one.expression_id == instruction_id)
        try:
            masks = self.benchmark.masks(video, expression)
        except DatasetError:
            return None
        if len(masks) != len(video.frames):
            return None
        order = sorted(range(len(video.frames)), key=lambda place: frame_number(video.frames[place]))
        return [masks[place] for place in order]


def _plain(mask: Rle) -> Any:
    return {"size": list(mask["size"]), "counts": mask["counts"]}

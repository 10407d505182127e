"""A video in memory and a batch of one unit, for the operators' tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from vrshq.operators.batch import Batch, new_batch


class ArrayVideo:
    """Random blocks as frames, (T, H, W, 3) uint8, with the interface of `Video`. `read` lists the requested frame indices."""

    def __init__(self, num_frames: int, height: int = 40, width: int = 64, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        coarse = random.integers(0, 256, (num_frames, height // 8, width // 8, 3), dtype=np.uint8)
        self.array = coarse.repeat(8, axis=1).repeat(8, axis=2)
        self.num_frames, self.height, self.width = num_frames, height, width
        self.pixel_aspect = 1.0
        self.read: list[int] = []

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        self.read += indices
        return self.array[list(indices)]

    def stream(self, start: int = 0, stop: int | None = None) -> Iterator[np.ndarray]:
        self.read += range(self.num_frames)[start:stop]
        return iter(self.array[start:stop])


def unit_batch(video: ArrayVideo, texts: Sequence[str], **columns: object) -> Batch:
    """A batch of one unit. Instruction ids equal the texts, so that a test can follow them through a change of order."""
    unit = {
        "unit_id": "u",
        "video_id": "v",
        "video_uri": "v.mp4",
        "instruction_ids": list(texts),
        "texts": list(texts),
        "video": video,
    }
    return new_batch([unit | columns])

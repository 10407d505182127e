"""SAM2 image features of a video's frames, computed once per frame and kept under a byte budget."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

import torch

from vrshq.operators.models.family import Frames
from vrshq.operators.models.preprocess import Pixels, sam2_pixels, square_pixels
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.values import Features
from vrshq.operators.video.pixel_aspect import pixel_aspect_of
from vrshq.operators.video.prefetch import ahead

CPU_FRAMES = 1  # frames of 512 px through the encoder at once on a CPU; four take some 10 % longer each


class VideoFeatures:
    """Live column `features`: one video's image features, shared by TKS, the keyframe and both directions of tracking.

    When the budget is full, the least recently used frames are dropped. A backward sweep that follows a forward sweep then
    finds the last frames still kept. Where the features stay for further units, the first frames that fill three quarters of
    the budget are never dropped: every unit sweeps over all frames, and would find none of the most recent ones.
    `encoder_calls` counts encoded frames. It equals the number of distinct requested frames as long as frames that are
    requested again fit into the budget.
    """

    def __init__(
        self, segmenter: Segmenter, video: Frames, *, budget_bytes: int, batch_size: int, stays: bool = False
    ) -> None:
        self.segmenter = segmenter
        self.video = video
        self.budget_bytes = budget_bytes
        self.batch_size = segmenter.fitting(batch_size, CPU_FRAMES)
        self._parameter = next(segmenter.parameters())
        self.encoder_calls = 0
        self.resized_hw = (0, 0)  # size of a frame inside the model's square; known after the first frame
        self._stays = stays
        self._pinned: set[int] = set()  # frames of `_kept` that are not dropped
        self._kept: OrderedDict[int, Features] = OrderedDict()
        self._kept_bytes = 0
        self._frame_bytes = 0  # known after the first frame

    def get(self, indices: Sequence[int]) -> Features:
        """Features of the given frames, in that order; an index may occur several times."""
        fresh: dict[int, Features] = {}
        for encoded in self._encode_missing(indices):
            fresh |= encoded
        parts = [fresh[index] if index in fresh else self._kept[index] for index in indices]
        for index in dict.fromkeys(indices):
            self._keep(index, fresh.get(index))
        return Features.concatenate(parts) if len(parts) > 1 else parts[0]

    def prefetch(self, indices: Sequence[int]) -> None:
        """Encodes frames, in batches, before they are requested. All of them should fit into the budget."""
        for encoded in self._encode_missing(indices):
            for index, features in encoded.items():
                self._keep(index, features)

    def forget(self, index: int) -> None:
        """Frees the features of a frame that this unit will not request again, unless they stay for others."""
        if index in self._pinned:
            return
        features = self._kept.pop(index, None)
        self._kept_bytes -= features.nbytes if features else 0

    def begin_anew(self) -> None:
        """Frees all features but those that stay for other units, so that what follows depends on nothing before it."""
        for index in [kept for kept in self._kept if kept not in self._pinned]:
            self.forget(index)
        self._frame_bytes = 0

    def window(self) -> int:
        """Number of frames that a sweep should prefetch at a time: as many as a quarter of the budget holds, at most 32."""
        frame_bytes = self._frame_bytes or self.segmenter.frame_bytes
        return max(1, min(32, self.budget_bytes // (4 * frame_bytes)))

    @property
    def kept_bytes(self) -> int:
        """Bytes of the features that are kept now."""
        return self._kept_bytes

    def _encode_missing(self, indices: Sequence[int]) -> Iterator[dict[int, Features]]:
        """Encodes the frames that are not kept, batch by batch. The next batch is read and resized in the meantime."""
        missing = sorted(set(indices) - self._kept.keys())  # ascending, the cheapest order for a decoder
        batches = [missing[begin : begin + self.batch_size] for begin in range(0, len(missing), self.batch_size)]
        for batch, pixels in zip(batches, ahead(self._read, batches), strict=True):
            yield self._encode(batch, pixels)

    def _read(self, indices: list[int]) -> Pixels:
        frames, pixel_aspect = self.video.frames(indices), pixel_aspect_of(self.video)
        make = square_pixels if self.segmenter.usage.square else sam2_pixels
        device = self._parameter.device
        pixels = make(frames, self.segmenter.image_size, pixel_aspect, device)
        self.resized_hw = pixels.covered
        return pixels.staged(device)

    def _encode(self, indices: list[int], pixels: Pixels) -> dict[int, Features]:
        with torch.inference_mode():
            given = pixels.on(self._parameter.device, self._parameter.dtype)
            if self.segmenter.compiled:  # for one size of a batch, so that the last frames of a video are filled up
                given = torch.cat([given, given[-1:].expand(self.batch_size - len(indices), -1, -1, -1)])
            features = self.segmenter.encode(given)
        self.encoder_calls += len(indices)
        # copied, so that a kept frame does not hold its whole batch
        return {index: features.row(row) for row, index in enumerate(indices)}

    def _keep(self, index: int, features: Features | None) -> None:
        if features is None:
            if index in self._kept:
                self._kept.move_to_end(index)
            return
        self._kept[index] = features
        self._kept_bytes += features.nbytes
        self._frame_bytes = features.nbytes
        if self._stays and self._kept_bytes <= 3 * self.budget_bytes // 4:
            self._pinned.add(index)
        while self._kept_bytes > self.budget_bytes and len(self._kept) > 1:
            oldest = next(kept for kept in self._kept if kept not in self._pinned)
            self._kept_bytes -= self._kept.pop(oldest).nbytes

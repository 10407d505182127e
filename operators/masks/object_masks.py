"""The masks of one object on the frames of a video, as they come in."""

from __future__ import annotations

from vrshq.operators.masks.rle import EncodedMask


class ObjectMasks:
    """One object's masks and object logits, by frame; None and 0 on a frame without an output."""

    def __init__(self, num_frames: int) -> None:
        self.masks: list[EncodedMask | None] = [None] * num_frames
        self.scores = [0.0] * num_frames

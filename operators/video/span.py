"""A span of a video: the frames that are labelled, by the video's own numbers."""

from __future__ import annotations

from dataclasses import dataclass

from vrshq.operators.batch import InputError


@dataclass(frozen=True)
class Span:
    """Frames `start`, `start + every`, ... below `end`.

    Attributes:
        start: the first frame; None: 0.
        end: the frame after the last one; None, or a number beyond the video: all frames up to the video's last one.
        every: distance of neighbouring frames, at least 1.
    """

    start: int | None = None
    end: int | None = None
    every: int = 1

    def frames(self, source: str, total: int) -> range:
        """The numbers of the span's frames in a video of `total` frames; InputError where there are none."""
        start, end = self.start or 0, total if self.end is None else min(self.end, total)
        if start >= end:
            asked = f"start {start}" + ("" if self.end is None else f", end {self.end}")
            raise InputError(f"{source} has frames 0 to {total - 1}, none of them in the span asked for ({asked})")
        return range(start, end, self.every)


WHOLE = Span()

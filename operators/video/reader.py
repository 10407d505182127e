"""The protocol of a reader, its count of decoded frames, and the cache of decoded frames.

A reader gives the frame with a presentation index: its place in the order in which a full sequential decode yields
frames.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class ReaderError(RuntimeError):
    """A reader failed where another one may not."""


class DecodeCount:
    """Work of a reader: `passes`, how often it began anew before where it stood; `frames`, those taken from its decoder."""

    def __init__(self) -> None:
        self.passes = self.frames = 0
        self._next = -1

    def add(self, start: int, stop: int) -> None:
        """The frames start..stop-1 were decoded."""
        self.passes += self._next < 0 or start < self._next
        self.frames += stop - start
        self._next = stop


class Reader(Protocol):
    """Frames by presentation index; cheapest in ascending order."""

    name: str
    num_frames: int
    count: DecodeCount
    notes: list[str]  # what a user should know about the frames

    def read(self, index: int) -> np.ndarray:
        """The frame: a (height, width, 3) uint8 RGB array, which the reader may hand out again: not to be written to."""

    def close(self) -> None:
        """Releases the decoder."""


class FrameCache:
    """Keeps the first frames it is offered, up to a number of bytes, and never evicts one.

    A video is read front to back again and again; there, throwing out the oldest frame would throw out each one just
    before its next use.
    """

    def __init__(self, budget: int) -> None:
        self._budget = self._left = budget
        self._frames: dict[int, np.ndarray] = {}
        self.full = False

    def get(self, index: int) -> np.ndarray | None:
        """The cached frame, or None."""
        return self._frames.get(index)

    def offer(self, index: int, frame: np.ndarray) -> None:
        """Keeps the frame if it still fits. The cache owns it from then on: hand out copies."""
        if index in self._frames:
            return
        self.full = self.full or frame.nbytes > self._left
        if not self.full:
            self._frames[index] = frame
            self._left -= frame.nbytes

    def clear(self) -> None:
        """Forgets all frames."""
        self._frames.clear()
        self._left = self._budget
        self.full = False

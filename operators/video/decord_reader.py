"""The decord reader: fast, and only right for the files on which it was checked."""

from __future__ import annotations

import bisect
import itertools
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np

from vrshq.operators.video.files import DecodeConfig, Packets, VideoInfo
from vrshq.operators.video.reader import DecodeCount, ReaderError

RUN_FRAMES, RUN_BYTES = 64, 32 * 2**20  # upper limits of a run that joins short groups of pictures


def decord_runs(info: VideoInfo, packets: Packets, config: DecodeConfig) -> list[int]:
    """Where the runs of frames begin that decord reads, each of one or more groups of pictures; last, the number of frames."""
    most = min(RUN_FRAMES, min(RUN_BYTES, config.decord_bytes) // (info.height * info.width * 3))
    starts = [0]
    for key, end in itertools.pairwise([*packets.keys, packets.count]):
        if end - starts[-1] > most:
            starts.append(key)
    return [*starts, packets.count]


class DecordReader:
    """Fast, but its frame times are those of the packets, never of the frames it shows: use it after `disagreement`.

    decord takes in all packets that it can reach while it waits for a frame, and its thread decodes them, whoever wants
    the frames. So it reads runs of whole groups of pictures and is stopped after each; the run that was read last is held.
    """

    name = "decord"

    def __init__(self, path: Path, info: VideoInfo, packets: Packets, config: DecodeConfig) -> None:
        decord = self._guard(_import_decord)
        decord.logging.set_level(decord.logging.QUIET)
        # fault_tol: by default decord repeats the last good frame where one is missing; any such frame is to be an error
        self._reader: Any = self._guard(
            lambda: decord.VideoReader(str(path), num_threads=config.num_threads, fault_tol=1e-9)
        )
        self.num_frames = len(self._reader)
        self.count = DecodeCount()
        self.notes: list[str] = []
        self._runs = decord_runs(info, packets, config)
        self._held: list[np.ndarray] = []
        self._first = 0  # index of the first frame held

    @staticmethod
    def _guard(call: Any) -> Any:
        try:
            return call()
        except Exception as error:  # decord raises its own types, RuntimeError, AssertionError, ...
            words = re.sub(r"\[[\d:]+\] |\S+\.cc:\d+: ", "", str(error)).split()  # without times and source lines
            raise ReaderError(" ".join(words)[:200] or type(error).__name__) from error

    def start_times(self) -> np.ndarray:
        """Start of each frame in seconds: (num_frames,) float64."""
        times = self._guard(lambda: self._reader.get_frame_timestamp(range(self.num_frames)))
        return np.asarray(times[:, 0], np.float64)

    def read(self, index: int) -> np.ndarray:
        """The frame at an index in presentation order: (H, W, 3) uint8 RGB."""
        if not 0 <= index - self._first < len(self._held):
            run = bisect.bisect_right(self._runs, index)
            self._held = []  # not beside the next ones
            self._first, stop = self._runs[run - 1], self._runs[run]
            self._held = self.decode(self._first, stop)
            self.count.add(self._first, stop)
        return self._held[index - self._first]

    def decode(self, start: int, stop: int) -> list[np.ndarray]:
        """The frames start..stop-1, of which the first is a keyframe."""
        frames = [self._guard(lambda index=index: self._reader[index].asnumpy()) for index in range(start, stop)]
        self._guard(lambda: self._reader.seek(0))  # ends the thread and throws away what it has decoded
        return frames

    def close(self) -> None:
        """Releases the decoder."""
        self._reader = None
        self._held = []


def _import_decord() -> Any:
    """decord, kept from loading CUDA.

    It loads whatever libraries it finds in torch's nvidia packages, some 600 MiB, and uses none of them. None as a module is
    Python's way to say that a package is not there.
    """
    hidden = sys.modules.get("nvidia")
    sys.modules["nvidia"] = None  # type: ignore[assignment]
    try:
        import decord  # here, because folders of images do not need it
    finally:
        del sys.modules["nvidia"]
        if hidden is not None:
            sys.modules["nvidia"] = hidden
    return decord

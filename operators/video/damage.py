"""What a sequential decode finds wrong with a stream: frames that are lost, and frames that show errors."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

SHOWN_RANGES = 5  # ranges of frames that a note lists


@dataclass
class Damage:
    """The damage of a stream, in frame indices of its sequential decode.

    Attributes:
        faulty: frames that the decoder flags as patched up.
        lost_after: for each frame that is lost, the frame before it; -1 before the first one.
        lost_end: frames that the container announces behind the end of the file; None where the end is missing and
            nothing says how many frames it had.
        interrupted: frames near which data is missing, where no frame shows it.
    """

    faulty: list[int] = field(default_factory=list)
    lost_after: list[int] = field(default_factory=list)
    lost_end: int | None = 0
    interrupted: list[int] = field(default_factory=list)

    def __bool__(self) -> bool:
        return bool(self.faulty or self.interrupted) or self.loses_frames

    @property
    def loses_frames(self) -> bool:
        """Whether frames of the video are missing."""
        return bool(self.lost_after) or self.lost_end != 0

    def note(self, frames: int) -> str:
        """The damage on one line, for a stream of which `frames` frames are left."""
        lost = len(self.lost_after) + (self.lost_end or 0)
        words = [f"{lost} of {frames + lost} frames lost" if lost else ""]
        if self.lost_after:
            places = dict.fromkeys("at the start" if one < 0 else f"after frame {one}" for one in self.lost_after)
            words[0] += " " + _listed(list(places))
        if self.lost_end:
            words[0] += " at the end" if not self.lost_after else f", {self.lost_end} of them at the end"
        if self.lost_end is None:
            words.append("the file is cut short, it is not known by how many frames")
        if not self.loses_frames:
            words = [f"all {frames} frames are there"]
        if self.faulty:
            words.append(f"errors show around frame {_listed(ranges(self.faulty))}")
        if self.interrupted:
            words.append(f"data is missing around frame {_listed(ranges(self.interrupted))}")
        return "damaged stream: " + "; ".join(filter(None, words))


def ranges(numbers: Iterable[int]) -> list[str]:
    """Ascending numbers as ranges: 1, 2, 3, 7 become "1-3" and "7"."""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    return ["-".join(map(str, one)) for one in found]


def _listed(words: list[str]) -> str:
    shown = words[:SHOWN_RANGES]
    more = len(words) - len(shown)
    if more:
        return f"{', '.join(shown)} and {more} more places"
    return " and ".join(filter(None, [", ".join(shown[:-1]), shown[-1]]))


def decoded(
    container: InputContainer, stream: VideoStream, on_error: Callable[[BaseException], None]
) -> Iterator[av.VideoFrame]:
    """The frames of a sequential decode.

    `on_error` is called with what ffmpeg raises. Where it returns, decoding goes on behind the packet that cannot be
    decoded; what cannot be read from the container ends the stream.
    """
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, MemoryError) as error:
            on_error(error)
            packet = None
            with contextlib.suppress(av.FFmpegError, MemoryError):
                yield from stream.decode(None)  # the frames that wait for their place in the order
        if packet is None:
            return
        try:
            frames = packet.decode()
        except (av.FFmpegError, MemoryError) as error:
            on_error(error)
        else:
            yield from frames


def places_of_missing(expected: np.ndarray, found: np.ndarray) -> list[int]:
    """For each expected time that was not found the index of the last found time before it; both ascending int64."""
    missing = np.setdiff1d(expected, found)
    places: list[int] = (np.searchsorted(found, missing) - 1).tolist()
    return places


def places_of_gaps(times: np.ndarray) -> list[int]:
    """For each frame that fits into a gap between two frame times the index before the gap; times (n,) ascending int64.

    A gap is a distance of more than one and a half usual ones. Only for streams of which packets are known to be lost.
    """
    if len(times) < 3:
        return []
    steps = np.diff(times)
    usual = max(1, int(np.median(steps)))
    counts = np.maximum(np.rint(steps / usual).astype(int) - 1, 0)
    return list(itertools.chain.from_iterable([place] * int(count) for place, count in enumerate(counts)))

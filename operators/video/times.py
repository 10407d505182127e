"""When the frames of a video are shown."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av

DEFAULT_RATE = Fraction(25)  # of frames that state no time, such as the pictures of a folder


@dataclass(frozen=True)
class FrameTimes:
    """The times of all frames of a video, in presentation order.

    Attributes:
        ticks: when each frame is shown, in units of `unit` from the first frame on.
        unit: seconds of a tick.
        zero: when the first frame is shown by the file's own clock, in seconds.
    """

    ticks: list[int]
    unit: Fraction
    zero: Fraction = Fraction(0)

    def duration(self, index: int) -> int:
        """Ticks from a frame to the next one; the last frame lasts as long as the one before it."""
        first = max(0, min(index, len(self.ticks) - 2))
        return (
            self.ticks[first + 1] - self.ticks[first]
            if len(self.ticks) > 1
            else max(1, round(1 / DEFAULT_RATE / self.unit))
        )


def frame_times(path: str, num_frames: int) -> FrameTimes:
    """Reads the times from the packets of a file; frames of a folder, and of a file that states no times, are 25 a second.

    Args:
        path: local file or folder, which `open_video` opens.
        num_frames: its frames.

    A file whose packets state more or fewer times than it has frames has its average rate. Costs one read of the packets.
    """
    if Path(path).is_file():
        with av.open(path) as container:
            stream = container.streams.video[0]
            rate = stream.average_rate or DEFAULT_RATE
            ticks = sorted({packet.pts for packet in container.demux(stream) if packet.pts is not None})
            if len(ticks) == num_frames and stream.time_base:
                unit = Fraction(stream.time_base)
                return FrameTimes([tick - ticks[0] for tick in ticks], unit, ticks[0] * unit)
    else:
        rate = DEFAULT_RATE
    return FrameTimes(list(range(num_frames)), 1 / Fraction(rate))

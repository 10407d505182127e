"""The number of frames that a video's header states, for estimates. `vrshq.operators.video.files` finds the true number."""

from __future__ import annotations

from typing import BinaryIO

import av

from vrshq.operators.video.files import CONTAINERS

# Formats without a header that states a length; ffmpeg would guess one from the bit rate.
_WITHOUT_LENGTH = frozenset({"h264", "hevc", "m4v"})
# What ffmpeg may read to find the streams, in bytes. Headers of mp4 and mkv are read whole, whatever this is.
_PROBE_BYTES = 1 << 20


def stated_frames(source: BinaryIO) -> int | None:
    """The number of frames of an open, seekable video file as its header states it, or as length and frame rate give it.

    Reads the header, and in some containers the end of the file. May raise whatever PyAV and the file raise, and a broken
    file may end the process: call it where that costs nothing.

    Returns:
        the number; None where the header does not state it.
    """
    options = {"format_whitelist": CONTAINERS, "protocol_whitelist": "file", "probesize": str(_PROBE_BYTES)}
    with av.open(source, "r", options=options, metadata_errors="ignore") as container:
        stream = container.streams.best("video")
        if stream is None or not hasattr(stream, "average_rate"):
            return None
        if stream.frames:
            return int(stream.frames)
        rate, duration = stream.average_rate or stream.guessed_rate, stream.duration
        seconds = float(duration * stream.time_base) if duration and stream.time_base else 0.0
        if not seconds and container.duration:
            seconds = container.duration / av.time_base
        if container.format.name in _WITHOUT_LENGTH or not rate or seconds <= 0:
            return None
        return max(1, round(seconds * float(rate)))

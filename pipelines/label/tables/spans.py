"""Which frames of its video an instruction was answered on, from its row of `tracks/`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# The columns of `tracks/` that these functions read.
FRAME_COLUMNS = ("num_frames", "start", "end", "every")


def labelled_frames(track: Mapping[str, Any]) -> range:
    """The numbers of the labelled frames in the video; empty where the video was not opened.

    Args:
        track: a row of `tracks/`. Runs of schema version 1 have no spans: `start` is null or missing.
    """
    if track.get("start") is None:
        return range(track["num_frames"] or 0)
    return range(track["start"], track["end"], track["every"])


def span_in_words(track: Mapping[str, Any]) -> str | None:
    """The labelled frames in words; None where they are all frames of the video."""
    frames = labelled_frames(track)
    if len(frames) == (track["num_frames"] or 0):
        return None
    step = f", every {frames.step} frames" if frames.step > 1 else ""
    return f"frames {frames[0]} to {frames[-1]}{step}"

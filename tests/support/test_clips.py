"""Promises of the generated clips."""

from __future__ import annotations

import os
from pathlib import Path

from tests.support.clips import av1


def test_encoding_av1_leaves_the_process_its_ordinary_priority(tmp_path: Path) -> None:
    """All later processes would inherit a real-time priority, and Ray's processes would starve each other."""
    before = os.sched_getscheduler(0)
    assert av1(tmp_path / "clip.mp4").stat().st_size > 0
    assert os.sched_getscheduler(0) == before

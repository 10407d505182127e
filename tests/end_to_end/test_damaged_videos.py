"""Thousands of damaged videos in one run: a row for each instruction, whatever the bytes do to a decoder."""

from __future__ import annotations

import threading
import time
from collections import Counter
from pathlib import Path
from typing import Literal

import psutil
import pytest

from tests.support.fault_kit import Command, accounted
from tests.support.mutations import KINDS, write_damaged_corpus
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.batch import InputError
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.video import open_video
from vrshq.pipelines.label.tables.schema import TRACKS

KEEP = ["decode.damaged=keep"]


def statuses(run: str) -> Counter[tuple[str, str]]:
    """Counts of (kind of damage, status)."""
    rows = RunDirectory(run).read("tracks", TRACKS, ["video_id", "status"]).to_pylist()
    return Counter((Path(row["video_id"]).stem.partition("-")[2], row["status"]) for row in rows)


def frames_of(path: Path, damaged: Literal["refuse", "keep"]) -> int | None:
    """How many frames a reader yields; None for a video that is refused."""
    try:
        with open_video(str(path), DecodeConfig(damaged=damaged)) as video:
            found = sum(1 for _ in video.stream())
            assert found == video.num_frames
            return found
    except InputError:
        return None


def test_keeping_damage_opens_all_that_refusing_opens_and_more(tmp_path: Path) -> None:
    table = write_damaged_corpus(tmp_path, 90)
    videos = sorted(path for path in table.parent.iterdir() if path.stem.partition("-")[2])
    assert len(videos) == 90
    refused, kept = ([frames_of(path, damaged) for path in videos] for damaged in ("refuse", "keep"))
    assert all(two == one for one, two in zip(refused, kept, strict=True) if one is not None)
    opened = [sum(found is not None for found in several) for several in (refused, kept)]
    assert 0 < opened[0] < opened[1] <= 90


class PeakMemory:
    """The largest resident memory of one process among the descendants of a process, in bytes."""

    def __init__(self, pid: int) -> None:
        self.bytes = 0
        self._root = psutil.Process(pid)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while self._root.is_running() and self._root.status() != psutil.STATUS_ZOMBIE:
            try:
                for process in self._root.children(recursive=True):
                    self.bytes = max(self.bytes, process.memory_info().rss)
            except psutil.NoSuchProcess:
                pass
            time.sleep(0.2)


@pytest.mark.long
@pytest.mark.ray
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("settings", [[], KEEP], ids=["refuse", "keep"])
def test_three_thousand_damaged_videos_fail_no_run(settings: list[str], tmp_path: Path) -> None:
    copies = 3000
    table = str(write_damaged_corpus(tmp_path / "videos", copies))
    run = str(tmp_path / "run")
    line = ["label", table, "--output", run, "--model", "untrained-tiny", "--max-error-rate", "1"]
    for assignment in (*settings, "resources.attempts=2"):
        line += ["--set", assignment]
    begin = time.monotonic()
    command = Command(*line)
    peak = PeakMemory(command.process.pid)
    assert command.end(3600) == 0, command.output
    seconds = time.monotonic() - begin
    counts = accounted(run)
    assert (len(counts), set(counts.values())) == (copies, {1})
    found = statuses(run)
    answered = sum(count for (_, status), count in found.items() if status != "error")
    print(f"{copies} copies in {seconds:.0f} s, peak of one process {peak.bytes / 2**20:.0f} MiB, {answered} answered")
    for kind in KINDS:
        print(f"{kind}: " + ", ".join(f"{count} {status}" for (one, status), count in found.items() if one == kind))
    died = RunDirectory(run).read("tracks", TRACKS, ["error_type"])["error_type"].to_pylist()
    print(Counter(name for name in died if name).most_common())
    assert answered > 0

"""`vrshq label` on Ray: the for-loop's tables, and a run that ends early with exit code 3."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import ray

from tests.end_to_end.conftest import SETTINGS
from tests.support.label_runs import content, instruction, vrshq_process, write_table
from vrshq.cluster.ray.schedule import MOST_UNITS
from vrshq.pipelines.label.run import label

pytestmark = pytest.mark.ray


def test_ray_gives_the_for_loops_tables(small_corpus: Path, loop_run: str, tmp_path: Path) -> None:
    """Without a Ray in this process, `label` starts one and ends it."""
    assert not ray.is_initialized()
    output = str(tmp_path / "run")
    summary = label(str(small_corpus / "instructions.jsonl"), output, SETTINGS)
    assert summary.counts["units"] == 4
    assert content(output) == content(loop_run)
    assert not ray.is_initialized()


def test_a_run_that_fails_throughout_stops_early_and_says_why(small_corpus: Path, tmp_path: Path) -> None:
    """A wrong folder of videos: a few of its two thousand units are enough evidence to stop.

    The command is a process of its own with a Ray of its own, which must write nothing on stderr.
    """
    good = [instruction("one.mp4", number, "it", video_id=f"v{number}") for number in range(2)]
    bad = [instruction(f"none-{number:04d}.mp4", 0, "it") for number in range(2000)]
    table = write_table(tmp_path / "table.jsonl", [*good, *bad])
    run = tmp_path / "run"
    line = ["label", table, "--videos", str(small_corpus), "--output", str(run), "--model", "untrained-tiny"]
    result = vrshq_process(*line, "--max-error-rate", "0.2")
    assert result.returncode == 3, result.stderr
    match = re.fullmatch(
        r"stopped: (\d+) of the first (\d+) instructions failed, more than --max-error-rate 0\.2 allows; "
        r"\d+ x InputError, the first error: \S+none-\d+\.mp4 cannot be opened \(No such file or directory\).*"
        r"run the same command with --retry-errors\n",
        result.stderr,
    )
    assert match, result.stderr
    assert 16 <= int(match.group(2)) < 100
    # units in progress at the stop may still have been written: a batch of short ones in each of the two actors
    assert 0 <= len(content(str(run))["tracks"]) - int(match.group(2)) <= 2 * MOST_UNITS

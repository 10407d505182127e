"""`vrshq label` on Ray: the for-loop's tables, workers that die, and runs that end with exit code 3."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path

import pytest
import ray

from tests.end_to_end.conftest import SETTINGS
from tests.support.label_runs import content, instruction, vrshq, vrshq_process, write_table
from vrshq.pipelines.label.run import label

pytestmark = pytest.mark.ray

# Ends the process of an actor on videos of these names, as a crash in native code does. Python runs this file when a
# process of Ray starts; the faults are put in when that process imports the operators, so the driver has none.
FAULTS = """
import os, sys

def install():
    import vrshq.operators.decode as decode, vrshq.pipelines.label.worker as worker
    opened, write = decode.open_video, worker.UnitWorker._write

    def deadly_open(path, config=None):
        if "dies-decoding" in path: os._exit(139)
        return opened(path, config)

    def deadly_write(self, unit, begin):
        receipt = write(self, unit, begin)
        if "dies-after-writing" in unit["video_id"]: os._exit(1)
        return receipt

    decode.open_video, worker.UnitWorker._write = deadly_open, deadly_write

class Late:
    def find_spec(self, name, path=None, target=None):
        if name == "vrshq.operators.keyframe":
            install()
        return None

sys.meta_path.insert(0, Late())
"""


def test_ray_gives_the_for_loops_tables(small_corpus: Path, loop_run: str, tmp_path: Path) -> None:
    """Without a Ray in this process, `label` starts one and ends it."""
    assert not ray.is_initialized()
    output = str(tmp_path / "run")
    summary = label(str(small_corpus / "instructions.jsonl"), output, SETTINGS)
    assert summary.counts["units"] == 4
    assert content(output) == content(loop_run)
    assert not ray.is_initialized()


def test_worker_that_dies_costs_at_most_its_unit_and_is_recorded(small_corpus: Path, tmp_path: Path) -> None:
    """The actor's process ends while it decodes one video, and after it wrote the tables of another."""
    names = ["one.mp4", "dies-decoding.mp4", "dies-after-writing.mp4"]
    for name in names:
        shutil.copy(small_corpus / "one.mp4", tmp_path / name)
    table = write_table(tmp_path / "table.jsonl", [instruction(name, 0, "the block") for name in names])
    site = tmp_path / "site"
    site.mkdir()
    (site / "sitecustomize.py").write_text(FAULTS)
    output = str(tmp_path / "run")
    line = ["label", table, "--output", output, "--model", "untrained-tiny", "--set", "resources.attempts=2"]
    result = vrshq_process(*line, environment={"PYTHONPATH": f"{site}{os.pathsep}{Path.cwd()}"})
    assert result.returncode == 0, result.stderr
    assert "its worker process died" in result.stderr
    tables = content(output)
    tracks = {row["video_id"]: row for row in tables["tracks"]}
    assert len(tables["tracks"]) == len(tracks) == 3
    assert tracks["one.mp4"]["status"] in ("ok", "empty")
    decoding = tracks["dies-decoding.mp4"]
    assert (decoding["status"], decoding["error_type"], decoding["attempts"]) == ("error", "WorkerDied", 2)
    assert tracks["dies-after-writing.mp4"]["status"] == tracks["one.mp4"]["status"]
    assert [row["video_id"] for row in tables["errors"]] == ["dies-decoding.mp4"]


def test_more_errors_than_allowed_is_exit_code_3_with_every_instruction_accounted_for(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.jsonl", [instruction("none.mp4", number, "it") for number in range(3)])
    (tmp_path / "settings.yaml").write_text("model: untrained-tiny\nkeyframe: {method: first}\n")
    run = tmp_path / "run"
    arguments = ["label", table, "--output", str(run), "--config", str(tmp_path / "settings.yaml")]
    result = vrshq(*arguments, "--max-error-rate", "0.1")
    assert result.returncode == 3, result.stderr
    assert result.stderr == ""
    assert "0 ok, 0 empty, 3 errors" in result.stdout
    assert [row["status"] for row in content(str(run))["tracks"]] == ["error"] * 3
    assert json.loads((run / "run.json").read_text())["identity"]["settings"]["keyframe"]["method"] == "first"


def test_a_run_that_fails_throughout_stops_early_and_says_why(small_corpus: Path, tmp_path: Path) -> None:
    """A wrong folder of videos: a handful of its two hundred units are enough evidence to stop.

    The command is a process of its own with a Ray of its own, which must write nothing on stderr.
    """
    good = [instruction("one.mp4", number, "it", video_id=f"v{number}") for number in range(2)]
    bad = [instruction(f"none-{number:03d}.mp4", 0, "it") for number in range(200)]
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
    # units in progress at the stop may still have been written
    assert 0 <= len(content(str(run))["tracks"]) - int(match.group(2)) <= 8

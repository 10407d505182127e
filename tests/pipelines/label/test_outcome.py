"""Summary, exit code and plan of a run speak of the whole run, whichever of its commands did the work."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.support import clips
from tests.support.label_runs import instruction, vrshq, write_table
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.tables.outcome import commonest

Command = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="module")
def half_failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, CompletedProcess[str]]:
    """A table of a good and a missing video, its run, and what its command printed."""
    folder = tmp_path_factory.mktemp("half")
    clips.h264(folder / "good.mp4", frames=6)
    table = write_table(folder / "t.jsonl", [instruction(f"{name}.mp4", 7, "it") for name in ("good", "none")])
    return table, f"{folder}/run", command("label", table, f"{folder}/run")


def command(name: str, table: str, run: str, *more: str) -> CompletedProcess[str]:
    ray = () if name == "plan" else ("--no-ray",)
    return vrshq(name, table, "--output", run, "--model", "untrained-tiny", *ray, *more)


def test_errors_are_printed_with_their_items_their_place_and_the_way_to_retry(
    half_failed: tuple[str, str, CompletedProcess[str]],
) -> None:
    _, run, first = half_failed
    assert first.returncode == 0
    lines = [line.rstrip() for line in first.stdout.splitlines()]
    assert "instructions    1 ok, 0 empty, 1 errors" in lines
    [told] = [line for line in lines if line.startswith("1 x InputError: ")]
    assert "none.mp4 cannot be opened (No such file or directory)" in told
    assert told.endswith("(none.mp4, 7)")
    place = f"each error is a row of {run}/errors; the same command with --retry-errors tries them again"
    assert lines[lines.index(told) + 1] == place


def test_a_rerun_speaks_of_the_runs_errors_and_of_its_own_work_beside_them(
    half_failed: tuple[str, str, CompletedProcess[str]],
) -> None:
    table, run, _ = half_failed
    again = command("label", table, run)
    assert again.returncode == 0
    assert "0 ok, 0 empty, 0 errors by this command" in again.stdout
    assert "1 answered, 1 errors, of 2 instructions" in again.stdout
    assert "1 x InputError: " in again.stdout


@pytest.mark.parametrize(("rate", "code"), [("0.4", 3), ("0.5", 0)])
def test_the_exit_code_of_a_rerun_tells_of_the_runs_errors(
    half_failed: tuple[str, str, CompletedProcess[str]], rate: str, code: int
) -> None:
    table, run, _ = half_failed
    again = command("label", table, run, "--max-error-rate", rate)
    assert again.returncode == code
    words = f"1 of 2 instructions of the run failed, more than --max-error-rate {rate} allows"
    assert (words in again.stdout) == (code == 3)


def test_plan_refuses_what_label_refuses_in_the_same_words(
    half_failed: tuple[str, str, CompletedProcess[str]], tmp_path: Path
) -> None:
    table, run, _ = half_failed
    other_table = write_table(tmp_path / "t.jsonl", [instruction("good.mp4", 7, "another")])
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "notes.txt").write_text("mine")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "run.json").write_text("{}")
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "run.json").write_text("{")
    for arguments, words in (
        ((table, run, "--set", "keyframe.method=first"), 'settings.keyframe.method: "tks" -> "first"'),
        ((table, run, "--model", "tiny"), 'model.name: "untrained-tiny" -> "tiny"'),
        ((other_table, run), "holds a run over other instructions"),
        ((table, f"{tmp_path}/notes"), "is not a run directory"),
        ((table, f"{tmp_path}/foreign"), "was not written by this program"),
        ((table, f"{tmp_path}/broken"), "is not JSON"),
    ):
        planned, labelled = (command(name, *arguments) for name in ("plan", "label"))
        assert (planned.returncode, planned.stdout) == (1, "")
        assert words in planned.stderr
        assert planned.stderr == labelled.stderr
    assert [path.name for path in (tmp_path / "notes").iterdir()] == ["notes.txt"]


def test_compact_says_why_parts_are_left(tmp_path: Path) -> None:
    clips.h264(tmp_path / "good.mp4", frames=6)
    rows = [instruction(f"{name}.mp4", 7, "it", video_id=f"{name}{n}") for n in range(2) for name in ("good", "none")]
    table, run = write_table(tmp_path / "t.jsonl", rows), f"{tmp_path}/run"
    command("label", table, run, "--set", "resources.compact=false")
    directory = RunDirectory(run)
    directory.forget([min(directory.errored_units())])
    waiting = vrshq("compact", run)
    assert "tracks: 0 parts into 0 files" in waiting.stdout
    assert (
        "1 of 4 units are unfinished: until the run is complete, only parts that fill a file of 256 MiB"
        in waiting.stdout
    )
    command("label", table, run, "--set", "resources.compact=false")
    merged = vrshq("compact", run)
    assert "tracks: 2 parts into 1 files" in merged.stdout
    assert "2 units with errors keep their parts" in merged.stdout
    assert "unfinished" not in merged.stdout


def test_messages_that_differ_in_paths_ids_and_numbers_are_one_kind() -> None:
    missing = [("InputError", f"/videos/{n} a.mp4 has {n} frames", f"{n} a.mp4", "0") for n in range(5)]
    other = [("OutOfMemory", "given up", "b", "1")]
    first, second = commonest([*other, *missing])
    assert first.line() == (
        "5 x InputError: /videos/0 a.mp4 has 0 frames (0 a.mp4, 0; 1 a.mp4, 0; 2 a.mp4, 0; and 2 more)"
    )
    assert second.line() == "1 x OutOfMemory: given up (b, 1)"


@pytest.mark.parametrize("name", ["report", "compact", "export"])
def test_a_folder_that_is_no_run_is_refused_as_such(name: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    more = ["--format", "coco-rle", "--output", str(tmp_path / "out")] if name == "export" else []
    refused = vrshq(name, str(tmp_path), *more)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert f"{tmp_path} is not a run directory" in refused.stderr
    assert "--output of vrshq label" in refused.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]

"""Exit codes and messages of the command line where no work starts, and `vrshq plan` and `vrshq models`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.label_runs import content, instruction, vrshq, vrshq_process, write_table


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (['{"video_uri": "a.mp4", "text": "x"}'], "instruction_id"),
        (['{"video_uri": "a.mp4", "instruction_id": "0", "text": "x"}'] * 2, "rows 1 and 2"),
        (["not json"], "table.jsonl"),
        ([], "table.jsonl"),
    ],
    ids=["column", "duplicate", "unreadable", "empty"],
)
def test_table_mistakes_end_in_one_line_before_anything_starts(lines: list[str], words: str, tmp_path: Path) -> None:
    (tmp_path / "table.jsonl").write_text("".join(line + "\n" for line in lines))
    result = vrshq("label", str(tmp_path / "table.jsonl"), "--output", str(tmp_path / "run"))
    assert result.returncode == 1
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1
    assert words in result.stderr
    assert not (tmp_path / "run").exists()


def test_process_ends_with_exit_code_1_and_one_line_after_a_table_mistake(tmp_path: Path) -> None:
    """The same entry point as a process of its own: nothing else reaches its streams, from imports for example."""
    table = write_table(tmp_path / "table.jsonl", [{"video_uri": "a.mp4", "text": "x"}])
    result = vrshq_process("label", table, "--output", str(tmp_path / "run"))
    assert (result.returncode, result.stdout) == (1, "")
    assert len(result.stderr.strip().splitlines()) == 1
    assert "instruction_id" in result.stderr
    assert not (tmp_path / "run").exists()


def test_mistakes_on_the_command_line_are_one_line_each(small_corpus: Path, tmp_path: Path) -> None:
    table = str(small_corpus / "instructions.jsonl")
    (tmp_path / "file").write_text("in the way")
    for command, arguments, words in [
        ("label", ["--output", str(tmp_path / "file" / "run")], "file"),
        ("plan", ["--output", str(tmp_path / "run"), "--model", "no-such"], "no-such"),
        ("plan", ["--output", str(tmp_path / "run"), "--set", "keyframe.method=best"], "keyframe.method"),
        ("plan", ["--output", str(tmp_path / "run"), "--set", "fusion.beta=1"], "fusion.beta"),
        ("plan", ["--output", str(tmp_path / "run"), "--config", str(tmp_path / "none.yaml")], "none.yaml"),
    ]:
        result = vrshq(command, table, *arguments)
        assert result.returncode == 1, (arguments, result.stdout, result.stderr)
        assert len(result.stderr.strip().splitlines()) == 1, result.stderr
        assert words in result.stderr


def test_wrong_usage_is_exit_code_1_too_because_2_means_an_incomplete_run(tmp_path: Path) -> None:
    for arguments, words in [
        (["labl"], "labl"),
        (["label", "x"], "--output"),
        (["submit", "--address", "x"], "no command"),
    ]:
        result = vrshq(*arguments)
        assert (result.returncode, len(result.stderr.strip().splitlines())) == (1, 1), result.stderr
        assert words in result.stderr
    (tmp_path / "notes.txt").write_text("mine")
    table = write_table(tmp_path / "table.jsonl", [instruction("a.mp4", 0, "it")])
    result = vrshq("label", table, "--output", str(tmp_path))
    assert (result.returncode, len(result.stderr.strip().splitlines())) == (1, 1), result.stderr
    assert "not a run directory" in result.stderr


def test_wrong_usage_of_the_process_is_exit_code_1_too() -> None:
    result = vrshq_process("labl")
    assert (result.returncode, len(result.stderr.strip().splitlines())) == (1, 1), result.stderr
    assert "labl" in result.stderr


def test_plan_says_what_is_done_and_writes_nothing(small_corpus: Path, loop_run: str, tmp_path: Path) -> None:
    table = str(small_corpus / "instructions.jsonl")
    unit = ["--set", "max_instructions_per_unit=2", "--model", "untrained-tiny"]
    done = vrshq("plan", table, "--output", loop_run, *unit)
    assert done.returncode == 0, done.stderr
    assert "7 instructions on 3 videos in 4 units" in done.stdout
    assert "4 units, 0 to do" in done.stdout
    new = vrshq("plan", table, "--output", str(tmp_path / "new"), *unit)
    assert "0 units, 4 to do" in new.stdout
    assert not (tmp_path / "new").exists()


def test_models_lists_the_built_in_bundles() -> None:
    result = vrshq("models")
    assert result.returncode == 0
    assert "untrained-tiny" in result.stdout


def test_more_errors_than_allowed_is_exit_code_3_with_every_instruction_accounted_for(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.jsonl", [instruction("none.mp4", number, "it") for number in range(3)])
    (tmp_path / "settings.yaml").write_text("model: untrained-tiny\nkeyframe: {method: first}\n")
    run = tmp_path / "run"
    arguments = ["label", table, "--output", str(run), "--config", str(tmp_path / "settings.yaml")]
    result = vrshq(*arguments, "--max-error-rate", "0.1", "--no-ray")
    assert result.returncode == 3, result.stderr
    assert result.stderr == ""
    assert "0 ok, 0 empty, 3 errors" in result.stdout
    assert [row["status"] for row in content(str(run))["tracks"]] == ["error"] * 3
    assert json.loads((run / "run.json").read_text())["identity"]["settings"]["keyframe"]["method"] == "first"

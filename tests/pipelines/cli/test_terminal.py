"""What a command prints and where: whole lines without a terminal, --quiet, --verbose, --log-file, and what a run waits for."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from rich.table import Table

from tests.support.label_runs import instruction, vrshq, write_table
from vrshq.cluster.ray.crew import Starting
from vrshq.pipelines.cli.run_display import RunDisplay
from vrshq.pipelines.cli.terminal import console
from vrshq.pipelines.label.loop import starting_line

LONG = " ".join(["word"] * 60)


def test_lines_and_tables_are_whole_without_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr(console, "_width", None)  # by COLUMNS at the start of the process
    grid = Table.grid(padding=(0, 2))
    grid.add_row("cost", LONG)
    grid.add_row("on", "here")
    console.print(grid)
    console.print(LONG, style="bold")
    assert capsys.readouterr().out == f"cost  {LONG}\non    here\n{LONG}\n"


def test_columns_of_the_environment_still_wrap(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    grid = Table.grid()
    grid.add_row(LONG)
    type(console)(markup=False).print(grid)
    assert max(map(len, capsys.readouterr().out.splitlines())) <= 40


@pytest.fixture
def table(tmp_path: Path) -> str:
    return write_table(tmp_path / "table.jsonl", [instruction("none.mp4", 0, "it")])


def test_quiet_prints_nothing_and_keeps_the_exit_code(table: str, tmp_path: Path) -> None:
    label = ["label", table, "--output", str(tmp_path / "run"), "--model", "untrained-tiny", "--no-ray"]
    done = vrshq(*label, "--quiet", "--max-error-rate", "0.5")
    assert (done.returncode, done.stdout, done.stderr) == (3, "", "")
    wrong = vrshq("label", "none.csv", "--output", str(tmp_path / "other"), "-q")
    assert (wrong.returncode, wrong.stdout, wrong.stderr.count("\n")) == (1, "", 1)
    assert vrshq("models").stdout != ""  # the next command prints again


def test_a_log_file_has_what_was_printed_the_units_and_the_error(table: str, tmp_path: Path) -> None:
    log = tmp_path / "label.log"
    label = [
        "label",
        table,
        "--output",
        str(tmp_path / "run"),
        "--model",
        "untrained-tiny",
        "--no-ray",
        "--log-file",
        str(log),
    ]
    done = vrshq(*label)
    lines = [line.split(" ", 3)[2:] for line in log.read_text().splitlines()]
    printed = [" ".join(rest) for level, *rest in lines if level == "INFO"]
    assert all(line in printed for line in done.stdout.splitlines())
    assert any(line.startswith("unit ") and "0 ok, 0 empty, 1 errors" in line for line in printed)
    refused = vrshq("plan", "none.csv", "--output", str(tmp_path / "run"), "--log-file", str(log))
    assert log.read_text().endswith(f" ERROR {refused.stderr.removeprefix('error: ')}")
    assert not logging.getLogger("vrshq").handlers
    wrong = vrshq("models", "--log-file", str(tmp_path))
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr == f"error: --log-file {tmp_path}: Is a directory; expected a local file\n"


def test_verbose_prints_the_log_on_stderr(table: str, tmp_path: Path) -> None:
    label = ["label", table, "--output", str(tmp_path / "run"), "--model", "untrained-tiny", "--no-ray"]
    done = vrshq(*label, "--verbose")
    assert "0 ok, 0 empty, 1 errors, 0 frames, attempt 1" in done.stderr
    assert "tables in" in done.stdout
    assert "tables in" not in done.stderr


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (Starting(2, 0, 0), "starting 2 actors: 0 ready"),
        (Starting(2, 2, 0), "starting 2 actors: 2 loading weights, 0 ready"),
        (Starting(1, 1, 0), "starting 1 actor: 1 loading weights, 0 ready"),
        (Starting(3, 1, 2), "starting 3 actors: 1 loading weights, 2 ready"),
        (Starting(3, 0, 3), ""),
    ],
)
def test_how_far_actors_have_started_is_said_in_words(now: Starting, line: str) -> None:
    assert starting_line(now) == line


def test_each_thing_that_a_run_waits_for_is_one_line_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    with RunDisplay() as display:
        for reason in (
            "starting Ray",
            "starting Ray",
            "starting 2 actors: 0 ready",
            "",
            "",
            "starting 2 actors: 0 ready",
        ):
            display.waits(reason)
    assert capsys.readouterr().out.splitlines() == ["starting Ray", *["starting 2 actors: 0 ready"] * 2]

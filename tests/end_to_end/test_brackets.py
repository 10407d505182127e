"""Promise: nothing that a user typed is markup in the terminal."""

from __future__ import annotations

import ast
import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support import clips
from tests.support.import_graph import files
from tests.support.label_runs import instruction, vrshq, write_table
from tests.support.paths import ROOT
from vrshq.pipelines.cli.run_display import RunDisplay, print_plan, print_summary
from vrshq.pipelines.cli.terminal import console, say
from vrshq.pipelines.label.planning.plan import make_plan
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings

# An element, an element that closes nothing (rich raises for it), a link, and the name of a picture.
TYPED = "a[bold]x[/bold] [/] [link=b]c[/link] :cat: [red"
SETTINGS = Settings(model="untrained-tiny")


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal that cuts no line."""
    monkeypatch.setattr(console, "width", 2000)


@pytest.fixture
def table(tmp_path: Path) -> str:
    """A table whose name, ids and texts look like markup; the second of its videos is none."""
    folder = tmp_path / f"{TYPED}"
    folder.mkdir(parents=True)
    clips.h264(folder / "v.mp4", frames=2)
    (folder / "bad.mp4").write_text(TYPED)
    rows = [instruction(name, TYPED, TYPED, video_id=f"{name}{TYPED}") for name in ("v.mp4", "bad.mp4")]
    return write_table(folder / "t[i].jsonl", rows)


def test_lines_and_cells_show_what_was_typed(capsys: pytest.CaptureFixture[str]) -> None:
    say(TYPED)
    console.print(TYPED)
    assert capsys.readouterr().out == f"{TYPED}\n{TYPED}\n"


def test_a_run_shows_what_was_typed(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    output = f"{table}.run{TYPED}"
    with RunDisplay() as display:
        summary = label(table, output, SETTINGS, use_ray=False, watcher=display)
    print_summary(replace(summary, stopped=TYPED), output)
    printed = capsys.readouterr()
    assert (summary.counts["errors"], summary.counts["units"]) == (1, 2)
    assert re.search(f"^run +{re.escape(output)}", printed.out, re.MULTILINE)
    assert f"tables in {output}\n" in printed.out
    assert f"stopped: {TYPED}." in printed.err


def test_a_plan_shows_what_was_typed(table: str, capsys: pytest.CaptureFixture[str]) -> None:
    plan = make_plan(table, f"{table}.run", SETTINGS)
    for grows in (False, True):
        print_plan(replace(plan, model_name=TYPED, missing=[TYPED], expected=None, grows=grows))
    printed = capsys.readouterr().out
    assert printed.count(f"model    {TYPED}, float32") == 2
    assert printed.count(f"missing  {TYPED}") == 2
    assert printed.count(f"not measured for {TYPED} in float32") == 2


def test_refusals_show_what_was_typed(table: str, tmp_path: Path) -> None:
    wrong = write_table(tmp_path / "wrong.jsonl", [instruction("v.mp4", TYPED, "x")] * 2)
    run = f"--output={tmp_path}/run"
    for arguments in (
        ["label", f"{tmp_path}/none{TYPED}.jsonl", run],
        ["label", wrong, run],
        ["label", table, run, "--model", f"no{TYPED}"],
        ["label", table, run, "--set", f"keyframe.method={TYPED}"],
        ["label", table, run, "--config", f"{tmp_path}/{TYPED}.yaml"],
        ["report", f"{tmp_path}/{TYPED}"],
        ["export", f"{tmp_path}/run", "--format", TYPED, "--output", f"{tmp_path}/o"],
        ["evaluate", TYPED, "--root", str(tmp_path), "--output", f"{tmp_path}/o", "--model", "tiny"],
        ["compare", f"{tmp_path}/{TYPED}", str(tmp_path)],
    ):
        result = vrshq(*arguments)
        assert result.returncode == 1
        assert TYPED in result.stderr, arguments
        assert len(result.stderr.splitlines()) == 1


def test_no_other_console_exists_and_none_asks_for_markup() -> None:
    for name, path in files(ROOT).items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call):
                called = ast.unparse(node.func)
                assert not called.endswith("from_markup"), name
                assert not called.endswith("Console") or name == "pipelines.cli.terminal", name
                assert not any(
                    keyword.arg == "markup" and ast.unparse(keyword.value) != "False" for keyword in node.keywords
                )

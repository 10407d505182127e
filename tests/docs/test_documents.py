"""README and the guides: their samples run, their commands parse, their links and test names exist."""

from __future__ import annotations

import ast
import functools
import itertools
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from tests.support.paths import ROOT
from vrshq.pipelines.cli.main import app
from vrshq.pipelines.label.settings import Settings, load_settings

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TEXTS = [*PAGES, *(ROOT / name for name in ("ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"))]
# They take --config FILE.yaml of their own kind, so their --set is not one of a labelling run.
OTHER_SETTINGS = ("train", "synth")


def blocks(path: Path, language: str) -> list[str]:
    """The fenced code blocks of one language; "" for those that name none."""
    found: list[tuple[str, list[str]]] = []
    inside = False
    for line in path.read_text("utf-8").splitlines():
        if line.startswith("```"):
            inside = not inside
            if inside:
                found.append((line[3:], []))
        elif inside:
            found[-1][1].append(line)
    return ["\n".join(lines) + "\n" for name, lines in found if name == language]


def commands(path: Path) -> list[list[str]]:
    """The words of every `vrshq` command line in blocks without a language."""
    lines = "\n".join(blocks(path, "")).splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("vrshq ")]


@pytest.fixture
def beside_a_clip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with what the samples name: a video and an instruction table."""
    shutil.copy(ROOT / "pipelines" / "demo" / "hide.mp4", tmp_path / "cups.mp4")
    row = {"video_uri": "cups.mp4", "instruction_id": "0", "text": "the red ball"}
    (tmp_path / "instructions.jsonl").write_text(json.dumps(row) + "\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


SAMPLES = [
    pytest.param(code, id=f"{path.name}-{number}")
    for path in PAGES
    if path.name != "adapters.md"  # `test_adapters.py` runs them, and skips where a library is absent
    for number, code in enumerate(blocks(path, "python"))
]


@pytest.mark.parametrize("code", SAMPLES)
@pytest.mark.usefixtures("beside_a_clip")
def test_a_python_sample_runs(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "sample", "exec"), {"__name__": "sample"})
    assert capsys.readouterr().out.strip()


def test_readme_and_quick_start_have_samples() -> None:
    assert len(SAMPLES) >= 3


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_every_command_line_parses(path: Path) -> None:
    group: Any = typer.main.get_command(app)
    for name, *arguments in commands(path):
        group.commands[name].make_context(name, list(arguments))  # a wrong option is a UsageError
        if name == "submit":
            inner, *rest = arguments[arguments.index("--") + 1 :]
            group.commands[inner].make_context(inner, rest)


def test_every_setting_in_a_command_line_and_in_yaml_is_taken() -> None:
    taken = 0
    for path in PAGES:
        for name, *arguments in commands(path):
            given = [after for word, after in itertools.pairwise(arguments) if word == "--set"]
            if name not in OTHER_SETTINGS and given:
                load_settings(None, given)
                taken += 1
        for text in blocks(path, "yaml"):
            Settings.model_validate(yaml.safe_load(text))
            taken += 1
    assert taken >= 3


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_json_samples_are_rows_of_an_instruction_table(path: Path) -> None:
    for text in blocks(path, "json"):
        assert all({"video_uri", "instruction_id", "text"} <= json.loads(line).keys() for line in text.splitlines())


def test_lifecycle_rules_are_json_that_aborts_unfinished_uploads() -> None:
    page = ROOT / "docs" / "at-scale.md"
    (s3,) = (json.loads(text) for text in blocks(page, 'json title="lifecycle.json for S3"'))
    assert [rule["AbortIncompleteMultipartUpload"] for rule in s3["Rules"]] == [{"DaysAfterInitiation": 1}]
    (gcs,) = (json.loads(text) for text in blocks(page, 'json title="lifecycle.json for Google Cloud Storage"'))
    assert [rule["action"]["type"] for rule in gcs["lifecycle"]["rule"]] == ["AbortIncompleteMultipartUpload"]


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: path.name)
def test_every_link_and_every_named_file_exists(path: Path) -> None:
    text = path.read_text("utf-8")
    links = [target.partition("#")[0] for target in re.findall(r"\]\(([^)]+)\)", text) if "://" not in target]
    made = ("reference/", "sheet.png")  # by the hook of the site
    missing = [link for link in links if link and not link.startswith(made) and not (path.parent / link).exists()]
    named = re.findall(r"`((?:operators|cluster|pipelines|tests|docs)/[\w./-]+)(?:::\w+)?`", text)
    missing += [name for name in named if "NAME" not in name and not (ROOT / name).exists()]
    assert missing == []


@functools.cache
def names_in(path: Path) -> frozenset[str]:
    """Names of a file's tests."""
    return frozenset(node.name for node in ast.parse(path.read_text("utf-8")).body if isinstance(node, ast.FunctionDef))


def test_every_promise_names_tests_that_exist() -> None:
    text = (ROOT / "ARCHITECTURE.md").read_text("utf-8")
    rows = [line for line in text.splitlines() if re.match(r"\| [1-8] \|", line)]
    assert len(rows) == 8
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            assert (ROOT / file).is_file(), file
            assert name in names_in(ROOT / file), f"{file}::{name}"


def test_readme_is_short_and_names_every_command() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    assert len(text.splitlines()) <= 125
    group: Any = typer.main.get_command(app)
    assert [name for name in group.commands if not re.search(rf"`(?:vrshq )?{name}`", text)] == []

"""Promise: every setting that a message of the program or a page names exists under that name."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from docs import reference
from tests.support.import_graph import files
from tests.support.paths import ROOT
from vrshq.pipelines.label.tables.schema import STAGES

# `section.name`, where a name is letters, a number of a list, or the place of a value in an f-string.
DOTTED = re.compile(r"(?<![\w./{}-])[a-z_]+(?:\.(?:[a-z_0-9]+|\{\}))+(?![\w(/])")
ASSIGNED = re.compile(r"--set ([\w.]+)=")
SUFFIXES = re.compile(r"\.(csv|html|json|jsonl|md|parquet|pkl|png|jpg|py|safetensors|txt|yaml|zip)$")


@functools.cache
def settings() -> frozenset[str]:
    """Every setting of every command, with N for a place of a list and NAME for a key."""
    pages = reference.settings_page() + reference.training_page()
    return frozenset(re.findall(r"^\| `([^`]+)` \|", pages, flags=re.MULTILINE))


@functools.cache
def sections() -> frozenset[str]:
    """What can stand before a dot in the name of a setting, and what users could take for it: the stages."""
    return frozenset(part for name in settings() for part in name.split(".")[:-1]).union(STAGES)


@functools.cache
def exists(given: str) -> bool:
    """Whether a setting or a section has that name, whole or from one of its sections on."""
    parts = [r"(\d+|N|NAME)" if part.isdigit() else r"\w+" if part == "{}" else part for part in given.split(".")]
    pattern = re.compile(r"(.*\.)?" + r"\.".join(parts) + r"(\..*)?")
    return any(pattern.fullmatch(name) for name in settings())


def messages(path: Path) -> Iterator[tuple[int, str]]:
    """The strings of a file but for its docstrings; `{}` stands for the values of f-strings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    skipped: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            skipped.update(id(value) for value in node.values)
            yield (
                node.lineno,
                "".join(str(value.value) if isinstance(value, ast.Constant) else "{}" for value in node.values),
            )
        elif isinstance(node, ast.Expr):
            skipped.add(id(node.value))
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in skipped:
            yield node.lineno, node.value


def named(text: str) -> list[str]:
    """The names in a text that are those of settings, or look like it."""
    dotted = [one for one in DOTTED.findall(text) if one.split(".")[0] in sections() and not SUFFIXES.search(one)]
    return dotted + ASSIGNED.findall(text)


def unknown(path: Path) -> list[str]:
    """The places of a file whose messages name a setting that does not exist."""
    return [f"{path.name}:{line}: {one}" for line, text in messages(path) for one in named(text) if not exists(one)]


def test_every_setting_that_a_message_names_exists() -> None:
    assert [place for path in files(ROOT).values() for place in unknown(path)] == []


def test_every_setting_that_a_page_names_exists() -> None:
    pages = [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]
    found = {one for page in pages for one in named(page.read_text(encoding="utf-8"))}
    assert "sampling.sampler" in found
    assert [one for one in sorted(found) if not exists(one) and one != "key"] == []


def test_a_planted_name_is_found_and_real_ones_are_not(tmp_path: Path) -> None:
    file = tmp_path / "planted.py"
    file.write_text('f"raise decode.max_bytes of {x}"\nx = "raise limits.max_byte; give --set keyframe.methods=a"\n')
    file.write_text(
        file.read_text().replace('f"', 'y = f"') + 'z = "limits.max_bytes, masks.{}, stages.0.steps, masks.png"\n'
    )
    assert unknown(file) == [
        "planted.py:1: decode.max_bytes",
        "planted.py:2: limits.max_byte",
        "planted.py:2: keyframe.methods",
        "planted.py:2: keyframe.methods",
    ]

"""The reference pages: complete, made from the code alone, and an error where the code explains nothing."""

from __future__ import annotations

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pyarrow as pa
import pytest
import typer
from pydantic import BaseModel, Field

from docs import reference
from docs.columns import TABLES
from vrshq.pipelines.cli.main import app
from vrshq.pipelines.config.describe import UndocumentedError, meaning
from vrshq.pipelines.label.settings import Settings


def names_of(model: type[BaseModel], path: str = "") -> list[str]:
    """The names that `--set` takes for a model without collections."""
    found = []
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            found += names_of(kind, f"{path}{name}.")
        else:
            found.append(f"{path}{name}")
    return found


def test_every_setting_is_on_its_page_with_its_default_and_its_meaning() -> None:
    rows = [line.split(" | ") for line in reference.settings_page().splitlines() if line.startswith("| `")]
    by_name = {row[0].strip("| `"): row for row in rows}
    assert set(names_of(Settings)) <= set(by_name)
    assert by_name["fusion.alpha"][1:3] == ["number, at least 0", "0.1"]
    assert by_name["keyframe.method"][1].startswith("`tks` or `clip` or")
    assert by_name["resources.pools.N.operators"][2] == "required"
    assert by_name["keyframe.method"][4] == "`clip` |"
    assert all(len(row) in (4, 5) and len(row[3]) > 5 for row in rows)


def test_every_training_setting_is_on_its_page() -> None:
    page = reference.training_page()
    for name in (
        "seed",
        "start.lora.rank",
        "stages.N.forward.segment.window",
        "stages.N.optimiser.rate",
        "stages.N.data.NAME.files.reader",
        "validate.every",
        "short_sides",
    ):
        assert f"| `{name}` |" in page, name


def test_every_command_and_option_is_on_its_page() -> None:
    page = reference.commands_page()
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    assert len(commands) > 10
    for name, command in commands.items():
        assert f"## `vrshq {name}`" in page
        assert all(option in page for item in command.params for option in item.opts if option.startswith("-"))


def test_every_column_has_a_meaning_and_every_meaning_a_column() -> None:
    page = reference.tables_page()
    for name, table in TABLES.items():
        assert f"## `{name}`" in page
        assert list(table.meanings) == table.schema.names


def test_a_column_without_a_meaning_and_a_meaning_without_a_column_are_errors() -> None:
    table = TABLES["tokens/"]
    with pytest.raises(UndocumentedError, match=r"meaning .* to extra"):
        reference.column_rows("tokens/", replace(table, schema=table.schema.append(pa.field("extra", pa.int32()))))
    with pytest.raises(UndocumentedError, match="explains gone"):
        reference.column_rows("tokens/", replace(table, meanings={**table.meanings, "gone": "Nothing."}))


def test_a_setting_without_a_description_is_an_error() -> None:
    class Silent(BaseModel):
        known: int = Field(default=1, description="Explained.")
        silent: int = 2

    with pytest.raises(UndocumentedError, match=r"Silent\.silent"):
        reference.setting_sections(Silent)


@dataclass(frozen=True)
class Explained:
    """A group.

    Attributes:
        first, second: of two lines,
            folded.
    """

    first: int
    second: int = 2
    third: int = 3
    """Explained below its line."""
    silent: int = 4


def test_a_dataclass_explains_its_fields_in_its_docstring_or_below_their_lines() -> None:
    assert meaning(Explained, "first") == meaning(Explained, "second") == "Of two lines, folded."
    assert meaning(Explained, "third") == "Explained below its line."
    with pytest.raises(UndocumentedError, match=r"Explained\.silent"):
        reference.setting_sections(Explained)


def test_an_option_without_help_is_an_error() -> None:
    def run(value: str) -> None:
        """Does something."""

    item = SimpleNamespace(param_type_name="argument", help=None, name="value")
    with pytest.raises(UndocumentedError, match="vrshq run: give value"):
        reference.command_section("run", SimpleNamespace(help="Does something.", params=[item], callback=run))


def test_texts_cannot_break_a_table() -> None:
    assert reference.markdown_table([["a", "b"], ["x|y", "z"]]).splitlines()[2] == "| x\\|y | z |"

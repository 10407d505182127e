"""Writes the reference pages of the site from the code: settings, training settings, tables and commands.

mkdocs loads this file as a hook (`hooks:` in mkdocs.yml). The pages exist in the built site alone; nothing that is generated
is committed. A missing explanation is an error: a setting without a description, a column without a meaning, an
option without help.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa

sys.path.insert(0, str(Path(__file__).parents[1]))  # mkdocs loads a hook by its path alone

from docs.columns import TABLES, Columns
from vrshq.pipelines.config.describe import UndocumentedError, describe, one_line, type_text, value_text

ROOT = Path(__file__).parents[1]


def on_files(files: Any, config: Any) -> Any:
    """The hook: adds the generated pages, and the picture of the demo, to the site's files."""
    from mkdocs.structure.files import File

    for name, text in pages().items():
        files.append(File.generated(config, name, content=text))
    files.append(File.generated(config, "sheet.png", abs_src_path=str(ROOT / "pipelines" / "demo" / "sheet.png")))
    return files


def pages() -> dict[str, str]:
    """The generated pages: Markdown by file name.

    Raises:
        UndocumentedError: a setting, column, command or option has no explanation.
    """
    writers: dict[str, Callable[[], str]] = {
        "reference/settings.md": settings_page,
        "reference/training.md": training_page,
        "reference/tables.md": tables_page,
        "reference/commands.md": commands_page,
    }
    return {name: write() for name, write in writers.items()}


def settings_page() -> str:
    """The settings of a labelling run."""
    from vrshq.pipelines.label.settings import Settings

    head = """# Settings

        Every setting of a labelling run: of `vrshq label`, `plan`, `evaluate` and `ablate`. Give them in a YAML file
        (`--config FILE.yaml`), one by one (`--set keyframe.method=first`), or both; `--set` wins. An unknown name or a value
        outside its bounds is refused in one line.

        Everything but `resources` and `model` is part of the run's identity: a run directory refuses a command in which it
        differs. The model is identified by the fingerprint of its weights.
        """
    return page(head, setting_sections(Settings))


def training_page() -> str:
    """The settings of a training run and of synthetic videos."""
    from vrshq.operators.synth.config import SynthConfig
    from vrshq.pipelines.train.presence_settings import PresenceSettings
    from vrshq.pipelines.train.settings import TrainSettings

    head = """# Training settings

        Every setting of `vrshq train`. Give them in a YAML file (`--config FILE.yaml`) and one by one
        (`--set stages.0.steps=100`; a number reaches into a list). `NAME` stands for a name of your choice, `N` for a position
        from 0. Ranges are (least, most), both included. A top-level key `shared` is ignored: it is a place for YAML anchors.

        The settings of the last section are also those of `vrshq synth --set`.
        """
    sections = [
        *setting_sections(TrainSettings),
        *setting_sections(PresenceSettings, "A presence head"),
        *setting_sections(SynthConfig, "Synthetic videos"),
    ]
    return page(head, sections)


def tables_page() -> str:
    """The columns of every table."""
    head = """# Tables

        The columns of every table that vrshq writes. All tables are Parquet. A part of a table with no rows, or with errors
        alone, has the same types as any other. Columns of the instruction table that vrshq does not know are carried into
        `tracks/` behind its own.
        """
    return page(head, [section(f"`{name}`", (table.about, column_rows(name, table))) for name, table in TABLES.items()])


def commands_page() -> str:
    """Every command with its arguments and options."""
    import typer

    from vrshq.pipelines.cli.main import app

    group = typer.main.get_command(app)
    head = """# Commands

        Every command with its arguments and options. Exit codes: 0 all accounted for; 1 a mistake in the command or its input;
        2 the run is incomplete; 3 more errors than `--max-error-rate`.
        """
    commands: dict[str, Any] = getattr(group, "commands", {})
    return page(head, [command_section(name, command) for name, command in commands.items()])


# Markdown


def page(head: str, sections: list[str]) -> str:
    """A page of a heading and sections."""
    return "\n\n".join([textwrap.dedent(head.replace("# ", " " * 8 + "# ", 1)).strip(), *sections]) + "\n"


def section(title: str, body: tuple[str, list[list[str]]]) -> str:
    """A section: title, prose and, unless it is empty, a table whose first row is its head."""
    prose, rows = body
    return "\n\n".join([f"## {title}", prose, *([markdown_table(rows)] if len(rows) > 1 else [])])


def markdown_table(rows: list[list[str]]) -> str:
    """A Markdown table; the first row is its head."""
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + " --- |" * len(rows[0]), *lines[1:]])


# settings


def setting_sections(kind: type[Any], top: str = "The run") -> list[str]:
    """A section for each group of settings of a pydantic model or a dataclass; `top` is the title of the outermost.

    Raises:
        UndocumentedError: a setting has no explanation.
    """
    made = []
    for group in describe(kind):
        head = ["setting", "type", "default", "meaning"]
        examples = any(setting.example for setting in group.settings)
        rows = [[*head, "example"] if examples else head]
        for setting in group.settings:
            row = [f"`{setting.path}`", setting.type, setting.default, setting.meaning]
            rows.append([*row, f"`{setting.example}`" if setting.example else ""] if examples else row)
        made.append(section(f"`{group.path}`" if group.path else top, (group.about, rows)))
    return made


# tables


def column_rows(name: str, table: Columns) -> list[list[str]]:
    """Rows of column, type, nullable and meaning.

    Raises:
        UndocumentedError: a column has no meaning in `docs/columns.py`, or one of them has no column.
    """
    columns = [field.name for field in table.schema]
    if missing := [column for column in columns if column not in table.meanings]:
        raise UndocumentedError(f"{name}: give a meaning in docs/columns.py to {', '.join(missing)}")
    if stale := [column for column in table.meanings if column not in columns]:
        raise UndocumentedError(f"{name}: docs/columns.py explains {', '.join(stale)}, which the table does not have")
    rows = [["column", "type", "nullable", "meaning"]]
    for field in table.schema:
        null = "yes" if field.nullable else "no"
        rows.append([f"`{field.name}`", arrow_type(field.type), null, one_line(table.meanings[field.name])])
    return rows


def arrow_type(kind: Any) -> str:
    """An Arrow type in the words of the tables' users."""
    if pa.types.is_fixed_size_list(kind):
        return f"list of {kind.list_size} {arrow_type(kind.value_type)}"
    if pa.types.is_list(kind):
        return f"list of {arrow_type(kind.value_type)}"
    if pa.types.is_struct(kind):
        types_of_parts = sorted({arrow_type(part.type) for part in kind})
        return f"struct of {' or '.join(types_of_parts)}: {', '.join(part.name for part in kind)}"
    return str(kind)


# commands


def command_section(name: str, command: Any) -> str:
    """A command's help, usage and parameters.

    Raises:
        UndocumentedError: the command or one of its parameters has no help.
    """
    if not command.help:
        raise UndocumentedError(f"vrshq {name}: give its function a docstring")
    rows = [["argument or option", "type", "default", "meaning"]]
    usage = ["vrshq", name]
    hints = get_type_hints(inspect.unwrap(command.callback))
    for item in command.params:
        argument = item.param_type_name == "argument"
        if not item.help:
            raise UndocumentedError(f"vrshq {name}: give {item.name} a help text")
        shown = (item.metavar or item.name or "").upper() if argument else " ".join([*item.opts, *item.secondary_opts])
        if argument or item.required:
            usage.append(shown if argument else f"{shown} {item.metavar}")
        default = "required" if item.required else _option_default(item.default)
        kind = type_text(hints[item.name]).removesuffix(" or none")
        rows.append([f"`{shown}`", kind + (", repeatable" if item.multiple else ""), default, one_line(item.help)])
    about = f"{one_line(command.help)}\n\n```\n{' '.join(usage)} [OPTIONS]\n```"
    return section(f"`vrshq {name}`", (about, rows))


def _option_default(value: Any) -> str:
    return "none" if value is None or repr(value).startswith("Sentinel") else value_text(value)

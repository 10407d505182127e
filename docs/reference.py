"""Writes the reference pages of the site from the code: settings, training settings, tables and commands.

mkdocs loads this file as a hook (`hooks:` in mkdocs.yml). The pages exist in the built site alone; nothing that is generated
is committed. A missing explanation is an error: a setting without a description, a column without a meaning, an
option without help.
"""

from __future__ import annotations

import ast
import functools
import inspect
import itertools
import re
import sys
import textwrap
import types
from collections.abc import Callable, Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import pyarrow as pa
from pydantic import BaseModel
from pydantic.fields import FieldInfo

sys.path.insert(0, str(Path(__file__).parents[1]))  # mkdocs loads a hook by its path alone

from docs.columns import TABLES, Columns

ROOT = Path(__file__).parents[1]


class UndocumentedError(Exception):
    """Something has no explanation in the code; the message names it and says where one belongs."""


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
    return page(head, model_sections(Settings, ""))


def training_page() -> str:
    """The settings of a training run and of synthetic videos."""
    from vrshq.operators.synth.config import SynthConfig
    from vrshq.pipelines.train.settings import TrainSettings

    head = """# Training settings

        Every setting of `vrshq train`. Give them in a YAML file (`--config FILE.yaml`) and one by one
        (`--set stages.0.steps=100`; a number reaches into a list). `NAME` stands for a name of your choice, `N` for a position
        from 0. Ranges are (least, most), both included. A top-level key `shared` is ignored: it is a place for YAML anchors.

        The settings of the last section are also those of `vrshq synth --set`.
        """
    sections = [*dataclass_sections(TrainSettings, ""), *dataclass_sections(SynthConfig, "", "Synthetic videos")]
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


def one_line(text: str | None) -> str:
    """Text with its line breaks and indentation folded."""
    return " ".join((text or "").split())


# settings: pydantic models


def model_sections(model: type[BaseModel], path: str) -> list[str]:
    """A section for the plain settings of a model, then those of the models inside it.

    Raises:
        UndocumentedError: a setting has no `description`.
    """
    rows = [["setting", "type", "default", "meaning"]]
    inner: list[str] = []
    for name, field in model.model_fields.items():
        parts = [item for item in leaves(field.annotation) if inspect.isclass(item) and issubclass(item, BaseModel)]
        repeated = "" if field.annotation in parts else "N."
        for part in parts:
            inner += model_sections(part, f"{path}{name}.{repeated}")
        if not parts or repeated:
            if not field.description:
                raise UndocumentedError(f"{model.__name__}.{name}: give its Field a description")
            rows.append([f"`{path}{name}`", model_type(field), default_text(field), one_line(field.description)])
    title = f"`{path.removesuffix('.')}`" if path else "The run"
    here = [section(title, (one_line(inspect.cleandoc(model.__doc__ or "")), rows))] if len(rows) > 1 else []
    return here + inner


def leaves(kind: Any) -> Iterator[Any]:
    """The types inside an annotation."""
    if get_origin(kind) is None:
        yield kind
    for item in get_args(kind) if get_origin(kind) is not Literal else ():
        yield from leaves(item)


def model_type(field: FieldInfo) -> str:
    """A field's type with its bounds."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [
        f"{words[name]} {getattr(item, name)}" for item in field.metadata for name in words if hasattr(item, name)
    ]
    return ", ".join([type_text(field.annotation), *bounds])


def default_text(field: FieldInfo) -> str:
    """A field's default as YAML would have it."""
    return "required" if field.is_required() else value_text(field.get_default(call_default_factory=True))


def type_text(kind: Any) -> str:
    """An annotation in words."""
    names = {int: "integer", float: "number", bool: "true or false", str: "text", type(None): "none", Any: "anything"}
    origin, inside = get_origin(kind), get_args(kind)
    if kind in names:
        return names[kind]
    if origin is Literal:
        return " or ".join(f"`{item}`" for item in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(type_text(item) for item in inside)
    if origin is tuple:
        parts = [type_text(item) for item in inside if item is not Ellipsis]
        return f"list of {parts[0]}" if Ellipsis in inside else f"[{', '.join(parts)}]"
    if origin is list:
        return type_text(inside[0])
    if origin is dict:
        return f"{type_text(inside[1])} by name"
    return "group"


def value_text(value: Any) -> str:
    """A default in YAML's words."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(value_text(item) for item in value) + "]"
    if isinstance(value, float):
        return f"{value:.4g}"
    if value in ("", {}):
        return "empty"
    return f"{value}" if isinstance(value, int) else f"`{value}`"


# training settings: dataclasses


def dataclass_sections(kind: type[Any], path: str, title: str | None = None) -> list[str]:
    """A section for the plain fields of a dataclass, then those of the dataclasses inside it.

    Raises:
        UndocumentedError: a field is not explained.
    """
    rows = [["setting", "type", "default", "meaning"]]
    inner: list[str] = []
    hints = get_type_hints(kind)
    for item in fields(kind):
        hint = hints[item.name]
        parts = [part for part in leaves(hint) if inspect.isclass(part) and is_dataclass(part) and part is not kind]
        for part in parts:
            if part.__name__ != "SynthConfig":  # it has a section of its own
                inner += dataclass_sections(part, f"{path}{item.name}.{_step(hint)}")
        if not parts or hint not in parts:
            rows.append([f"`{path}{item.name}`", type_text(hint), _dataclass_default(item), meaning(kind, item.name)])
        elif parts and parts[0].__name__ == "SynthConfig":
            rows.append(
                [f"`{path}{item.name}`", "group", "", "Settings of the synthetic videos, see the last section."]
            )
    name = title or (f"`{path.removesuffix('.')}`" if path else "The run")
    return [section(name, (one_line(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0]), rows)), *inner]


def _step(hint: Any) -> str:
    """The part of a setting's name between a collection's name and that of a member's field."""
    outer = get_origin(hint)
    return "N." if outer is tuple else "NAME." if outer is dict else ""


def _dataclass_default(item: Field[Any]) -> str:
    if item.default is not MISSING:
        return "see below" if is_dataclass(item.default) else value_text(item.default)
    if item.default_factory is not MISSING:
        made = item.default_factory()
        return "see below" if is_dataclass(made) else value_text(made)
    return "required"


def meaning(kind: type[Any], name: str) -> str:
    """The explanation of a dataclass's field, own or inherited: below its line, or under `Attributes:`.

    Raises:
        UndocumentedError: nothing.
    """
    for base in kind.__mro__:
        if is_dataclass(base):
            found = _field_docstrings(base).get(name) or _attributes(base).get(name)
            if found:
                return sentence(found)
    raise UndocumentedError(f"{kind.__name__}.{name}: explain it under `Attributes:` in the class's docstring")


def sentence(text: str) -> str:
    """Text that begins with a capital and ends with a full stop."""
    return text[:1].upper() + text[1:] + ("" if text.endswith(".") else ".")


@functools.cache
def _field_docstrings(kind: type[Any]) -> dict[str, str]:
    body = ast.parse(textwrap.dedent(inspect.getsource(kind))).body[0]
    assert isinstance(body, ast.ClassDef)
    found: dict[str, str] = {}
    for one, after in itertools.pairwise(body.body):
        if not (isinstance(one, ast.AnnAssign) and isinstance(one.target, ast.Name)):
            continue
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            found[one.target.id] = one_line(str(after.value.value))
    return found


@functools.cache
def _attributes(kind: type[Any]) -> dict[str, str]:
    """The entries of the docstring's `Attributes:` section; an entry may name several fields."""
    _, _, below = inspect.cleandoc(kind.__doc__ or "").partition("\nAttributes:\n")
    text = re.split(r"\n(?=\S)", below, maxsplit=1)[0]
    found: dict[str, str] = {}
    for entry in re.split(r"\n(?=    \S)", text):
        names, _, about = entry.partition(":")
        found |= {name.strip(): one_line(about) for name in names.split(",")}
    return found


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
            usage.append(shown if argument else f"{shown} {item.name.upper().strip('_')}")
        default = "required" if item.required else _option_default(item.default)
        kind = type_text(hints[item.name]).removesuffix(" or none")
        rows.append([f"`{shown}`", kind + (", repeatable" if item.multiple else ""), default, one_line(item.help)])
    about = f"{one_line(command.help)}\n\n```\n{' '.join(usage)} [OPTIONS]\n```"
    return section(f"`vrshq {name}`", (about, rows))


def _option_default(value: Any) -> str:
    return "none" if value is None or repr(value).startswith("Sentinel") else value_text(value)

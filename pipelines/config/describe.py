"""Describes settings: the name, type, default, meaning and an example of every setting of a pydantic model or a dataclass.

The command `vrshq settings`, the reference pages of the documentation, and the suggestions for misspelt names are made from
these descriptions. A setting without an explanation is an error, which the tests find.
"""

from __future__ import annotations

import ast
import difflib
import functools
import inspect
import itertools
import re
import textwrap
import types
from collections.abc import Iterator
from dataclasses import MISSING, Field, dataclass, fields, is_dataclass
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import BaseModel
from pydantic.fields import FieldInfo


class UndocumentedError(Exception):
    """Something has no explanation in the code; the message names it and says where one belongs."""


@dataclass(frozen=True)
class Setting:
    """One setting.

    Attributes:
        path: name as in `--set`; `N` stands for a position in a list, `NAME` for a name of the user's choice.
        type: values that it takes, in words.
        default: as YAML has it; "required" without one.
        meaning: one or more sentences.
        example: a value for `--set path=value`; "" where the type says enough, or where a list or name comes before it.
    """

    path: str
    type: str
    default: str
    meaning: str
    example: str = ""


@dataclass(frozen=True)
class Section:
    """The plain settings of one group.

    Attributes:
        path: path of the group; "" for the settings of the top level.
        about: the group's description.
        settings: its settings, without those of the groups inside it.
    """

    path: str
    about: str
    settings: tuple[Setting, ...]


def describe(kind: type[Any]) -> list[Section]:
    """The sections of a pydantic model or of a dataclass, outer ones first.

    Raises:
        UndocumentedError: a setting has no explanation.
    """
    return _model_sections(kind, "") if issubclass(kind, BaseModel) else _dataclass_sections(kind, "")


def suggestion(kind: type[Any], path: str) -> str:
    """The name of a setting of `kind` that resembles `path`, with the positions and names that `path` gives; "" for none.

    A name of the same group goes before the same name in another group.
    """
    known = [setting.path.split(".") for section in describe(kind) for setting in section.settings]
    given = path.split(".")
    for depth in range(len(given)):
        siblings = sorted({item[depth] for item in known if len(item) > depth and _leads(item[:depth], given)})
        if not siblings:
            return ""
        if given[depth] in siblings or _is_variable(siblings, given[depth]):
            continue
        if close := difflib.get_close_matches(given[depth], siblings, n=1):
            return ".".join([*given[:depth], close[0], *given[depth + 1 :]])
        break
    elsewhere = {item[-1]: item for item in reversed(known)}
    close = difflib.get_close_matches(given[-1], elsewhere, n=1, cutoff=0.75)
    return ".".join(elsewhere[close[0]]) if close else ""


def _leads(known: list[str], given: list[str]) -> bool:
    return all(name == part or _is_variable([name], part) for name, part in zip(known, given, strict=False))


def _is_variable(names: list[str], part: str) -> bool:
    return ("N" in names and part.isdecimal()) or "NAME" in names


# pydantic models


def _model_sections(model: type[BaseModel], path: str) -> list[Section]:
    settings: list[Setting] = []
    inner: list[Section] = []
    for name, field in model.model_fields.items():
        parts = [item for item in _leaves(field.annotation) if inspect.isclass(item) and issubclass(item, BaseModel)]
        repeated = "" if field.annotation in parts else "N."
        for part in parts:
            inner += _model_sections(part, f"{path}{name}.{repeated}")
        if not parts or repeated:
            if not field.description:
                raise UndocumentedError(f"{model.__name__}.{name}: give its Field a description")
            default = "required" if field.is_required() else value_text(field.get_default(call_default_factory=True))
            example = "" if "N." in path else _example(field)
            meaning = one_line(field.description)
            settings.append(Setting(f"{path}{name}", _model_type(field), default, meaning, example))
    about = one_line(inspect.cleandoc(model.__doc__ or ""))
    return ([Section(path.removesuffix("."), about, tuple(settings))] if settings else []) + inner


def _example(field: FieldInfo) -> str:
    """The field's own example, or a value other than the default that its type names, or the default."""
    if field.examples:
        return str(field.examples[0])
    default = field.get_default(call_default_factory=True)
    if isinstance(default, bool):
        return str(not default).lower()
    if get_origin(field.annotation) is Literal:
        return str(next(item for item in get_args(field.annotation) if item != default))
    return "" if default is None or field.is_required() else str(default)


def _model_type(field: FieldInfo) -> str:
    """A field's type with its bounds."""
    words = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
    bounds = [
        f"{words[name]} {getattr(item, name)}" for item in field.metadata for name in words if hasattr(item, name)
    ]
    return ", ".join([type_text(field.annotation), *bounds])


# dataclasses


def _dataclass_sections(kind: type[Any], path: str) -> list[Section]:
    settings: list[Setting] = []
    inner: list[Section] = []
    hints = get_type_hints(kind)
    for item in fields(kind):
        hint = hints[item.name]
        parts = [part for part in _leaves(hint) if inspect.isclass(part) and is_dataclass(part) and part is not kind]
        for part in parts:
            if part.__name__ != "SynthConfig":  # it has a section of its own
                inner += _dataclass_sections(part, f"{path}{item.name}.{_step(hint)}")
        if not parts or hint not in parts:
            settings.append(Setting(f"{path}{item.name}", type_text(hint), _default(item), meaning(kind, item.name)))
        elif parts[0].__name__ == "SynthConfig":
            about = "Settings of the synthetic videos: those of `vrshq synth`."
            settings.append(Setting(f"{path}{item.name}", "group", "", about))
    about = one_line(inspect.cleandoc(kind.__doc__ or "").split("\n\n")[0])
    return [Section(path.removesuffix("."), about, tuple(settings)), *inner]


def _step(hint: Any) -> str:
    """The part of a setting's name between a collection's name and that of a member's field."""
    outer = get_origin(hint)
    return "N." if outer is tuple else "NAME." if outer is dict else ""


def _default(item: Field[Any]) -> str:
    if item.default is not MISSING:
        return "see below" if is_dataclass(item.default) else value_text(item.default)
    if item.default_factory is not MISSING:
        made = item.default_factory()
        return "see below" if is_dataclass(made) else value_text(made)
    return "required"


def meaning(kind: type[Any], name: str) -> str:
    """The explanation of a dataclass's field, own or inherited: below its line, or under `Attributes:`.

    Raises:
        UndocumentedError: nothing explains it.
    """
    for base in kind.__mro__:
        if is_dataclass(base):
            found = _field_docstrings(base).get(name) or _attributes(base).get(name)
            if found:
                return found[:1].upper() + found[1:] + ("" if found.endswith(".") else ".")
    raise UndocumentedError(f"{kind.__name__}.{name}: explain it under `Attributes:` in the class's docstring")


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


# words


def _leaves(kind: Any) -> Iterator[Any]:
    """The types inside an annotation."""
    if get_origin(kind) is None:
        yield kind
    for item in get_args(kind) if get_origin(kind) is not Literal else ():
        yield from _leaves(item)


def type_text(kind: Any) -> str:
    """An annotation in words, with Markdown's marks around literal values."""
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
    """A default in YAML's words, with Markdown's marks around texts."""
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


def one_line(text: str | None) -> str:
    """Text with its line breaks and indentation folded."""
    return " ".join((text or "").split())

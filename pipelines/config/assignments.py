"""Settings from YAML files and `--set key=value` assignments, and their validation with one-line errors."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import parent_and_name
from vrshq.errors import UserError
from vrshq.pipelines.config.describe import suggestion

T = TypeVar("T")

# Longest excerpt of a wrong value in an error message, in characters.
_SHOWN = 80


class SettingsError(UserError, ValueError):
    """A setting cannot be used. The message names the setting, the value given, and the value expected."""


def read_yaml(uri: str) -> dict[str, Any]:
    """The settings in a YAML file, local or in a bucket; an empty file gives {}.

    Raises:
        SettingsError: the file is not YAML, or its top level is not a mapping.
        StorageError: the file cannot be read.
    """
    folder, name = parent_and_name(uri)
    try:
        values = yaml.safe_load(Folder(folder).read_bytes(name))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {uri}: not a YAML file ({' '.join(str(error).split())})") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"--config {uri}: expected a mapping of settings, got {type(values).__name__}")
    return values


def assign(values: dict[str, Any], assignments: Iterable[str], example: str) -> None:
    """Applies `key=value` assignments to nested settings, in place and in order.

    A key is a path of names joined by dots. A number indexes an existing item of a list: "stages.0.steps=5". Groups that
    do not exist yet are created. The value is YAML.

    Args:
        values: settings, as `read_yaml` returns them.
        assignments: the values of `--set`.
        example: a valid assignment, shown in the error for a malformed one.

    Raises:
        SettingsError: an assignment has no key or no "=", its path does not exist, or its value is not YAML.
    """
    for assignment in assignments:
        key, equals, text = assignment.partition("=")
        if not equals or not key:
            raise SettingsError(f"--set {assignment}: expected key=value, for example {example}")
        *parents, leaf = key.split(".")
        target: Any = values
        for parent in parents:
            index = _index(target, parent, assignment)
            target = target.setdefault(index, {}) if isinstance(target, dict) else target[index]
        index = _index(target, leaf, assignment)
        try:
            target[index] = yaml.safe_load(text)
        except yaml.YAMLError as error:
            raise SettingsError(
                f"--set {assignment}: the value is not YAML ({' '.join(str(error).split())})"
            ) from error


def validated(kind: type[T], values: Any, listing: str) -> T:
    """`values` as an instance of a pydantic model or of a dataclass.

    Args:
        kind: the model or dataclass.
        values: nested mappings and lists.
        listing: the command that lists the settings of `kind`.

    Raises:
        SettingsError: one line: an unknown name with a known one that resembles it, or the first of pydantic's errors.
    """
    unknown = _unknown_name(kind, values, "")
    if unknown is None:
        try:
            return TypeAdapter(kind).validate_python(values)
        except ValidationError as error:
            first = error.errors()[0]
            if first["type"] != "extra_forbidden":
                raise SettingsError(_line(first)) from error
            unknown = _path(first)
    near = suggestion(kind, unknown)
    raise SettingsError(
        f"setting {unknown}: no such setting; {f'did you mean {near}? ' if near else ''}{listing} lists all"
    )


def _index(target: Any, part: str, assignment: str) -> Any:
    """The key or list index that a part of a path stands for in `target`."""
    if isinstance(target, dict):
        return part
    if isinstance(target, list) and part.isdecimal() and int(part) < len(target):
        return int(part)
    raise SettingsError(
        f"--set {assignment}: there is no such place in the settings; {part!r} is neither a name in a group nor the "
        "index of an item that a list has"
    )


def _unknown_name(kind: Any, values: Any, path: str) -> str | None:
    """The path of the first name that dataclasses inside `kind` do not have; pydantic ignores it there."""
    if isinstance(values, list | tuple):
        inner = next((item for item in get_args(kind) if item is not Ellipsis), None)
        found = (_unknown_name(inner, value, f"{path}{index}.") for index, value in enumerate(values))
        return next(filter(None, found), None)
    if not isinstance(values, dict):
        return None
    options = (kind, *get_args(kind)) if get_origin(kind) not in (dict, tuple) else (kind,)
    if tables := [item for item in options if get_origin(item) is dict]:
        inner = get_args(tables[0])[1]
        found = (_unknown_name(inner, value, f"{path}{key}.") for key, value in values.items())
        return next(filter(None, found), None)
    classes = [item for item in options if is_dataclass(item)]
    if not classes:
        return None
    hints = get_type_hints(classes[0])
    known = {item.name for item in fields(classes[0])}
    for key, value in values.items():
        if key not in known:
            return f"{path}{key}"
        if unknown := _unknown_name(hints[key], value, f"{path}{key}."):
            return unknown
    return None


def _path(error: ErrorDetails) -> str:
    return ".".join(str(part) for part in error["loc"])


def _line(error: ErrorDetails) -> str:
    """One line: the setting's path, the reason, and the value given where it is short enough to help."""
    path, reason = _path(error), error["msg"].removeprefix("Value error, ")
    line = f"setting {path}: {reason}" if path else f"setting {reason}"
    # a mapping, or the arguments of a dataclass, would repeat a whole section
    if error["type"] != "missing" and isinstance(error["input"], str | int | float | list | tuple | None):
        line += f" (given: {repr(error['input'])[:_SHOWN]})"
    return " ".join(line.split())

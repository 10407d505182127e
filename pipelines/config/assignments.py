"""Settings from YAML files and `--set key=value` assignments, and their validation with one-line errors."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

import yaml
from pydantic import TypeAdapter, ValidationError

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import parent_and_name
from vrshq.errors import UserError

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


def validated(kind: type[T], values: Any) -> T:
    """`values` as an instance of a pydantic model or of a dataclass.

    Raises:
        SettingsError: the first of pydantic's errors, in one line.
    """
    try:
        return TypeAdapter(kind).validate_python(values)
    except ValidationError as error:
        raise SettingsError(_first_error(error)) from error


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


def _first_error(error: ValidationError) -> str:
    """One line for the first error: the setting's path, the reason, and the value given where it is short enough to help."""
    first = error.errors()[0]
    reason = "no such setting" if first["type"] == "extra_forbidden" else first["msg"].removeprefix("Value error, ")
    path = ".".join(str(part) for part in first["loc"])
    line = f"setting {path}: {reason}" if path else f"setting {reason}"
    # a mapping, or the arguments of a dataclass, would repeat a whole section
    has_value = first["type"] not in ("missing", "extra_forbidden")
    if has_value and isinstance(first["input"], str | int | float | list | tuple | None):
        line += f" (given: {repr(first['input'])[:_SHOWN]})"
    return " ".join(line.split())

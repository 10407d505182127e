"""Names the differences of two JSON values, for the refusal of a command whose settings are not those of its folder."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

# Longest excerpt of a value, in characters.
_SHOWN = 200


def differences(old: Any, new: Any, path: str = "") -> Iterator[str]:
    """One line for each path where the two differ, such as `model.name: "tiny" -> "large"`.

    Items of two lists of groups are compared by position. A group with a `name` is shown with it: `stages.0 (look).steps`.
    """
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(old.keys() | new.keys()):
            inner = f"{path}.{key}" if path else key
            if key not in old:
                yield f"{inner}: (not set) -> {_short(new[key])}"
            elif key not in new:
                yield f"{inner}: {_short(old[key])} -> (not set)"
            else:
                yield from differences(old[key], new[key], inner)
    elif _are_groups(old) and _are_groups(new):
        for place, (one, other) in enumerate(zip(old, new, strict=False)):
            name = f" ({one['name']})" if "name" in one else ""
            yield from differences(one, other, f"{path}.{place}{name}")
        if len(old) != len(new):
            yield f"{path}: {len(old)} of them -> {len(new)}"
    elif _text(old) != _text(new):
        yield f"{path}: {_short(old)} -> {_short(new)}"


def _are_groups(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, dict) for item in value)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True, ensure_ascii=False)


def _short(value: Any) -> str:
    text = _text(value)
    return text if len(text) <= _SHOWN else text[:_SHOWN] + "..."

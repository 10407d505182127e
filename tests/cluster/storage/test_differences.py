"""Promises of the lines that name the differences of two runs."""

from __future__ import annotations

from typing import Any

import pytest

from vrshq.cluster.storage.differences import differences


@pytest.mark.parametrize(
    ("old", "new", "lines"),
    [
        ({"a": 1, "b": {"c": "x"}}, {"b": {"c": "x"}, "a": 1}, []),
        ({"model": {"name": "tiny"}}, {"model": {"name": "large"}}, ['model.name: "tiny" -> "large"']),
        ({"a": 1}, {"b": None}, ["a: 1 -> (not set)", "b: (not set) -> null"]),
        ({"a": 1}, {"a": 1.0}, ["a: 1 -> 1.0"]),
        ({"frames": [1, 2]}, {"frames": [1, 3]}, ["frames: [1, 2] -> [1, 3]"]),
        (
            {"stages": [{"name": "look", "steps": 1}, {"name": "see", "steps": 2}]},
            {"stages": [{"name": "look", "steps": 1}, {"name": "see", "steps": 3}]},
            ["stages.1 (see).steps: 2 -> 3"],
        ),
        (
            {"pools": [{"gpus": 1}, {"gpus": 1}]},
            {"pools": [{"gpus": 2}]},
            ["pools.0.gpus: 1 -> 2", "pools: 2 of them -> 1"],
        ),
        ({"a": "x" * 300}, {"a": "y"}, ['a: "' + "x" * 199 + '... -> "y"']),
    ],
)
def test_each_difference_is_a_line_with_its_path(old: Any, new: Any, lines: list[str]) -> None:
    assert list(differences(old, new)) == lines

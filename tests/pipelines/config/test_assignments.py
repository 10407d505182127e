"""Promises of the settings' reader: nested keys, list indices, and one line for each mistake."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field

from vrshq.errors import UserError
from vrshq.pipelines.config.assignments import SettingsError, assign, read_yaml, validated


class Inner(BaseModel):
    model_config = ConfigDict(extra="forbid")
    alpha: float = Field(default=0.1, ge=0, description="A weight.")


class Outer(BaseModel):
    model_config = ConfigDict(extra="forbid")
    inner: Inner = Inner()
    name: str = Field(description="A name.")


@dataclass(frozen=True)
class Checked:
    """Checked.

    Attributes:
        frames: how many.
    """

    frames: int

    def __post_init__(self) -> None:
        if self.frames < 2:
            raise ValueError(f"frames = {self.frames}: expected 2 or more")


def test_assignments_reach_into_groups_and_lists_in_order() -> None:
    values: dict[str, Any] = {"stages": [{"steps": 1}, {"steps": 2}], "seed": 1}
    assign(values, ["seed=2", "stages.1.steps=5", "a.b.c=[x, 1]", "seed=3", "text=a=b"], "seed=1")
    assert values == {
        "stages": [{"steps": 1}, {"steps": 5}],
        "seed": 3,
        "a": {"b": {"c": ["x", 1]}},
        "text": "a=b",
    }


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        ("seed", "--set seed: expected key=value, for example seed=1"),
        ("=1", "--set =1: expected key=value"),
        ("stages.7.steps=1", "there is no such place in the settings; '7'"),
        ("stages.first=1", "there is no such place in the settings; 'first'"),
        ("seed.low=1", "there is no such place in the settings; 'low'"),
        ("seed=[", "--set seed=[: the value is not YAML ("),
    ],
)
def test_a_wrong_assignment_is_one_line(assignment: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        assign({"stages": [{}], "seed": 1}, [assignment], "seed=1")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_of_settings_is_a_mapping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "some.yaml"
    path.write_text("seed: 4\n")
    assert read_yaml(str(path)) == read_yaml(f"file://{path}") == {"seed": 4}
    monkeypatch.chdir(tmp_path)
    assert read_yaml("some.yaml") == {"seed": 4}
    path.write_text("")
    assert read_yaml(str(path)) == {}
    for content, said in (("- 1\n", "expected a mapping of settings, got list"), ("a: [", "not a YAML file (")):
        path.write_text(content)
        with pytest.raises(SettingsError, match=r"^--config ") as caught:
            read_yaml(str(path))
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)
    with pytest.raises(UserError):
        read_yaml(str(tmp_path / "absent.yaml"))


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (
            Outer,
            {"name": "a", "inner": {"alpha": -1}},
            "setting inner.alpha: Input should be greater than or equal to 0 (given: -1)",
        ),
        (Outer, {"name": "a", "inner": {"beta": 1}}, "setting inner.beta: no such setting; vrshq x lists all"),
        (
            Outer,
            {"name": "a", "inner": {"alhpa": 1}},
            "setting inner.alhpa: no such setting; did you mean inner.alpha? vrshq x lists all",
        ),
        (
            Outer,
            {"name": "a", "alpha": 1},
            "setting alpha: no such setting; did you mean inner.alpha? vrshq x lists all",
        ),
        (Checked, {"frame": 1}, "setting frame: no such setting; did you mean frames? vrshq x lists all"),
        (Outer, {}, "setting name: Field required"),
        (
            Outer,
            {"name": list(range(99))},
            f"setting name: Input should be a valid string (given: {str(list(range(99)))[:80]})",
        ),
        (Checked, {"frames": 1}, "setting frames = 1: expected 2 or more"),
    ],
)
def test_a_wrong_value_is_one_line_that_names_it(kind: type[Any], values: dict[str, Any], said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validated(kind, values, "vrshq x")
    assert str(caught.value) == said


def test_a_right_value_becomes_the_model_or_dataclass() -> None:
    assert validated(Outer, {"name": "a"}, "vrshq x") == Outer(name="a")
    assert validated(Checked, {"frames": 2}, "vrshq x") == Checked(2)

"""`compile`: part of the run's identity, off unless it is asked for, and refused in one line where it cannot work."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from tests.support.clips import h264
from tests.support.label_runs import content, decoded, instruction, vrshq, write_table
from vrshq.cluster.storage.run_directory import ConfigurationDiffers
from vrshq.operators.models.families import FAMILIES
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.label.planning.plan import make_plan
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings

PLAIN = Settings(model="untrained-tiny")
COMPILED = PLAIN.model_copy(update={"compile": True})


def table_of(folder: Path, frames: int, instructions: int = 1) -> str:
    h264(folder / "clip.mp4", frames=frames)
    rows = [instruction("clip.mp4", number, f"the block {number}") for number in range(instructions)]
    return write_table(folder / "t.jsonl", rows)


def test_a_run_belongs_to_its_code(tmp_path: Path) -> None:
    table, output = table_of(tmp_path, 2), str(tmp_path / "run")
    label(table, output, PLAIN, use_ray=False)
    assert json.loads((tmp_path / "run" / "run.json").read_text())["identity"]["settings"]["compile"] is False
    with pytest.raises(ConfigurationDiffers, match=r"settings\.compile: false -> true"):
        make_plan(table, output, COMPILED)


def test_the_tracker_and_the_choice_of_keyframes_share_the_setting() -> None:
    for settings, expected in ((PLAIN, False), (COMPILED, True)):
        configs = settings.operator_configs("untrained-tiny", "cpu")
        assert [configs[name].compiled for name in ("keyframe", "propagate")] == [expected] * 2


def test_a_family_without_parts_to_compile_refuses_the_setting() -> None:
    with pytest.raises(
        SettingsError, match="compile true: models of the family sam3 cannot be compiled; expected false"
    ):
        COMPILED.for_family(FAMILIES["sam3"])
    assert COMPILED.for_family(FAMILIES["sa2va"]).compile


def test_without_a_compiler_the_command_ends_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    which = shutil.which
    monkeypatch.setattr(shutil, "which", lambda name, *rest: None if name == "g++" else which(name, *rest))
    monkeypatch.delenv("CXX", raising=False)
    settings = ["--model", "untrained-tiny", "--set", "compile=true", "--set", "resources.device=cpu", "--no-ray"]
    done = vrshq("label", table_of(tmp_path, 2), "--output", str(tmp_path / "run"), *settings)
    assert done.returncode == 1
    assert "compile true: no compiler g++" in done.stderr + done.stdout
    assert "Traceback" not in done.stderr + done.stdout


@pytest.mark.long
def test_a_compiled_run_has_the_keyframes_and_the_masks_of_a_plain_one(tmp_path: Path) -> None:
    table = table_of(tmp_path, 24, instructions=3)
    for name, settings in (("plain", PLAIN), ("compiled", COMPILED)):
        label(table, str(tmp_path / name), settings, use_ray=False)
    plain, compiled = (content(str(tmp_path / name)) for name in ("plain", "compiled"))
    assert compiled["errors"] == []
    for column in ("keyframe_index", "sampled_frames", "status"):
        assert [row[column] for row in plain["tracks"]] == [row[column] for row in compiled["tracks"]]
    for one, other in zip(plain["masks"], compiled["masks"], strict=True):
        assert np.isclose(one["object_score"], other["object_score"], atol=1e-3)
        assert (decoded(one) != decoded(other)).mean() < 1e-3

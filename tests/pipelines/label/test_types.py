"""`dtype: auto`: the type that suits the device, kept by a run on whatever machines it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from tests.support.clips import h264
from tests.support.label_runs import instruction, write_table
from vrshq.cluster.ray.resources import Resources
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.planning import types
from vrshq.pipelines.label.planning.plan import make_plan
from vrshq.pipelines.label.planning.types import cluster_of, with_type
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings

MIB = 1 << 20
TINY = Settings(model="untrained-tiny")


def on(monkeypatch: pytest.MonkeyPatch, *, gpus: float, bfloat16: bool = True) -> None:
    """Makes this machine another one."""
    machine = Resources(cpus=8, gpus=gpus, memory_bytes=64 << 30, nodes=1, bfloat16=bfloat16)
    monkeypatch.setattr(types, "local_resources", lambda: machine)


@pytest.mark.parametrize(
    ("gpus", "bfloat16", "device", "expected"),
    [
        (0, True, "auto", "float32"),
        (1, True, "auto", "bfloat16"),
        (1, False, "auto", "float32"),
        (1, True, "cpu", "float32"),
        (0, True, "cuda", "bfloat16"),
    ],
)
def test_the_type_follows_the_device(
    gpus: int, bfloat16: bool, device: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on(monkeypatch, gpus=gpus, bfloat16=bfloat16)
    settings = Settings.model_validate({"resources": {"device": device}})
    run = RunDirectory(str(tmp_path / "run"))
    assert with_type(settings, run, None).dtype == expected
    given = Settings.model_validate({"dtype": "float16", "resources": {"device": device}})
    assert with_type(given, run, None).dtype == "float16"


def test_a_run_keeps_its_type_and_states_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    h264(tmp_path / "clip.mp4", frames=2)
    table = write_table(tmp_path / "t.jsonl", [instruction("clip.mp4", 0, "the block")])
    output = str(tmp_path / "run")
    label(table, output, TINY, use_ray=False)
    identity = json.loads((tmp_path / "run" / "run.json").read_text())["identity"]
    assert (identity["settings"]["dtype"], identity["settings"]["tf32"]) == ("float32", False)
    on(monkeypatch, gpus=4)
    # the run goes on as it began; a new one takes the type of these machines
    assert make_plan(table, output, TINY).settings.dtype == "float32"
    assert make_plan(table, str(tmp_path / "new"), TINY).settings.dtype == "bfloat16"


def test_the_cluster_is_asked_only_where_one_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_of(None, use_ray=True) == "10.0.0.1:6379"
    assert cluster_of("other:1", use_ray=True) == "other:1"
    assert cluster_of("other:1", use_ray=False) is None
    monkeypatch.delenv("RAY_ADDRESS")
    assert cluster_of(None, use_ray=True) is None


@pytest.mark.parametrize("tf32", [False, True])
def test_float32_is_float32_unless_tf32_is_asked_for(tf32: bool, tmp_path: Path) -> None:
    h264(tmp_path / "clip.mp4", frames=2)
    table = write_table(tmp_path / "t.jsonl", [instruction("clip.mp4", 0, "the block")])
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    try:
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not tf32
        label(table, str(tmp_path / "run"), TINY.model_copy(update={"tf32": tf32}), use_ray=False)
        assert torch.backends.cuda.matmul.allow_tf32 is torch.backends.cudnn.allow_tf32 is tf32
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before

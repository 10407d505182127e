"""Deadlines follow the cost of a unit on its device, and the size of its video until it is open."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from vrshq.cluster.ray import guard
from vrshq.cluster.ray.gpus import known_gpus
from vrshq.cluster.ray.resources import Resources as Machine
from vrshq.operators.models.families import VRS_HQ
from vrshq.pipelines.estimate.sizes import sizes_of_known
from vrshq.pipelines.estimate.terms import Terms
from vrshq.pipelines.label.planning.device import computed_cost
from vrshq.pipelines.label.resources import Resources
from vrshq.pipelines.label.settings import Limits, Settings
from vrshq.pipelines.label.work import worker
from vrshq.pipelines.label.work.videos import local_video

MIB = 1 << 20


def cost_on(gpu: str | None) -> Terms:
    """The cost of VRS-HQ-7B in bfloat16."""
    settings = Settings(dtype="bfloat16").for_family(VRS_HQ)
    machine = Machine(cpus=16, gpus=1, memory_bytes=64 << 30, nodes=1, gpu=gpu)
    return Terms.total(computed_cost(sizes_of_known("vrs-hq-7b"), settings, [machine]).values())


def test_without_known_costs_the_constants_stay() -> None:
    assert Resources().deadline(300, 16) == 600 + 5 * 300 * 4.75 == 7725


def test_with_known_costs_a_unit_may_take_ten_times_as_long_and_five_minutes() -> None:
    cost = Terms(unit=1, frame=0.01, instruction=0.1, frame_instruction=0.002)
    assert cost.seconds(300, 16) == pytest.approx(1 + 3 + 1.6 + 9.6)
    assert Resources().deadline(300, 16, cost) == pytest.approx(300 + 10 * 15.2)


def test_the_reference_unit_has_minutes_on_a_gpu_and_a_long_video_hours() -> None:
    """300 frames of 1080p with 16 instructions: 7,725 s before; 180,000 frames: 49 days."""
    assert Resources().deadline(300, 16, cost_on("H100-80GB")) == pytest.approx(455, abs=1)
    assert 60 * 60 < Resources().deadline(180_000, 16, cost_on("H100-80GB")) < 30 * 60 * 60
    # a GPU that nobody knows is taken for the slowest one that computes in the type
    assert cost_on(None) == cost_on("A10G-24GB")
    assert Resources().deadline(300, 16, cost_on(None)) < 45 * 60
    assert all(
        Resources().deadline(300, 16, cost_on(name)) < 7725 for name, gpu in known_gpus().items() if gpu.bfloat16
    )


@pytest.mark.parametrize(
    ("given", "opening", "whole"),
    [
        ({"deadline_seconds": 12}, 12, 12 + 10 * 30),
        ({"deadline_seconds_per_frame": 1}, 600 + 2 * 100, 600 + 10 * 0.75 + 10 * 0.25 * 2),
        ({"deadline_seconds": 12, "deadline_seconds_per_frame": 0}, 12, 12),
    ],
)
def test_the_settings_go_before_the_costs(given: dict[str, Any], opening: float, whole: float) -> None:
    resources = Resources(**given)
    assert resources.opening(100 * MIB) == opening
    assert resources.deadline(10, 2, Terms(unit=30)) == pytest.approx(whole)


def test_the_time_until_a_video_is_open_grows_with_its_size() -> None:
    assert Resources().opening() == 600
    # two hours of 1080p at 4 Mbit/s, which some readers decode whole: two hours
    assert Resources().opening(3600 * MIB) == 600 + 7200


def test_the_size_is_told_before_a_video_is_fetched(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(1234))
    (tmp_path / "folder").mkdir()
    for name, expected in (("a.mp4", [1234]), ("gone.mp4", []), ("folder", [])):
        told: list[int] = []
        with local_video(str(tmp_path / name), str(tmp_path), Limits(), tell=told.append):
            assert told == expected


def test_frames_between_the_labelled_ones_count_because_they_are_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    allowed: list[float] = []
    monkeypatch.setattr(guard, "allow", allowed.append)
    for every in (1, 100):
        settings = Settings.model_validate({"decode": {"every": every}})
        actor: Any = SimpleNamespace(settings=settings, resources=settings.resources, cost=Terms(frame=0.01))
        actor._time = partial(worker.UnitWorker._time, actor)
        worker.UnitWorker._allow_time(actor, {"num_frames": [1800], "texts": [["the cup"]]})
        worker.UnitWorker._allow_time(actor, {"num_frames": [180_000], "texts": [["the cup"]]})
    windows = 4 * 512  # a long unit is given time anew at the end of each window
    expected = [300 + 180, 300 + windows / 10, 300 + 18_000, 300 + 10 * windows]
    assert allowed == [pytest.approx(seconds) for seconds in expected]


def test_deadlines_are_no_part_of_a_runs_identity() -> None:
    changed = Settings.model_validate({"resources": {"deadline_seconds": 5, "deadline_seconds_per_frame": 1}})
    assert changed.identity() == Settings().identity()
    assert "resources" not in Settings().identity()

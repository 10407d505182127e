"""A GPU that is too small for the plan is refused in words, before any actor starts."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest

from vrshq.cluster.ray.errors import NotEnoughResources
from vrshq.cluster.ray.resources import Resources
from vrshq.pipelines.label import loop
from vrshq.pipelines.label.planning import plan as planning
from vrshq.pipelines.label.planning.placement import PLACED_STAGES
from vrshq.pipelines.label.planning.plan import make_plan, on_machines
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings

GIB = 1 << 30
TINY = Settings.model_validate({"model": "untrained-tiny", "dtype": "bfloat16", "resources": {"device": "cuda"}})


def machine(gpu_gib: float | None, gpus: int = 1) -> Resources:
    size = None if gpu_gib is None else int(gpu_gib * GIB)
    return Resources(cpus=8, gpus=gpus, memory_bytes=64 * GIB, nodes=1, gpu_bytes=size)


@pytest.fixture
def table(tmp_path: Path) -> str:
    row = {"video_uri": "clip.mp4", "instruction_id": "0", "text": "the cup"}
    (tmp_path / "t.jsonl").write_text(json.dumps(row) + "\n")
    return str(tmp_path / "t.jsonl")


@pytest.mark.parametrize("use_ray", [True, False])
def test_label_refuses_before_any_actor_starts(
    use_ray: bool, table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def started(*_: object, **__: object) -> None:
        raise AssertionError("an actor was started")

    monkeypatch.setattr(planning, "local_resources", lambda: machine(2))
    monkeypatch.setattr(loop, "cluster_machines", lambda: [machine(2)])
    monkeypatch.setattr(loop, "may_grow", lambda: False)
    monkeypatch.setattr(loop, "ray_session", lambda *_, **__: contextlib.nullcontext())
    monkeypatch.setattr(loop, "stream_receipts", started)
    monkeypatch.setattr(loop, "UnitWorker", started)
    with pytest.raises(NotEnoughResources) as caught:
        label(table, str(tmp_path / "run"), TINY, use_ray=use_ray)
    assert str(caught.value) == (
        "pool presample+tokens+fuse+keyframe+propagate: needs 3.5 GiB of GPU memory, the GPU has 2.0 GiB; "
        "lower resources.instruction_batch or resources.feature_cache_mib, or take a larger GPU"
    )


def test_an_actor_works_on_two_units_at_once_where_its_gpu_is_known_to_hold_both(table: str, tmp_path: Path) -> None:
    plan = make_plan(table, str(tmp_path / "run"), TINY)
    units = {
        size: [pool.units for pool in on_machines(plan, [machine(size), machine(80)]).pools] for size in (4, 24, None)
    }
    assert units == {4: [1], 24: [2], None: [1]}
    chosen = Settings.model_validate(
        TINY.model_dump() | {"resources": {"pools": [{"operators": PLACED_STAGES, "gpus": 1, "units": 3}]}}
    )
    own = make_plan(table, str(tmp_path / "own"), chosen)
    assert [pool.units for pool in on_machines(own, [machine(24)]).pools] == [3]


def test_what_fits_and_what_is_not_known_is_not_refused(table: str, tmp_path: Path) -> None:
    plan = make_plan(table, str(tmp_path / "run"), TINY)
    for there in ([machine(24)], [machine(None)], [machine(None), machine(24)], [machine(None, gpus=0)]):
        assert on_machines(plan, there).too_small == []
    # the smallest GPU of all machines decides
    assert len(on_machines(plan, [machine(24), machine(2)]).too_small) == 1


def test_a_share_of_a_gpu_has_a_share_of_its_memory(table: str, tmp_path: Path) -> None:
    stages = (["presample", "tokens", "fuse"], ["keyframe", "propagate"])
    pools = [{"operators": operators, "gpus": 0.5} for operators in stages]
    settings = Settings.model_validate({"model": "untrained-tiny", "dtype": "bfloat16", "resources": {"pools": pools}})
    plan = make_plan(table, str(tmp_path / "run"), settings)
    assert on_machines(plan, [machine(8)]).too_small == []
    (line,) = on_machines(plan, [machine(5)]).too_small
    assert line.startswith("pool keyframe+propagate: needs 3.5 GiB of GPU memory, the GPU has 2.5 GiB; ")


def test_on_a_cpu_no_gpu_memory_is_needed(table: str, tmp_path: Path) -> None:
    settings = Settings.model_validate({"model": "untrained-tiny", "resources": {"device": "cpu"}})
    assert on_machines(make_plan(table, str(tmp_path / "run"), settings), [machine(1)]).too_small == []

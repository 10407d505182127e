"""Promises of the placement and of the cost estimates: pools fit the machines, and cost the measured time."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrshq.cluster.ray.needs import lacking
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.resources import Resources, total
from vrshq.operators.models.bundle import bundled_names, open_bundle
from vrshq.pipelines.label.planning.costs import ASSUMED_FRAMES, Estimate, Measured, estimate
from vrshq.pipelines.label.planning.placement import (
    MAX_CPUS_PER_GPU,
    PLACED_STAGES,
    actor_memory,
    choose_pools,
    wall_seconds,
)
from vrshq.pipelines.label.resources import Pool
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import STAGES
from vrshq.pipelines.label.work.worker import UnitWorker

GIB = 1 << 30
SETTINGS = Settings()
THREE_POOLS = (("presample",), ("tokens", "fuse"), ("keyframe", "propagate"))


def machine(cpus: float, gpus: float = 0, gib: float = 64) -> Resources:
    return Resources(cpus=cpus, gpus=gpus, memory_bytes=int(gib * GIB), nodes=1)


def costing(presample: float, tokens: float, propagate: float) -> Estimate:
    seconds = dict.fromkeys(STAGES, 0.0) | {"presample": presample, "tokens": tokens, "propagate": propagate}
    return Estimate(seconds, frames=100, known=True, source="a test")


def engine_pools(pools: list[Pool]) -> list[ActorPool]:
    return [
        ActorPool(
            name="+".join(pool.operators), worker=UnitWorker, actors=pool.actors, num_cpus=pool.cpus, num_gpus=pool.gpus
        )
        for pool in pools
    ]


cpu_machines = st.builds(machine, st.integers(0, 16), st.just(0), st.integers(1, 128))
gpu_machines = st.builds(machine, st.integers(1, 32), st.integers(1, 8), st.integers(1, 512))


@given(machines=st.lists(cpu_machines, min_size=1, max_size=5), units=st.integers(1, 200))
def test_without_a_gpu_one_pool_has_an_actor_per_cpu_as_memory_and_units_allow(
    machines: list[Resources], units: int
) -> None:
    (pool,) = choose_pools(SETTINGS, machines, units)
    assert pool.operators == PLACED_STAGES
    assert 1 <= pool.actors <= units
    if pool.actors > 1:
        assert lacking(engine_pools([pool]), machines) == []
        assert pool.actors * actor_memory(SETTINGS, PLACED_STAGES, "cpu") <= total(machines).memory_bytes
    room = [min(int(one.cpus), one.memory_bytes // actor_memory(SETTINGS, PLACED_STAGES, "cpu")) for one in machines]
    assert pool.actors == max(1, min(sum(room), units))


@given(
    machines=st.lists(st.one_of(gpu_machines, cpu_machines), min_size=1, max_size=5).filter(
        lambda machines: any(one.gpus for one in machines)
    ),
    units=st.integers(1, 200),
)
def test_each_gpu_of_each_machine_has_one_actor_with_all_stages(machines: list[Resources], units: int) -> None:
    (pool,) = choose_pools(SETTINGS, machines, units)
    assert (pool.operators, pool.gpus) == (PLACED_STAGES, 1)
    assert pool.actors == min(units, int(total(machines).gpus))
    assert pool.cpus <= MAX_CPUS_PER_GPU
    assert lacking(engine_pools([pool]), machines) == []
    # a GPU in every machine has its actor: together they take no more CPUs than any machine has
    assert all(int(one.gpus) * pool.cpus <= one.cpus for one in machines if one.gpus)


@pytest.mark.parametrize(
    ("machines", "actors", "cpus"),
    [
        ([machine(16, gpus=2), machine(16, gpus=2), machine(4)], 4, 8),
        ([machine(64, gpus=8), machine(12, gpus=2)], 10, 6),
        ([machine(224, gpus=8)], 8, MAX_CPUS_PER_GPU),
        ([machine(7, gpus=2)], 2, 3),
        ([machine(3, gpus=8)], 8, 0.37),
    ],
)
def test_an_actor_has_the_cpus_of_the_poorest_machine(machines: list[Resources], actors: int, cpus: float) -> None:
    (pool,) = choose_pools(SETTINGS, machines, 1000)
    assert (pool.actors, pool.cpus, pool.gpus) == (actors, cpus, 1)


def test_the_whole_is_shared_by_the_actors() -> None:
    (pool,) = choose_pools(SETTINGS, [machine(32, gpus=8, gib=512)], 1000)
    assert wall_seconds([pool], costing(1, 6, 1), 100) == pytest.approx(100 * 8 / 8)


def test_an_actor_is_expected_to_fill_the_caches_that_lie_in_main_memory() -> None:
    small = Settings.model_validate({"resources": {"frame_cache_mib": 100, "feature_cache_mib": 300}})
    large = Settings.model_validate({"resources": {"frame_cache_mib": 200, "feature_cache_mib": 700}})
    stages = (("presample",), ("tokens", "fuse"), ("keyframe", "propagate"), ("fuse",))

    def more(device: str) -> list[int]:
        return [(actor_memory(large, pool, device) - actor_memory(small, pool, device)) >> 20 for pool in stages]

    assert more("cpu") == [100, 100, 500, 0]
    grown = actor_memory(small, PLACED_STAGES, "cpu", units=3) - actor_memory(small, PLACED_STAGES, "cpu")
    assert grown >> 20 == 2 * 400
    assert more("cuda") == [100, 100, 100, 0]  # image features lie on the GPU


def test_a_gpu_that_is_asked_for_and_not_there_is_missing() -> None:
    settings = Settings.model_validate({"resources": {"device": "cuda"}})
    pools = choose_pools(settings, [machine(4)], 10)
    assert lacking(engine_pools(pools), [machine(4)]) == ["needs 1 GPU, the cluster has 0"]


def test_the_table_has_every_stage_of_what_it_has_and_nothing_of_a_model_that_was_not_measured() -> None:
    found = estimate(Measured("untrained-tiny", "cpu", "float32"), instructions=4)
    assert found is not None
    assert set(found.seconds) == set(STAGES)
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert (found.frames, found.known) == (ASSUMED_FRAMES, False)
    assert found.source.startswith("python -m tests.benchmarks.bench_costs")
    more = estimate(Measured("untrained-tiny", "cpu", "float32"), instructions=8)
    assert more is not None
    assert more.seconds["propagate"] > found.seconds["propagate"]
    assert more.seconds["decode"] == found.seconds["decode"]
    assert open_bundle("untrained-tiny").name == "untrained-tiny"
    assert "untrained-tiny" in bundled_names()
    for model, device, dtype in (("vrs-hq", "cpu", "float32"), ("untrained-tiny", "cuda", "float32")):
        assert estimate(Measured(model, device, dtype), instructions=4) is None


def command(units: int, frames: int, seconds: float, **more: Any) -> dict[str, Any]:
    content = {"counts": {"units": units, "frames": frames}, "seconds_by_stage": dict.fromkeys(STAGES, seconds)}
    return content | {"device": "cpu", "pools": [list(PLACED_STAGES)]} | more


def test_what_the_run_has_measured_itself_goes_before_the_table() -> None:
    commands = [command(12, 600, 24.0), command(8, 200, 16.0), command(0, 0, 0.0)]
    found = estimate(Measured("never-measured", "cpu", "float32"), 1, commands)
    assert found is not None
    assert (found.frames, found.known, found.source) == (40, True, "measured on 20 units of this run")
    assert found.seconds == pytest.approx(dict.fromkeys(STAGES, 2.0))
    # a pool opens each video itself: what is noted in sum is divided among those that do
    three = [command(20, 800, 30.0, pools=[list(pool) for pool in THREE_POOLS])]
    found = estimate(Measured("never-measured", "cpu", "float32"), 1, three)
    assert found is not None
    assert found.seconds["decode"] == pytest.approx(0.5)
    assert found.of_pool(THREE_POOLS[0]) == pytest.approx(0.5 + 1.5)


def test_a_few_units_and_other_devices_do_not_count_as_measured() -> None:
    for commands in ([command(3, 30, 9.0)], [command(50, 500, 9.0, device="cuda")]):
        assert estimate(Measured("never-measured", "cpu", "float32"), 1, commands) is None
    # lengths are lengths on any device
    found = estimate(Measured("untrained-tiny", "cpu", "float32"), 1, [command(50, 500, 9.0, device="cuda")])
    assert found is not None
    assert (found.frames, found.known) == (10, True)


def test_commands_written_before_devices_were_noted_do_not_count() -> None:
    old = {"counts": {"units": 100, "frames": 900}, "seconds_by_stage": dict.fromkeys(STAGES, 1.0)}
    assert estimate(Measured("never-measured", "cpu", "float32"), 1, [old]) is None

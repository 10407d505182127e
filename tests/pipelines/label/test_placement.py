"""Promises of the placement and of the cost estimates: pools fit the machines, wait least, and cost the measured time."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrshq.cluster.ray.needs import lacking
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.resources import Resources, total
from vrshq.operators.models.bundle import bundled_names, open_bundle
from vrshq.pipelines.label.costs import ASSUMED_FRAMES, Estimate, estimate
from vrshq.pipelines.label.placement import (
    GPU_POOLS,
    PLACED_STAGES,
    actor_memory,
    balanced,
    choose_pools,
    wall_seconds,
)
from vrshq.pipelines.label.resources import Pool
from vrshq.pipelines.label.schema import STAGES
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.worker import UnitWorker

GIB = 1 << 30
SETTINGS = Settings()


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


def throughput(numbers: list[int], costs: list[float]) -> float:
    return min(number / cost for number, cost in zip(numbers, costs, strict=True))


positive = st.floats(0.001, 1000)
costs = st.tuples(positive, positive, positive)
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
        assert pool.actors * actor_memory(SETTINGS, PLACED_STAGES) <= total(machines).memory_bytes
    room = [min(int(one.cpus), one.memory_bytes // actor_memory(SETTINGS, PLACED_STAGES)) for one in machines]
    assert pool.actors == max(1, min(sum(room), units))


@given(
    machines=st.lists(st.one_of(gpu_machines, cpu_machines), min_size=1, max_size=5).filter(
        lambda machines: any(one.gpus for one in machines)
    ),
    cost=st.none() | costs,
    units=st.integers(1, 200),
)
def test_with_gpus_three_pools_of_shares_of_a_gpu_fit_the_machines(
    machines: list[Resources], cost: tuple[float, float, float] | None, units: int
) -> None:
    pools = choose_pools(SETTINGS, machines, units, costing(*cost) if cost else None)
    assert tuple(pool.operators for pool in pools) == GPU_POOLS
    assert all(1 <= pool.actors <= units for pool in pools)
    assert all(1 / pool.gpus == pytest.approx(round(1 / pool.gpus)) for pool in pools)
    if min(one.cpus / one.gpus for one in machines if one.gpus) >= 0.04:
        assert lacking(engine_pools(pools), machines) == []
    if cost:
        (share,) = {pool.gpus for pool in pools}
        assert share in (1, 1 / 2, 1 / 3, 1 / 4)
        # equal shares: any division of the actors among the GPUs fills each of them whole
        assert sum(pool.actors for pool in pools) <= round(1 / share) * total(machines).gpus


@given(cost=costs, slots=st.integers(3, 40))
def test_no_actor_would_be_of_more_use_in_another_pool(cost: tuple[float, float, float], slots: int) -> None:
    numbers = balanced(cost, slots, most=slots)
    assert sum(numbers) == slots
    best = throughput(numbers, list(cost))
    for giver, taker in itertools.permutations(range(3), 2):
        if numbers[giver] > 1:
            moved = list(numbers)
            moved[giver] -= 1
            moved[taker] += 1
            assert throughput(moved, list(cost)) <= best * (1 + 1e-9)
    # balanced within one actor: with one less, no pool beyond its first actor would be ahead of the slowest
    for number, one in zip(numbers, cost, strict=True):
        assert number == 1 or (number - 1) / one <= best * (1 + 1e-9)


@given(cost=costs, slots=st.integers(3, 12))
def test_the_division_is_the_best_of_all(cost: tuple[float, float, float], slots: int) -> None:
    every = [(a, b, slots - a - b) for a in range(1, slots - 1) for b in range(1, slots - a)]
    best = max(throughput(list(numbers), list(cost)) for numbers in every)
    assert throughput(balanced(cost, slots, most=slots), list(cost)) == pytest.approx(best)


def test_actors_follow_the_costs_and_no_more_weights_are_loaded_than_that_takes() -> None:
    machines = [machine(32, gpus=8, gib=512)]
    pools = choose_pools(SETTINGS, machines, 1000, costing(1, 6, 1))
    assert [(pool.actors, pool.gpus) for pool in pools] == [(1, 1), (6, 1), (1, 1)]
    # one GPU for all: a quarter each would leave the MLLM's half of the work with a third
    pools = choose_pools(SETTINGS, [machine(8, gpus=1)], 1000, costing(1, 2, 1))
    assert [(pool.actors, pool.gpus) for pool in pools] == [(1, 0.25), (2, 0.25), (1, 0.25)]
    assert wall_seconds(pools, costing(1, 2, 1), 100) == pytest.approx(400)


def test_an_actor_is_expected_to_fill_the_caches_that_its_operators_have() -> None:
    small = Settings.model_validate({"resources": {"frame_cache_mib": 100, "feature_cache_mib": 300}})
    large = Settings.model_validate({"resources": {"frame_cache_mib": 200, "feature_cache_mib": 700}})
    more = [(actor_memory(large, pool) - actor_memory(small, pool)) >> 20 for pool in (*GPU_POOLS, ("fuse",))]
    assert more == [100, 100, 500, 0]


def test_memory_bounds_the_actors_on_a_gpu() -> None:
    gib = actor_memory(SETTINGS, GPU_POOLS[2]) / GIB
    roomy, tight = machine(8, gpus=1, gib=4.5 * gib), machine(8, gpus=1, gib=3.5 * gib)
    assert [pool.gpus for pool in choose_pools(SETTINGS, [roomy], 1000, costing(1, 2, 1))] == [1 / 4] * 3
    assert [pool.gpus for pool in choose_pools(SETTINGS, [tight], 1000, costing(1, 2, 1))] == [1 / 3] * 3


def test_pools_without_measured_costs_are_alike_on_every_gpu() -> None:
    pools = choose_pools(SETTINGS, [machine(16, gpus=2), machine(16, gpus=2), machine(4)], 1000)
    assert [(pool.actors, pool.gpus, pool.cpus) for pool in pools] == [(4, 0.25, 2), (4, 0.5, 2), (4, 0.25, 2)]


def test_a_gpu_that_is_asked_for_and_not_there_is_missing() -> None:
    settings = Settings.model_validate({"resources": {"device": "cuda"}})
    pools = choose_pools(settings, [machine(4)], 10, costing(1, 1, 1))
    assert lacking(engine_pools(pools), [machine(4)]) == ["needs 1 GPU, the cluster has 0"]


def test_the_table_has_every_stage_of_what_it_has_and_nothing_of_a_model_that_was_not_measured() -> None:
    found = estimate("untrained-tiny", "cpu", "float32", instructions=4)
    assert found is not None
    assert set(found.seconds) == set(STAGES)
    assert all(seconds > 0 for seconds in found.seconds.values())
    assert (found.frames, found.known) == (ASSUMED_FRAMES, False)
    assert found.source.startswith("python -m tests.benchmarks.bench_costs")
    more = estimate("untrained-tiny", "cpu", "float32", instructions=8)
    assert more is not None
    assert more.seconds["propagate"] > found.seconds["propagate"]
    assert more.seconds["decode"] == found.seconds["decode"]
    assert open_bundle("untrained-tiny").name == "untrained-tiny"
    assert "untrained-tiny" in bundled_names()
    for model, device, dtype in (("vrs-hq", "cpu", "float32"), ("untrained-tiny", "cuda", "float32")):
        assert estimate(model, device, dtype, instructions=4) is None


def command(units: int, frames: int, seconds: float, **more: Any) -> dict[str, Any]:
    content = {"counts": {"units": units, "frames": frames}, "seconds_by_stage": dict.fromkeys(STAGES, seconds)}
    return content | {"device": "cpu", "pools": [list(PLACED_STAGES)]} | more


def test_what_the_run_has_measured_itself_goes_before_the_table() -> None:
    commands = [command(12, 600, 24.0), command(8, 200, 16.0), command(0, 0, 0.0)]
    found = estimate("never-measured", "cpu", "float32", 1, commands)
    assert found is not None
    assert (found.frames, found.known, found.source) == (40, True, "measured on 20 units of this run")
    assert found.seconds == pytest.approx(dict.fromkeys(STAGES, 2.0))
    # a pool opens each video itself: what is noted in sum is divided among those that do
    three = [command(20, 800, 30.0, pools=[list(pool) for pool in GPU_POOLS])]
    found = estimate("never-measured", "cpu", "float32", 1, three)
    assert found is not None
    assert found.seconds["decode"] == pytest.approx(0.5)
    assert found.of_pool(GPU_POOLS[0]) == pytest.approx(0.5 + 1.5)


def test_a_few_units_and_other_devices_do_not_count_as_measured() -> None:
    for commands in ([command(3, 30, 9.0)], [command(50, 500, 9.0, device="cuda")]):
        assert estimate("never-measured", "cpu", "float32", 1, commands) is None
    # lengths are lengths on any device
    found = estimate("untrained-tiny", "cpu", "float32", 1, [command(50, 500, 9.0, device="cuda")])
    assert found is not None
    assert (found.frames, found.known) == (10, True)


def test_commands_written_before_devices_were_noted_do_not_count() -> None:
    old = {"counts": {"units": 100, "frames": 900}, "seconds_by_stage": dict.fromkeys(STAGES, 1.0)}
    assert estimate("never-measured", "cpu", "float32", 1, [old]) is None

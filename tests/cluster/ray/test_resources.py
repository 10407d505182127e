"""Promises of `vrshq.cluster.ray.resources`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import vrshq.cluster.ray.resources
from vrshq.cluster.ray import needs
from vrshq.cluster.ray.errors import NotEnoughResources
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.resources import Resources, local_resources


def test_this_machine_has_something() -> None:
    found = local_resources()
    assert 0 < found.cpus <= (os.cpu_count() or 1)
    assert found.memory_bytes > 2**28
    assert found.nodes == 1


def test_container_limits_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpu.max").write_text("50000 100000\n")
    (tmp_path / "memory.max").write_text("1073741824\n")
    monkeypatch.setattr(vrshq.cluster.ray.resources, "_CGROUP", tmp_path)
    assert local_resources().cpus == 0.5
    assert local_resources().memory_bytes == 2**30
    (tmp_path / "cpu.max").write_text("max 100000\n")
    (tmp_path / "memory.max").write_text("max\n")
    assert local_resources().cpus >= 1
    assert local_resources().memory_bytes > 2**30


def test_cpu_affinity_counts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(vrshq.cluster.ray.resources, "_CGROUP", tmp_path)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert local_resources().cpus == 1


@pytest.mark.parametrize(("visible", "gpus"), [("", 0), ("0", 1), ("0,2,5", 3), ("-1", 0), ("1,-1,2", 1)])
def test_gpus_are_those_that_cuda_may_see(monkeypatch: pytest.MonkeyPatch, visible: str, gpus: int) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert local_resources().gpus == gpus


@pytest.mark.parametrize(("cpus", "actors"), [([2.0, 1.0], 3), ([2.0], 2), ([1.0], 1)])
def test_a_pool_starts_with_the_actors_that_fit_on_the_machines_that_are_left(
    cpus: list[float], actors: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    machines = [Resources(cpus=number, gpus=0, memory_bytes=2**30, nodes=1) for number in cpus]
    monkeypatch.setattr(needs, "cluster_machines", lambda: machines)
    monkeypatch.setattr(needs, "may_grow", lambda: False)
    pool = ActorPool(name="all", worker=object, arguments={}, actors=3)
    assert [one.actors for one in needs.startable([pool])] == [actors]


def test_a_pool_of_which_no_actor_fits_any_more_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needs, "cluster_machines", lambda: [Resources(cpus=1, gpus=0, memory_bytes=2**30, nodes=1)])
    monkeypatch.setattr(needs, "may_grow", lambda: False)
    with pytest.raises(NotEnoughResources, match="needs 2 CPUs, the cluster has 1"):
        needs.startable([ActorPool(name="all", worker=object, arguments={}, actors=3, num_cpus=2)])

"""Promises of `vrshq.cluster.ray.resources`."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import vrshq.cluster.ray.resources
from vrshq.cluster.ray.resources import local_resources


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

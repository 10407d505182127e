"""The table of GPUs, and the GPUs that a machine is found to have."""

from __future__ import annotations

import subprocess
from typing import Any

import pytest

from vrshq.cluster.ray import resources
from vrshq.cluster.ray.gpus import gpu_of_product, gpu_of_ray, known_gpus, local_gpu
from vrshq.cluster.ray.resources import _machine_of

MIB = 1 << 20


def test_every_gpu_has_the_memory_of_its_name_and_rates() -> None:
    assert len(known_gpus()) >= 11
    for name, gpu in known_gpus().items():
        stated = int(name.rpartition("-")[2].removesuffix("GB"))
        assert 0.9 * stated <= gpu.memory_mib / 1024 <= stated
        assert gpu.half_tflops > gpu.float32_tflops > 1
        assert 300 <= gpu.bandwidth <= 8000
    assert {name for name, gpu in known_gpus().items() if not gpu.bfloat16} == {"V100-32GB", "T4-16GB"}


@pytest.mark.parametrize(
    ("product", "mib", "name"),
    [
        ("NVIDIA H100 80GB HBM3", 81559, "H100-80GB"),
        ("NVIDIA A100-SXM4-80GB", 81920, "A100-80GB"),
        ("NVIDIA A100-PCIE-40GB", 40960, "A100-40GB"),
        ("NVIDIA L4", 23034, "L4-24GB"),
        ("NVIDIA L40S", 46068, "L40S-48GB"),
        ("NVIDIA GeForce RTX 4090", 24564, "RTX4090-24GB"),
        ("Tesla T4", 15360, "T4-16GB"),
        ("NVIDIA L400", 1, None),
    ],
)
def test_a_gpu_is_known_by_the_drivers_name(
    product: str, mib: int, name: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = gpu_of_product(product, mib * MIB)
    assert (found.name if found else None) == name
    said = subprocess.CompletedProcess((), 0, stdout=f"{product}, {mib}\n{product}, {mib + 9}\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: said)
    assert local_gpu() == (name, mib * MIB)


def test_without_the_driver_nothing_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object, **__: object) -> Any:
        raise FileNotFoundError("nvidia-smi")

    monkeypatch.setattr(subprocess, "run", gone)
    assert local_gpu() == (None, None)


def test_ray_names_the_gpus_of_other_machines_and_the_driver_those_of_this_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "local_gpu", lambda: ("A100-80GB", 81920 * MIB))

    def machine(kind: str, node: str) -> tuple[str | None, int | None]:
        has = {"CPU": 8.0, "GPU": 2.0, "memory": 1.0, f"accelerator_type:{kind}": 1.0}
        found = _machine_of({"NodeID": node, "Resources": has}, "here")
        return found.gpu, found.gpu_bytes

    assert machine("H100", "there") == ("H100-80GB", 81559 * MIB)
    assert machine("A100", "there") == ("A100-40GB", None)  # or of 80 GB
    assert machine("A100-80G", "there") == ("A100-80GB", 81920 * MIB)
    assert machine("TPU-V4", "there") == (None, None)
    assert machine("A100", "here") == ("A100-80GB", 81920 * MIB)
    assert gpu_of_ray({"CPU": 4.0}) == (None, None)

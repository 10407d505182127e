"""The GPUs that are known: memory and rates by name, and the GPUs of this machine. No CUDA context is opened."""

from __future__ import annotations

import functools
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import yaml

_TABLE = Path(__file__).with_name("gpus.yaml")
_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total", "--format=csv,noheader,nounits")
_QUERY_SECONDS = 10.0
MIB = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Gpu:
    """A kind of GPU; a row of `gpus.yaml`.

    Attributes:
        name: for `vrshq plan --on`.
        product: beginning of the driver's name of it.
        memory_mib: its memory in MiB.
        half_tflops: dense rate in bfloat16, or in float16 where it has no bfloat16, in 1e12 operations/s.
        float32_tflops: rate in float32, in 1e12 operations/s.
        bandwidth: of its memory, in GB/s.
        bfloat16: whether it computes in that type.
        ray: Ray's accelerator type, if all GPUs of that type have this memory.
    """

    name: str
    product: str
    memory_mib: int
    half_tflops: float
    float32_tflops: float
    bandwidth: float
    bfloat16: bool = True
    ray: str | None = None

    @property
    def memory_bytes(self) -> int:
        """Its memory in bytes."""
        return self.memory_mib * MIB


@functools.cache
def known_gpus() -> dict[str, Gpu]:
    """All known GPUs by name, in the order of the table."""
    rows = yaml.safe_load(_TABLE.read_text(encoding="utf-8"))
    return {name: Gpu(name=name, **row) for name, row in rows.items()}


def gpu_of_ray(resources: dict[str, float]) -> tuple[str | None, int | None]:
    """The name and the memory in bytes of the GPU that the resources of one of Ray's machines name, as far as they are known.

    A type of Ray that has GPUs with different memory (A100) gives the name of the slowest of them, and no memory.
    """
    for gpu in known_gpus().values():
        if gpu.ray and f"accelerator_type:{gpu.ray}" in resources:
            return gpu.name, gpu.memory_bytes
    same = [gpu for gpu in known_gpus().values() if f"accelerator_type:{gpu.product}" in resources]
    slowest = min(same, key=lambda gpu: gpu.bandwidth, default=None)
    return slowest.name if slowest else None, None


def gpu_of_product(product: str, memory_bytes: int) -> Gpu | None:
    """The known GPU of the driver's name and memory; of two of one product the nearer one in memory."""
    same = [gpu for gpu in known_gpus().values() if re.match(rf"(NVIDIA |Tesla )*{gpu.product}\b", product)]
    return min(same, key=lambda gpu: abs(gpu.memory_bytes - memory_bytes), default=None)


def local_gpu() -> tuple[str | None, int | None]:
    """The name of this machine's GPU with the least memory, if it is known, and its memory in bytes; None: not found out."""
    try:
        said = subprocess.run(_QUERY, capture_output=True, text=True, timeout=_QUERY_SECONDS, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return None, None
    found = [(int(mib) * MIB, product) for product, mib in re.findall(r"^(.+), (\d+)\s*$", said, re.MULTILINE)]
    if not found:
        return None, None
    memory, product = min(found)
    gpu = gpu_of_product(product, memory)
    return gpu.name if gpu else None, memory

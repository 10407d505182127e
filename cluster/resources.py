"""What this machine, or the connected Ray cluster, has to work with. No torch: nothing here touches a GPU."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Resources:
    """CPUs (cores), GPUs and memory (bytes) over `nodes` machines."""

    cpus: float
    gpus: float
    memory_bytes: int
    nodes: int


def local_resources() -> Resources:
    """What this process may use of its machine: affinity and container limits count, not what is built in."""
    return Resources(cpus=_cpus(), gpus=float(_gpus()), memory_bytes=_memory(), nodes=1)


def cluster_resources() -> Resources:
    """All that the living machines of the connected Ray cluster offer, used or not. Needs a connection."""
    nodes = _node_resources()
    return Resources(
        cpus=sum(node.cpus for node in nodes),
        gpus=sum(node.gpus for node in nodes),
        memory_bytes=sum(node.memory_bytes for node in nodes),
        nodes=len(nodes),
    )


def largest_node() -> Resources:
    """The most of each resource that any one machine of the cluster has: the bound on a single actor."""
    nodes = _node_resources() or [Resources(0, 0, 0, 0)]
    return Resources(
        cpus=max(node.cpus for node in nodes),
        gpus=max(node.gpus for node in nodes),
        memory_bytes=max(node.memory_bytes for node in nodes),
        nodes=1,
    )


def _node_resources() -> list[Resources]:
    import ray

    if not ray.is_initialized():
        raise RuntimeError("not connected to Ray; open a cluster.session.ray_session first")
    return [
        Resources(
            cpus=float(node["Resources"].get("CPU", 0)),
            gpus=float(node["Resources"].get("GPU", 0)),
            memory_bytes=int(node["Resources"].get("memory", 0)),
            nodes=1,
        )
        for node in ray.nodes()
        if node["Alive"]
    ]


def _cpus() -> float:
    cores = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    for quota, period in (_quota_v2(), _quota_v1()):
        if quota > 0 and period > 0:
            cores = min(cores, quota / period)
    return max(cores, 0.1)


def _quota_v2() -> tuple[int, int]:
    quota, _, period = _text(_CGROUP / "cpu.max").partition(" ")
    return _number(quota), _number(period)


def _quota_v1() -> tuple[int, int]:
    return _number(_text(_CGROUP / "cpu/cpu.cfs_quota_us")), _number(_text(_CGROUP / "cpu/cpu.cfs_period_us"))


def _memory() -> int:
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    limits = [_number(_text(_CGROUP / name)) for name in ("memory.max", "memory/memory.limit_in_bytes")]
    return min([total, *(limit for limit in limits if limit > 0)])


def _gpus() -> int:
    """GPUs that CUDA would show to this process."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        names: list[str] = []
        for name in visible.split(","):
            # CUDA reads the list up to the first name that is none.
            if name.strip() in ("", "-1", "NoDevFiles"):
                break
            names.append(name)
        return len(names)
    try:
        # Asks the driver's library without opening a device, so no GPU memory is taken.
        from ray._private.accelerators import NvidiaGPUAcceleratorManager

        return int(NvidiaGPUAcceleratorManager.get_current_node_num_accelerators())
    except (ImportError, AttributeError, OSError):
        devices = Path("/proc/driver/nvidia/gpus")
        return len(list(devices.iterdir())) if devices.is_dir() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _number(text: str) -> int:
    return int(text) if text.lstrip("-").isdigit() else 0

"""The resources of this machine and of the connected Ray cluster. No torch: nothing here touches a GPU."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrshq.cluster.ray.gpus import gpu_of_ray, local_gpu

_CGROUP = Path("/sys/fs/cgroup")
# Data-centre GPUs before Ampere, by Ray's names of accelerator types: compute capability below 8.
_WITHOUT_BFLOAT16 = ("V100", "T4", "P100", "P4", "K80")


@dataclass(frozen=True)
class Resources:
    """What `nodes` machines have.

    Attributes:
        cpus: cores.
        gpus: number of GPUs.
        memory_bytes: main memory.
        nodes: number of machines.
        bfloat16: whether all their GPUs compute in that type.
        gpu: name of their kind of GPU in `gpus.yaml`, if one machine and a known kind; the one with the least memory.
        gpu_bytes: memory of one GPU; None: unknown.
    """

    cpus: float
    gpus: float
    memory_bytes: int
    nodes: int
    bfloat16: bool = True
    gpu: str | None = None
    gpu_bytes: int | None = None


def local_resources() -> Resources:
    """The resources that this process may use on its machine, by CPU affinity and container limits."""
    models = [_text(path) for path in Path("/proc/driver/nvidia/gpus").glob("*/information")]
    old = any(re.search(rf"\b{name}\b", model) for model in models for name in _WITHOUT_BFLOAT16)
    gpus = float(_gpus())
    name, gpu_bytes = local_gpu() if gpus else (None, None)
    return Resources(
        cpus=_cpus(),
        gpus=gpus,
        memory_bytes=_memory(),
        nodes=1,
        bfloat16=not old,
        gpu=name,
        gpu_bytes=gpu_bytes,
    )


def cluster_resources() -> Resources:
    """The sum of the resources of all living machines of the connected Ray cluster, used or not. Needs a connection."""
    return total(cluster_machines())


def largest_node() -> Resources:
    """The most of each resource that any one machine of the cluster has: the bound on a single actor."""
    return largest(cluster_machines())


def total(machines: Iterable[Resources]) -> Resources:
    """The sum of the resources of the machines."""
    counted = list(machines)
    return Resources(
        cpus=sum(machine.cpus for machine in counted),
        gpus=sum(machine.gpus for machine in counted),
        memory_bytes=sum(machine.memory_bytes for machine in counted),
        nodes=sum(machine.nodes for machine in counted),
    )


def largest(machines: Iterable[Resources]) -> Resources:
    """The most of each resource that any single machine has; zeros if there is no machine."""
    counted = list(machines)
    return Resources(
        cpus=max((machine.cpus for machine in counted), default=0.0),
        gpus=max((machine.gpus for machine in counted), default=0.0),
        memory_bytes=max((machine.memory_bytes for machine in counted), default=0),
        nodes=1,
    )


def may_grow() -> bool:
    """Whether an autoscaler manages the connected cluster, so that it may add machines.

    An autoscaler names machines after its groups; the monitor of a cluster of fixed size names them after their ids. No call
    of Ray tells how many machines an autoscaler may add. This reads internal tables of Ray, which differ between its older
    and its newer autoscaler; where they cannot be read, the answer is False.
    """
    return any(kind and not kind.startswith("node_") for kind in _kinds_of_machines())


def cluster_machines() -> list[Resources]:
    """The resources of each living machine of the connected Ray cluster, used or not. Needs a connection."""
    import ray

    if not ray.is_initialized():
        raise RuntimeError("not connected to Ray; open a vrshq.cluster.ray.session.ray_session first")
    here = ray.get_runtime_context().get_node_id()
    return [_machine_of(node, here) for node in ray.nodes() if node["Alive"]]


def _machine_of(node: dict[str, Any], here: str) -> Resources:
    """One of Ray's machines. `here`: id of this one, whose driver is asked for its GPU; Ray names those of the others."""
    has = node["Resources"]
    name, gpu_bytes = gpu_of_ray(has)
    if has.get("GPU") and node["NodeID"] == here:
        own_name, own_bytes = local_gpu()
        name, gpu_bytes = own_name or name, own_bytes or gpu_bytes
    return Resources(
        cpus=float(has.get("CPU", 0)),
        gpus=float(has.get("GPU", 0)),
        memory_bytes=int(has.get("memory", 0)),
        nodes=1,
        bfloat16=not any(f"accelerator_type:{old}" in has for old in _WITHOUT_BFLOAT16),
        gpu=name,
        gpu_bytes=gpu_bytes,
    )


def _kinds_of_machines() -> set[str]:
    """The names that the autoscaler, or the monitor of a fixed cluster, gives to the kinds of machines."""
    import ray
    from ray.exceptions import RayError

    try:
        from ray.autoscaler.v2.sdk import get_cluster_status
        from ray.autoscaler.v2.utils import is_autoscaler_v2
        from ray.experimental import internal_kv

        if is_autoscaler_v2(fetch_from_server=True):
            status = get_cluster_status(ray.get_runtime_context().gcs_address)
            return {node.ray_node_type_name for node in (*status.active_nodes, *status.idle_nodes)}
        noted = internal_kv._internal_kv_get(b"__autoscaling_status")
        report = json.loads(noted).get("autoscaler_report", {}) if noted else {}
        return {*(report.get("node_type_mapping") or {}).values(), *(report.get("active_nodes") or {})}
    except (ImportError, AttributeError, ValueError, RuntimeError, RayError):
        return set()


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
            # CUDA ignores the list after the first invalid name.
            if name.strip() in ("", "-1", "NoDevFiles"):
                break
            names.append(name)
        return len(names)
    if not any(Path("/dev").glob("nvidia*")) and not Path("/dev/dxg").exists():
        return 0  # without a driver's device there is no need to load Ray, which takes half a second
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

"""The type of the networks where the settings leave it open: bfloat16 on GPUs that have it, float32 elsewhere."""

from __future__ import annotations

import os
from collections.abc import Sequence

from vrshq.cluster.ray.resources import Resources, cluster_machines, local_resources
from vrshq.cluster.ray.session import ray_session
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.planning.placement import network_device
from vrshq.pipelines.label.settings import Settings


def cluster_of(address: str | None, *, use_ray: bool) -> str | None:
    """The address of the cluster that a command works on; None for this machine."""
    return (address or os.environ.get("RAY_ADDRESS")) if use_ray else None


def with_type(settings: Settings, run: RunDirectory, cluster: str | None) -> Settings:
    """The settings with the type that `auto` means.

    A run that has begun keeps its type, on whatever machines it goes on. The machines of a cluster are asked by a connection.

    Args:
        settings: of the run.
        run: its directory.
        cluster: address of the Ray cluster; None: this machine.
    """
    if settings.dtype != "auto":
        return settings
    begun = run.read_json("run.json") if run.folder.exists("run.json") else None
    try:
        return settings.model_copy(update={"dtype": begun["identity"]["settings"]["dtype"]})  # type: ignore[index]
    except (KeyError, TypeError):
        pass  # no run yet, or one that `RunDirectory.check` refuses
    if cluster is None:
        machines: Sequence[Resources] = [local_resources()]
    else:
        with ray_session(cluster):
            machines = cluster_machines()
    gpus = [machine for machine in machines if machine.gpus]
    fast = network_device(settings, machines) == "cuda" and all(machine.bfloat16 for machine in gpus)
    return settings.model_copy(update={"dtype": "bfloat16" if fast else "float32"})

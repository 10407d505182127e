"""Which operators share an actor, and how many actors each pool has: from the settings, or from the machines."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from vrshq.cluster.ray.resources import Resources, total
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.label.planning.costs import Estimate
from vrshq.pipelines.label.resources import OperatorName, Pool
from vrshq.pipelines.label.settings import MIB, Settings
from vrshq.pipelines.label.work.worker import NEED_PIXELS

# The stages that pools name. Decoding is not placed: each actor that needs pixels decodes for itself.
PLACED_STAGES: tuple[OperatorName, ...] = ("presample", "tokens", "fuse", "keyframe", "propagate")
LIBRARIES_MIB = 1024  # memory of an actor beside its caches and weights
# Decoding threads beyond this number do not make a GPU's actor faster: at 1080p a GPU takes what 8 to 12 of them decode.
MAX_CPUS_PER_GPU = 12


def network_device(settings: Settings, machines: Sequence[Resources]) -> str:
    """The torch device of the networks: "cuda" or "cpu"."""
    if settings.resources.device != "auto":
        return settings.resources.device
    if settings.resources.pools is not None:
        return "cuda" if any(pool.gpus for pool in settings.resources.pools) else "cpu"
    return "cuda" if any(machine.gpus >= 1 for machine in machines) else "cpu"


def device_of(settings: Settings, pool: Pool) -> str:
    """The torch device of the networks of a pool's actors: "cuda" or "cpu"."""
    wanted = settings.resources.device
    return ("cuda" if pool.gpus > 0 else "cpu") if wanted == "auto" else wanted


def choose_pools(settings: Settings, machines: Sequence[Resources], units: int) -> list[Pool]:
    """The actor pools of a run, first to last: those of the settings, or one pool that suits the machines.

    One actor holds all operators, so that a video is decoded once and no pool waits for another.

    With GPUs, each whole GPU of each machine has one actor. It reserves as many CPUs as the poorest machine has for each of its
    GPUs, at most `MAX_CPUS_PER_GPU`, so that decoding threads have room.

    Without a GPU, there is one actor per CPU, as far as each machine's memory and `units` allow. One process per core is
    faster than several threads in one process, because the networks' steps are short.

    Args:
        settings: of the run.
        machines: the machines of the cluster.
        units: number of units to do.

    Raises:
        SettingsError: the settings' pools leave an operator out, name it twice, or have another order.
    """
    if settings.resources.pools is not None:
        named = [operator for pool in settings.resources.pools for operator in pool.operators]
        if tuple(named) != PLACED_STAGES:
            raise SettingsError(
                f"setting resources.pools: the pools name {', '.join(named) or 'nothing'}; "
                f"expected each of {', '.join(PLACED_STAGES)} once, in this order"
            )
        return list(settings.resources.pools)
    units = max(1, units)
    if network_device(settings, machines) == "cuda":
        holders = [machine for machine in machines if machine.gpus >= 1] or [_without_its_gpus(machines)]
        actors = min(units, sum(int(machine.gpus) for machine in holders))
        return [Pool(operators=PLACED_STAGES, actors=actors, cpus=_cpus_each(holders), gpus=1)]
    memory = actor_memory(settings, PLACED_STAGES, "cpu")
    room = sum(min(int(machine.cpus), machine.memory_bytes // memory) for machine in machines)
    actors = max(1, min(room, units))
    most = max((machine.cpus for machine in machines), default=0.0)
    return [Pool(operators=PLACED_STAGES, actors=actors, cpus=min(1.0, most) or 1.0)]


def actor_memory(settings: Settings, operators: Sequence[str], device: str, units: int = 1) -> int:
    """Expected main memory of an actor with full caches, without its weights, in bytes.

    SAM2's image features lie on the device of the networks. On a GPU they take none of the main memory. Each of `units` that it
    works on at once has caches of its own.
    """
    caches = settings.resources.frame_cache_mib if NEED_PIXELS & set(operators) else 0
    caches += (
        settings.resources.feature_cache_mib if {"keyframe", "propagate"} & set(operators) and device == "cpu" else 0
    )
    return (LIBRARIES_MIB + units * caches) * MIB


def speed(pool: Pool) -> float:
    """Speed of one actor relative to an actor alone on its device, 0 to 1: actors take turns on a GPU or CPU."""
    return min(1.0, pool.gpus or pool.cpus)


def wall_seconds(pools: Sequence[Pool], expected: Estimate, units: int) -> float:
    """Seconds that the slowest pool needs for the given number of units, once its actors have started."""
    return max(
        units * expected.of_pool(pool.operators) / (min(pool.actors, max(1, units)) * speed(pool)) for pool in pools
    )


def _cpus_each(machines: Sequence[Resources]) -> float:
    """CPUs of a GPU's actor: what the machine with the fewest CPUs per GPU has for each, whole ones if it has one."""
    least = min(machine.cpus / int(machine.gpus) for machine in machines)
    return min(float(MAX_CPUS_PER_GPU), floor(least)) if least >= 1 else max(0.01, floor(100 * least) / 100)


def _without_its_gpus(machines: Sequence[Resources]) -> Resources:
    """A stand-in for a missing GPU machine: the CPUs and memory of all machines, and one GPU."""
    there = total(machines)
    return Resources(cpus=there.cpus, gpus=1, memory_bytes=there.memory_bytes, nodes=1)

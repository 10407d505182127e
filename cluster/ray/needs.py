"""Whether the machines of a cluster can hold all actors of all pools, and the messages that name the shortage."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from vrshq.cluster.ray.errors import NotEnoughResources
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.resources import Resources, cluster_machines, largest, may_grow, total

_ROUNDING = 1e-6


def check_resources(pools: Sequence[ActorPool]) -> None:
    """Raises NotEnoughResources if the connected cluster cannot hold all actors of all pools at the same time."""
    lines = lacking(pools, cluster_machines())
    if lines:
        raise NotEnoughResources("; ".join(lines))


def lacking(pools: Sequence[ActorPool], machines: Sequence[Resources]) -> list[str]:
    """One line for each shortage that keeps the machines from holding all actors of all pools at the same time.

    Compares the sums, and checks for each pool alone whether its actors fit on single machines: an actor never spans
    machines, and one with less than a GPU never spans GPUs. Does not check whether different pools fit beside each other
    on each machine; Ray finds that out.
    """
    there, most = total(machines), largest(machines)
    lines = [f"needs {need}, the cluster has {have}" for need, have in _short(_sum_of(pools), there)]
    if lines:
        return lines
    for pool in pools:
        of_one = _short(needed_by_one(pool), most)
        lines += [f"pool {pool.name}: {need} on one machine, the largest has {have}" for need, have in of_one]
        places = _places(pool, machines)
        if not of_one and places < pool.actors:
            lines.append(
                f"pool {pool.name}: {_count(pool.actors, 'actor')} with {in_words(needed_by_one(pool), pool)} each "
                f"on one machine, the machines have room for {places}"
            )
    return lines


def startable(pools: Sequence[ActorPool]) -> list[ActorPool]:
    """The pools with no more actors than the cluster can hold now: it may have lost machines since they were planned.

    Returns the pools unchanged where an autoscaler may bring the missing machines. Raises NotEnoughResources if one actor
    of each pool does not fit.
    """
    machines = cluster_machines()
    if not lacking(pools, machines) or may_grow():
        return list(pools)
    shrunk = [replace(pool, actors=max(1, min(pool.actors, _places(pool, machines)))) for pool in pools]
    while any(pool.actors > 1 for pool in shrunk) and lacking(shrunk, machines):
        most = max(range(len(shrunk)), key=lambda position: shrunk[position].actors)
        shrunk[most] = replace(shrunk[most], actors=shrunk[most].actors - 1)
    check_resources(shrunk)
    return shrunk


def needed_by_one(pool: ActorPool) -> Resources:
    """What one actor of the pool reserves."""
    return Resources(cpus=pool.num_cpus, gpus=pool.num_gpus, memory_bytes=pool.memory or 0, nodes=1)


def _sum_of(pools: Sequence[ActorPool]) -> Resources:
    return total(needed_by_one(pool) for pool in pools for _ in range(pool.actors))


def _places(pool: ActorPool, machines: Sequence[Resources]) -> int:
    """How many actors of a pool the machines could hold if nothing else ran on them."""
    room = 0
    for machine in machines:
        places = [pool.actors]
        if pool.num_cpus:
            places.append(int(machine.cpus / pool.num_cpus + _ROUNDING))
        if pool.memory:
            places.append(machine.memory_bytes // pool.memory)
        if 0 < pool.num_gpus < 1:
            places.append(int(machine.gpus) * int(1 / pool.num_gpus + _ROUNDING))
        elif pool.num_gpus:
            places.append(int(machine.gpus / pool.num_gpus + _ROUNDING))
        room += min(places)
    return room


def _short(needed: Resources, there: Resources) -> list[tuple[str, str]]:
    """(needed, there) in words for each resource that does not suffice."""
    found = [
        (_count(need, kind), f"{have:g}")
        for kind, need, have in (("GPU", needed.gpus, there.gpus), ("CPU", needed.cpus, there.cpus))
        if need > have + _ROUNDING
    ]
    if needed.memory_bytes > there.memory_bytes:
        found.append((_gib(needed.memory_bytes) + " of memory", _gib(there.memory_bytes)))
    return found


def in_words(resources: Resources, pool: ActorPool) -> str:
    """The resources of the kinds that a pool asks for, for example: 0.5 GPU, 2 CPUs."""
    parts = [_count(resources.gpus, "GPU")] if pool.num_gpus else []
    parts.append(_count(resources.cpus, "CPU"))
    parts += [_gib(resources.memory_bytes) + " of memory"] if pool.memory else []
    return ", ".join(parts)


def _count(number: float, kind: str) -> str:
    return f"{number:.6g} {kind}" if 0 < number <= 1 else f"{number:.6g} {kind}s"


def _gib(number: int) -> str:
    return f"{number / 2**30:.1f} GiB"

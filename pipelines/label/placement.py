"""Which operators share an actor, and how many actors each pool has: from the settings, or from machines and costs."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from vrshq.cluster.ray.resources import Resources, total
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.label.costs import Estimate
from vrshq.pipelines.label.resources import OperatorName, Pool
from vrshq.pipelines.label.settings import MIB, Settings
from vrshq.pipelines.label.worker import NEED_PIXELS

# The stages that pools name. Decoding is not placed: each actor that needs pixels decodes for itself.
PLACED_STAGES: tuple[OperatorName, ...] = ("presample", "tokens", "fuse", "keyframe", "propagate")
GPU_POOLS: tuple[tuple[OperatorName, ...], ...] = (("presample",), ("tokens", "fuse"), ("keyframe", "propagate"))
LIBRARIES_MIB = 1024  # memory of an actor beside its caches and weights
MAX_ACTORS_PER_GPU = 4
# Fewer actors per GPU, hence fewer copies of the weights, are preferred down to this share of the best throughput.
_NEAR = 0.9
_SHARES = (0.25, 0.5, 0.25)  # shares of a GPU for the pools, where their costs are unknown


def network_device(settings: Settings, machines: Sequence[Resources]) -> str:
    """The torch device of the networks: "cuda" or "cpu"."""
    if settings.resources.device != "auto":
        return settings.resources.device
    if settings.resources.pools is not None:
        return "cuda" if any(pool.gpus for pool in settings.resources.pools) else "cpu"
    return "cuda" if any(machine.gpus >= 1 for machine in machines) else "cpu"


def choose_pools(
    settings: Settings, machines: Sequence[Resources], units: int, expected: Estimate | None = None
) -> list[Pool]:
    """The actor pools of a run, first to last: those of the settings, or pools that suit the machines.

    Without a GPU, one actor holds all operators, so that a video is decoded once. There is one actor per CPU, as far as
    each machine's memory and `units` allow. One process per core is faster than several threads in one process, because
    the networks' steps are short.

    With GPUs, there are three pools: pre-sampling, the MLLM, and TKS with propagation (which share SAM2's image features).
    If the costs are known, every actor has the same share 1/k of a GPU, and the numbers of actors are proportional to the
    costs, as nearly as whole actors allow, so that no pool waits for another. Equal shares 1/k fill the GPUs of any number
    of machines without a gap, in any order of placement. k is the smallest of 1 to 4 whose throughput is within a tenth
    of the best, because each actor loads its own weights. If the costs are unknown, each GPU gets an actor of each pool.

    Args:
        settings: of the run.
        machines: the machines of the cluster.
        units: number of units to do.
        expected: the cost of a unit, or None if it is unknown.

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
        holders = [machine for machine in machines if machine.gpus >= 1]
        if expected is None or not holders:
            return _even_gpu_pools(holders or [_without_its_gpus(machines)], units)
        memory = max(actor_memory(settings, operators) for operators in GPU_POOLS)
        return _balanced_gpu_pools(holders, units, [expected.of_pool(operators) for operators in GPU_POOLS], memory)
    memory = actor_memory(settings, PLACED_STAGES)
    room = sum(min(int(machine.cpus), machine.memory_bytes // memory) for machine in machines)
    actors = max(1, min(room, units))
    most = max((machine.cpus for machine in machines), default=0.0)
    return [Pool(operators=PLACED_STAGES, actors=actors, cpus=min(1.0, most) or 1.0)]


def actor_memory(settings: Settings, operators: Sequence[str]) -> int:
    """Expected main memory of an actor with full caches, without its weights, in bytes."""
    mib = LIBRARIES_MIB
    mib += settings.resources.frame_cache_mib if NEED_PIXELS & set(operators) else 0
    mib += settings.resources.feature_cache_mib if {"keyframe", "propagate"} & set(operators) else 0
    return mib * MIB


def speed(pool: Pool) -> float:
    """Speed of one actor relative to an actor alone on its device, 0 to 1: actors take turns on a GPU or CPU."""
    return min(1.0, pool.gpus or pool.cpus)


def wall_seconds(pools: Sequence[Pool], expected: Estimate, units: int) -> float:
    """Seconds that the slowest pool needs for the given number of units, once its actors have started."""
    return max(
        units * expected.of_pool(pool.operators) / (min(pool.actors, max(1, units)) * speed(pool)) for pool in pools
    )


def balanced(costs: Sequence[float], slots: int, most: int) -> list[int]:
    """Divides `slots` actors among pools: at least 1 and at most `most` each, the next one always to the slowest pool.

    The throughput, which is the lowest number / cost of all pools, is the highest possible for that many actors.
    """
    numbers = [1] * len(costs)
    while sum(numbers) < slots and min(numbers) < most:
        open_ones = [index for index, number in enumerate(numbers) if number < most]
        numbers[max(open_ones, key=lambda index: costs[index] / numbers[index])] += 1
    return numbers


def _balanced_gpu_pools(machines: Sequence[Resources], units: int, costs: Sequence[float], memory: int) -> list[Pool]:
    gpus = sum(int(machine.gpus) for machine in machines)
    shapes: dict[int, list[int]] = {}
    for k in range(-(-len(GPU_POOLS) // gpus), MAX_ACTORS_PER_GPU + 1):
        fits = all(k * int(machine.gpus) * memory <= machine.memory_bytes for machine in machines)
        if fits or not shapes:
            shapes[k] = balanced(costs, k * gpus, units)
    throughput = {
        k: min(number / max(cost, 1e-9) for number, cost in zip(numbers, costs, strict=True)) / k
        for k, numbers in shapes.items()
    }
    k = next(k for k in shapes if throughput[k] >= _NEAR * max(throughput.values()))
    cpus = _cpus_each(machines, k)
    return [
        Pool(operators=operators, actors=actors, cpus=cpus, gpus=1 / k)
        for operators, actors in zip(GPU_POOLS, shapes[k], strict=True)
    ]


def _even_gpu_pools(machines: Sequence[Resources], units: int) -> list[Pool]:
    actors = min(units, sum(int(machine.gpus) for machine in machines))
    cpus = _cpus_each(machines, len(GPU_POOLS) + 1)
    return [
        Pool(operators=operators, actors=actors, cpus=cpus, gpus=share)
        for operators, share in zip(GPU_POOLS, _SHARES, strict=True)
    ]


def _cpus_each(machines: Sequence[Resources], actors_per_gpu: int) -> float:
    """CPUs of an actor, at most 2, such that the machine with the fewest CPUs per GPU can hold its share of actors."""
    least = min(machine.cpus / (actors_per_gpu * int(machine.gpus)) for machine in machines)
    return max(0.01, min(2.0, floor(100 * least) / 100))


def _without_its_gpus(machines: Sequence[Resources]) -> Resources:
    """A stand-in for a missing GPU machine: the CPUs and memory of all machines, and one GPU."""
    there = total(machines)
    return Resources(cpus=there.cpus, gpus=1, memory_bytes=there.memory_bytes, nodes=1)

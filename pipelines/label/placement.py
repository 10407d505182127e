"""Which operators share an actor, and how many actors: from the settings, or worked out from machines and measured costs."""

from __future__ import annotations

from collections.abc import Sequence
from math import floor

from vrshq.cluster.ray.resources import Resources, total
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.label.costs import Estimate
from vrshq.pipelines.label.settings import MIB, OperatorName, Pool, Settings
from vrshq.pipelines.label.worker import NEED_PIXELS

STAGES: tuple[OperatorName, ...] = ("presample", "tokens", "fuse", "keyframe", "propagate")
GPU_POOLS: tuple[tuple[OperatorName, ...], ...] = (("presample",), ("tokens", "fuse"), ("keyframe", "propagate"))
LIBRARIES_MIB = 1024  # of an actor, and what else it holds beside its caches
MAX_ACTORS_PER_GPU = 4
# A pool shape whose throughput is so near to the best one's is as good, if it has fewer copies of the weights.
_NEAR = 0.9
_SHARES = (0.25, 0.5, 0.25)  # of a GPU, where nothing is known of what the pools cost


def wanted_device(settings: Settings, machines: Sequence[Resources]) -> str:
    """The torch device of the networks: "cuda" or "cpu"."""
    if settings.resources.device != "auto":
        return settings.resources.device
    if settings.resources.pools is not None:
        return "cuda" if any(pool.gpus for pool in settings.resources.pools) else "cpu"
    return "cuda" if any(machine.gpus >= 1 for machine in machines) else "cpu"


def place(
    settings: Settings, machines: Sequence[Resources], units: int, expected: Estimate | None = None
) -> list[Pool]:
    """The actor pools of a run, first to last.

    Without a GPU one actor holds all operators, so that a video is decoded once: an actor per CPU, as each machine's memory
    allows and `units` need; one process per core does more than several threads in one, because the networks' steps are
    short.

    With GPUs there are three pools: pre-sampling, the MLLM, and TKS with propagation (which share SAM2's image features).
    Where it is known what they cost, every actor has the same share 1/k of a GPU, and their numbers are proportional to
    the costs as nearly as whole actors can be, so that no pool waits for another; equal shares 1/k fill GPUs of any
    number of machines without a gap, whatever the order of placing. k is the smallest of 1 to 4 whose throughput is within
    a tenth of the best: each actor loads its weights, and k of them lie on one GPU. Where costs are not known, each GPU
    has an actor of each pool.

    Raises:
        SettingsError: pools of the settings that leave an operator out, name it twice, or have another order.
    """
    if settings.resources.pools is not None:
        named = [operator for pool in settings.resources.pools for operator in pool.operators]
        if tuple(named) != STAGES:
            raise SettingsError(
                f"setting resources.pools: the pools name {', '.join(named) or 'nothing'}; "
                f"expected each of {', '.join(STAGES)} once, in this order"
            )
        return list(settings.resources.pools)
    units = max(1, units)
    if wanted_device(settings, machines) == "cuda":
        holders = [machine for machine in machines if machine.gpus >= 1]
        if expected is None or not holders:
            return _even_gpu_pools(holders or [_without_its_gpus(machines)], units)
        memory = max(actor_memory(settings, operators) for operators in GPU_POOLS)
        return _balanced_gpu_pools(holders, units, [expected.of_pool(operators) for operators in GPU_POOLS], memory)
    memory = actor_memory(settings, STAGES)
    room = sum(min(int(machine.cpus), machine.memory_bytes // memory) for machine in machines)
    actors = max(1, min(room, units))
    most = max((machine.cpus for machine in machines), default=0.0)
    return [Pool(operators=STAGES, actors=actors, cpus=min(1.0, most) or 1.0)]


def actor_memory(settings: Settings, operators: Sequence[str]) -> int:
    """Bytes of main memory that an actor is expected to take with its caches full, its weights not counted."""
    mib = LIBRARIES_MIB
    mib += settings.resources.frame_cache_mib if NEED_PIXELS & set(operators) else 0
    mib += settings.resources.feature_cache_mib if {"keyframe", "propagate"} & set(operators) else 0
    return mib * MIB


def speed(pool: Pool) -> float:
    """What one actor of a pool does of what it would do alone on its device: GPUs and CPUs are shared by turns."""
    return min(1.0, pool.gpus or pool.cpus)


def wall_seconds(pools: Sequence[Pool], expected: Estimate, units: int) -> float:
    """Seconds that the slowest of the pools needs for so many units, once its actors have started."""
    return max(
        units * expected.of_pool(pool.operators) / (min(pool.actors, max(1, units)) * speed(pool)) for pool in pools
    )


def balanced(costs: Sequence[float], slots: int, most: int) -> list[int]:
    """How many of `slots` actors each pool gets, at least 1 and at most `most`: each goes where the wait is the longest.

    No other division of as many actors has a higher throughput, which is the lowest of number / cost.
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
    """CPUs of an actor, so that the machine with the fewest for its GPUs can hold its share of actors; up to 2."""
    least = min(machine.cpus / (actors_per_gpu * int(machine.gpus)) for machine in machines)
    return max(0.01, min(2.0, floor(100 * least) / 100))


def _without_its_gpus(machines: Sequence[Resources]) -> Resources:
    """What stands for the one machine with a GPU that is not there."""
    there = total(machines)
    return Resources(cpus=there.cpus, gpus=1, memory_bytes=there.memory_bytes, nodes=1)

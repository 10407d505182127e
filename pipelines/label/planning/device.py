"""What a run needs of its GPUs: memory of each pool's actor, and the cost of a unit where nobody measured it."""

from __future__ import annotations

from collections.abc import Sequence

from vrshq.cluster.ray.gpus import known_gpus
from vrshq.cluster.ray.resources import Resources
from vrshq.operators.video.sampling import WITHOUT_CLIP
from vrshq.pipelines.estimate.memory import Use, gpu_memory, shortage
from vrshq.pipelines.estimate.roofline import Device, slowest, stage_terms
from vrshq.pipelines.estimate.sizes import ModelSizes
from vrshq.pipelines.estimate.terms import Terms
from vrshq.pipelines.label.resources import Pool
from vrshq.pipelines.label.settings import MIB, Settings
from vrshq.pipelines.label.work.worker import parts_of

UNITS_AT_ONCE = 2  # of an actor with a GPU of its own


def pool_memory(sizes: ModelSizes, settings: Settings, pool: Pool) -> dict[str, int]:
    """GPU memory of an actor of the pool by part, in bytes. The settings are those for the model's bundle."""
    resources = settings.resources
    use = Use(
        dtype=settings.dtype,
        parts=parts_of(pool.operators, settings),
        frames=settings.sampling.max_image_token or 0,
        instruction_batch=resources.instruction_batch,
        encode_batch=resources.encode_batch,
        clip_batch=resources.clip_batch,
        feature_cache_bytes=resources.feature_cache_mib * MIB,
        units=pool.units,
        compiled=settings.compile,
    )
    return gpu_memory(sizes, use)


def too_small(sizes: ModelSizes, settings: Settings, pools: Sequence[Pool], machines: Sequence[Resources]) -> list[str]:
    """One line for each pool whose actor has too little memory on the smallest GPU of the machines, as far as it is known."""
    known = [machine.gpu_bytes for machine in machines if machine.gpus and machine.gpu_bytes]
    bfloat16 = all(machine.bfloat16 for machine in machines if machine.gpus)
    lines = []
    for pool in pools:
        needed = pool_memory(sizes, settings, pool)
        share = min(1.0, pool.gpus) or 1.0  # a share of a GPU bounds the memory that an actor takes
        if short := shortage(needed, int(share * min(known)) if known else None, settings.dtype, bfloat16=bfloat16):
            lines.append(f"pool {'+'.join(pool.operators)}: {short}")
    return lines


def with_units_at_once(
    sizes: ModelSizes, settings: Settings, pools: Sequence[Pool], machines: Sequence[Resources]
) -> list[Pool]:
    """The pools with two units at once in each actor: while the host decodes for one, the GPU works on the other.

    They stay as they are where a GPU's memory is not known, or does not hold both.
    """
    more = [pool.model_copy(update={"units": UNITS_AT_ONCE}) for pool in pools]
    holders = [machine for machine in machines if machine.gpus]
    known = bool(holders) and all(machine.gpu_bytes for machine in holders)
    return more if known and not too_small(sizes, settings, more, machines) else list(pools)


def computed_cost(sizes: ModelSizes, settings: Settings, machines: Sequence[Resources]) -> dict[str, Terms]:
    """The cost of a unit by stage on the slowest GPU of the machines; an unknown one is taken for the slowest of all."""
    gpus = [
        known_gpus()[machine.gpu] if machine.gpu else slowest(settings.dtype) for machine in machines if machine.gpus
    ]
    devices = [Device(gpu, settings.dtype, settings.tf32) for gpu in gpus or [slowest(settings.dtype)]]
    sampling = settings.sampling
    most = sampling.max_image_token or 1
    return stage_terms(
        sizes,
        min(devices, key=lambda device: device.rate),
        frames=max(1, most - 1) if sampling.sampler == "grid" else most,
        batch=settings.resources.instruction_batch,
        shared=sampling.sampler in WITHOUT_CLIP,
    )

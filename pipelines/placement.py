"""Which operators share an actor, and how many actors: from the settings, or worked out from the resources."""

from __future__ import annotations

from cluster.resources import Resources
from pipelines.settings import OperatorName, Pool, Settings, SettingsError

STAGES: tuple[OperatorName, ...] = ("presample", "tokens", "fuse", "keyframe", "propagate")
MEMORY_PER_ACTOR = 4 << 30  # caches, a video's frames and the libraries of one CPU actor, with the default budgets


def place(settings: Settings, available: Resources, units: int) -> list[Pool]:
    """The actor pools of a run, first to last.

    Without a GPU one actor holds all operators, so that a video is decoded once: an actor per CPU, as memory allows and
    `units` need; one process per core does more than several threads in one, because the networks' steps are short.
    With GPUs there are three pools, each with one actor per GPU: pre-sampling, the MLLM, and TKS with propagation (which
    share SAM2's image features). GPU fractions are 1/k, because other fractions do not pack across nodes.

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
    if settings.resources.device == "cuda" or (settings.resources.device == "auto" and available.gpus >= 1):
        gpus = max(1, int(available.gpus))
        cpus = max(0.25, min(2.0, available.cpus / (4 * gpus)))
        return [
            Pool(operators=("presample",), actors=gpus, cpus=cpus, gpus=0.25),
            Pool(operators=("tokens", "fuse"), actors=gpus, cpus=cpus, gpus=0.5),
            Pool(operators=("keyframe", "propagate"), actors=gpus, cpus=cpus, gpus=0.25),
        ]
    actors = max(1, min(int(available.cpus), available.memory_bytes // MEMORY_PER_ACTOR, units))
    cpus = min(1.0, available.cpus / actors)
    return [Pool(operators=STAGES, actors=actors, cpus=cpus)]

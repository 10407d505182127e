"""The samples of a stage on Ray: Ray Data makes them, one dataset per worker.

The global sequence of samples is fixed (`vrshq.pipelines.train.mixture`). Worker r of w takes samples r, r + w, ... of each
step's batch. Each worker has its own ordered dataset, so the result does not depend on which worker is faster. This module
does not import torch: the processes that make samples do without it.
"""

from __future__ import annotations

import functools
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from vrshq.operators.training.clip import Clip
from vrshq.pipelines.train.mixture import Mixture
from vrshq.pipelines.train.sets import open_mixture
from vrshq.pipelines.train.settings import Stage

SAMPLES_A_BLOCK = 8  # samples that one task of Ray Data makes


def sample_datasets(stage: Stage, seed: int, first: int, world: int) -> dict[str, Any]:
    """One ordered dataset for each worker, by the name that `sample_reader` knows.

    Args:
        stage: the stage and its data.
        seed: seed of the stage's samples.
        first: number of steps that are already done.
        world: number of workers.
    """
    with _in_order():
        return {_name(rank): _samples(stage, seed, first, rank, world) for rank in range(world)}


def sample_reader(rank: int) -> Callable[[Iterable[int]], Iterator[Clip]]:
    """Inside the worker of a rank: the function that reads its dataset."""

    def clips(numbers: Iterable[int]) -> Iterator[Clip]:
        """Exactly the samples of these numbers. A worker that resumed after the dataset's first sample skips earlier ones."""
        import ray.train

        shard = ray.train.get_dataset_shard(_name(rank))
        rows = iter(shard.iter_batches(batch_size=1, batch_format="numpy", prefetch_batches=SAMPLES_A_BLOCK))
        early: dict[int, Any] = {}
        for want in numbers:
            while want not in early:
                row = next(rows, None)
                if row is None:
                    raise RuntimeError(f"Ray Data gave no sample {want}")
                if (number := int(row["number"][0])) >= want:
                    early[number] = row["clip"][0]
            yield pickle.loads(early.pop(want).tobytes())

    return clips


def _name(rank: int) -> str:
    return f"rank_{rank}"


def _samples(stage: Stage, seed: int, first: int, rank: int, world: int) -> Any:
    """The samples of one rank from step `first` on: `number`, and `clip` as a pickle that only this module reads."""
    import ray

    start, end = first * stage.batch + rank, stage.steps * stage.batch
    count = max(1, -(-(end - start) // world))
    text = TypeAdapter(Stage).dump_json(stage).decode()

    def make(row: dict[str, Any]) -> dict[str, Any]:
        number = start + int(row["id"]) * world
        clip = _mixture(text, seed).sample(number)
        return {"number": number, "clip": np.frombuffer(pickle.dumps(clip), np.uint8)}

    blocks = -(-count // SAMPLES_A_BLOCK)
    return ray.data.range(count, override_num_blocks=blocks).map(make, num_cpus=0.5)


@functools.lru_cache(maxsize=4)
def _mixture(stage: str, seed: int) -> Mixture:
    """A stage's mixture; each process that makes samples opens it once."""
    return open_mixture(TypeAdapter(Stage).validate_json(stage), seed)


@contextmanager
def _in_order() -> Iterator[None]:
    """Datasets that are made inside the `with` keep their order, and show no progress bars."""
    from ray.data import DataContext

    context = DataContext.get_current()
    before = context.execution_options.preserve_order, context.enable_progress_bars
    context.execution_options.preserve_order, context.enable_progress_bars = True, False
    try:
        yield
    finally:
        context.execution_options.preserve_order, context.enable_progress_bars = before

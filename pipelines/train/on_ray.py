"""A stage of training on Ray: Ray Data makes the samples, one dataset per worker, and Ray Train runs the workers.

The global sequence of samples is fixed (`vrshq.pipelines.train.mixture`). Worker r of w takes samples r, r + w, ... of each
step's batch. Each worker has its own ordered dataset, so the result does not depend on which worker is faster.
"""

from __future__ import annotations

import functools
import os
import pickle
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import TypeAdapter

from vrshq.cluster.ray.resources import local_resources
from vrshq.cluster.ray.session import ray_session
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_remote
from vrshq.operators.training.clip import Clip
from vrshq.operators.training.forward import TrainingModel
from vrshq.operators.training.sharding import Sharded
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.train.checkpoints import latest_step
from vrshq.pipelines.train.identity import dump_settings, parse_settings
from vrshq.pipelines.train.mixture import Mixture
from vrshq.pipelines.train.sets import open_mixture
from vrshq.pipelines.train.settings import Stage, TrainSettings
from vrshq.pipelines.train.stage import Rank, run_stage

SAMPLES_A_BLOCK = 8  # samples that one task of Ray Data makes
# Workers import torch and read the start before they answer. Ray Train's default of one minute is too short on a busy machine.
_START_TIMEOUT = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "900")


def run_stage_on_ray(settings: TrainSettings, number: int, output: str, address: str | None) -> None:
    """Runs one stage with `settings.workers` workers from its last checkpoint; workers that die are restarted.

    Args:
        settings: of the run.
        number: the stage's index in `settings.stages`.
        output: folder of the run, local or in a bucket.
        address: Ray cluster; None: the default of `ray_session`.

    Raises:
        SettingsError: the workers failed more than `settings.attempts` times; names the reason.
    """
    stage, workers = settings.stages[number], settings.workers
    if stage.batch % workers:
        raise SettingsError(f"stage {stage.name}: a batch of {stage.batch} is not shared evenly by {workers} workers")
    os.environ.setdefault(*_START_TIMEOUT)
    feeders = max(1, int(local_resources().cpus) - workers)
    # on this machine Ray counts slots, not cores; feeders need slots that no worker holds
    with ray_session(address, num_cpus=workers + feeders):
        import ray
        from ray.data import ExecutionOptions
        from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        first = latest_step(Folder(output), stage.name)
        datasets = {}
        if settings.feeders:
            with _in_order():
                datasets = {
                    _name(rank): _samples(stage, settings.seed + number, first, rank, workers)
                    for rank in range(workers)
                }
        trainer = TorchTrainer(
            _work,
            train_loop_config={"settings": dump_settings(settings), "number": number, "output": output},
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=settings.device == "cuda", resources_per_worker=_resources(settings)
            ),
            run_config=RunConfig(
                name=stage.name,
                storage_path=output if is_remote(output) else str(Path(output).absolute() / "ray"),
                failure_config=FailureConfig(max_failures=settings.attempts),
            ),
            datasets=datasets,
            # without these options Ray Train replaces the datasets' own options by its defaults
            dataset_config=DataConfig(datasets_to_split=[], execution_options=ExecutionOptions(preserve_order=True)),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[-1]
            raise SettingsError(f"stage {stage.name}: its workers failed ({reason})") from error


def _work(config: dict[str, Any]) -> None:
    """The function that each worker runs."""
    import ray.train

    settings = parse_settings(config["settings"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()

    def wrap(model: TrainingModel) -> tuple[Any, Any]:
        if settings.device == "cuda":
            model.to(ray.train.torch.get_device())
        if settings.parallel == "fsdp":
            sharded = Sharded(model, world)
            return sharded, sharded.no_sync
        # the sample decides which parameters take part: a dialogue has no masks, a single frame no tracking
        parallel = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        return parallel, parallel.no_sync

    process = Rank(rank, world, wrap if world > 1 else None, _reader(rank) if settings.feeders else None)
    run_stage(settings, config["number"], config["output"], process)


def _reader(rank: int) -> Callable[[Iterable[int]], Iterator[Clip]]:
    """Reads the dataset of a rank."""

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


def _resources(settings: TrainSettings) -> dict[str, float]:
    return {"CPU": 1, "GPU": 1} if settings.device == "cuda" else {"CPU": 1}

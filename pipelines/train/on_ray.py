"""A stage of training on Ray: samples made by Ray Data, one dataset for each worker, and workers of Ray Train.

The global sequence of samples is fixed (`vrshq.pipelines.train.mixture`): of every step's batch, worker r of w takes samples r, r + w, ...
Each worker has a dataset of its own, in order, so that nothing depends on who is faster.
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
from pydantic import TypeAdapter

from vrshq.cluster.ray.resources import local_resources
from vrshq.cluster.ray.session import ray_session
from vrshq.cluster.storage.folder import Folder, is_remote
from vrshq.operators.training.clip import Clip
from vrshq.operators.training.forward import TrainingModel
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.train.mixture import Mixture
from vrshq.pipelines.train.sets import open_mixture
from vrshq.pipelines.train.settings import Stage, TrainSettings

SAMPLES_A_BLOCK = 8  # what one task of Ray Data makes
# Workers import torch and read the start before they answer; Ray Train's own minute is too short on a busy machine.
_START_TIMEOUT = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "900")


def run_stage_on_ray(settings: TrainSettings, number: int, output: str, address: str | None) -> None:
    """One stage with `settings.workers` workers, from its last checkpoint; workers that die are started again.

    Raises:
        SettingsError: the workers failed more than `settings.attempts` times; names the reason.
    """
    stage, workers = settings.stages[number], settings.workers
    if stage.batch % workers:
        raise SettingsError(f"stage {stage.name}: a batch of {stage.batch} is not shared evenly by {workers} workers")
    os.environ.setdefault(*_START_TIMEOUT)
    feeders = max(1, int(local_resources().cpus) - workers)
    # on this machine Ray counts places, not cores: with all of them taken by workers nothing could feed them
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
            train_loop_config={"settings": _text(settings), "number": number, "output": output},
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=settings.device == "cuda", resources_per_worker=_resources(settings)
            ),
            run_config=RunConfig(
                name=stage.name,
                storage_path=output if is_remote(output) else str(Path(output).absolute() / "ray"),
                failure_config=FailureConfig(max_failures=settings.attempts),
            ),
            datasets=datasets,
            # without these options Ray Train would put its own in the place of the datasets'
            dataset_config=DataConfig(datasets_to_split=[], execution_options=ExecutionOptions(preserve_order=True)),
        )
        try:
            trainer.fit()
        except ray.train.TrainingFailedError as error:
            reason = str(error.__cause__ or error).strip().splitlines()[-1]
            raise SettingsError(f"stage {stage.name}: its workers failed ({reason})") from error


def latest_step(folder: Folder, stage: str) -> int:
    """The step of a stage's last checkpoint; 0 before the first."""
    names = [name for name in folder.list(f"checkpoints/{stage}") if name.endswith(".pt")]
    return max((int(Path(name).stem) for name in names), default=0)


def _work(config: dict[str, Any]) -> None:
    """What each worker runs."""
    import ray.train
    import torch

    from vrshq.pipelines.train.run import run_stage

    settings = TypeAdapter(TrainSettings).validate_json(config["settings"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()

    def wrap(model: TrainingModel) -> tuple[Any, Any]:
        if settings.device == "cuda":
            model.to(ray.train.torch.get_device())
        if settings.parallel == "fsdp":
            from vrshq.operators.training.sharding import Sharded

            sharded = Sharded(model, world)
            return sharded, sharded.no_sync
        # which parts take part depends on the sample: a dialogue has no masks, one frame no tracking
        parallel = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        return parallel, parallel.no_sync

    run_stage(
        settings,
        config["number"],
        config["output"],
        rank=rank,
        world=world,
        wrap=wrap if world > 1 else None,
        clips=_reader(rank) if settings.feeders else None,
    )


def _reader(rank: int) -> Callable[[Iterable[int]], Iterator[Clip]]:
    def clips(numbers: Iterable[int]) -> Iterator[Clip]:
        """Exactly the samples of these numbers; a worker that resumed later than the dataset began skips what is done."""
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
    """The samples of one rank from a step on: `number`, and `clip` as a pickle made here and read here."""
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
    """A stage's mixture, opened once in each process that makes samples."""
    return open_mixture(TypeAdapter(Stage).validate_json(stage), seed)


@contextmanager
def _in_order() -> Iterator[None]:
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


def _text(settings: TrainSettings) -> str:
    return TypeAdapter(TrainSettings).dump_json(settings).decode()

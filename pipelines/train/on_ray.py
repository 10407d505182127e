"""A stage of training on Ray: Ray Train runs the workers, and Ray Data makes their samples.

Only the workers import torch. The controller of Ray Train imports this module too.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from vrshq.cluster.ray.resources import local_resources
from vrshq.cluster.ray.session import quiet_data, ray_session
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_remote, local_path
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.train.checkpoints import latest_step
from vrshq.pipelines.train.feeding import sample_datasets, sample_reader
from vrshq.pipelines.train.identity import dump_settings, parse_settings
from vrshq.pipelines.train.settings import TrainSettings

if TYPE_CHECKING:
    from vrshq.operators.training.forward import TrainingModel

# Workers import torch and load the start before they report. Ray Train's default of one minute is too short on a busy machine.
_START_TIMEOUT = ("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "900")


def run_stage_on_ray(settings: TrainSettings, number: int, output: str, address: str | None) -> None:
    """Runs one stage with `settings.workers` workers from its last checkpoint; workers that die are restarted.

    Args:
        settings: settings of the run.
        number: the stage's index in `settings.stages`.
        output: folder of the run, local or in a bucket.
        address: Ray cluster; None: the default of `ray_session`.

    Raises:
        SettingsError: the workers failed more than `settings.attempts` times. The message gives the reason.
    """
    stage, workers = settings.stages[number], settings.workers
    if stage.batch % workers:
        raise SettingsError(f"stage {stage.name}: a batch of {stage.batch} is not shared evenly by {workers} workers")
    os.environ.setdefault(*_START_TIMEOUT)
    feeders = max(1, int(local_resources().cpus) - workers)
    # on this machine Ray counts slots, not cores; feeders need slots that no worker holds
    with ray_session(address, num_cpus=workers + feeders), quiet_data():
        import ray
        from ray.data import ExecutionOptions
        from ray.train import DataConfig, FailureConfig, RunConfig, ScalingConfig
        from ray.train.torch import TorchTrainer

        first = latest_step(Folder(output), stage.name)
        datasets = sample_datasets(stage, settings.seed + number, first, workers) if settings.feeders else {}
        trainer = TorchTrainer(
            _work,
            train_loop_config={"settings": dump_settings(settings), "number": number, "output": output},
            scaling_config=ScalingConfig(
                num_workers=workers, use_gpu=settings.device == "cuda", resources_per_worker=_resources(settings)
            ),
            run_config=RunConfig(
                name=stage.name,
                storage_path=output if is_remote(output) else str(local_path(output) / "ray"),
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
    import torch

    from vrshq.operators.training.sharding import Sharded
    from vrshq.pipelines.train.stage import Rank, run_stage

    settings = parse_settings(config["settings"])
    context = ray.train.get_context()
    rank, world = context.get_world_rank(), context.get_world_size()

    def wrap(model: TrainingModel) -> tuple[Any, Any]:
        if settings.device == "cuda":
            model.to(ray.train.torch.get_device())
        if settings.parallel == "fsdp":
            sharded = Sharded(model, world)
            return sharded, sharded.no_sync
        # samples use different parameters: a dialogue has no masks, a single frame no tracking
        parallel = torch.nn.parallel.DistributedDataParallel(model, find_unused_parameters=True)
        return parallel, parallel.no_sync

    process = Rank(rank, world, wrap if world > 1 else None, sample_reader(rank) if settings.feeders else None)
    run_stage(settings, config["number"], config["output"], process)


def _resources(settings: TrainSettings) -> dict[str, float]:
    return {"CPU": 1, "GPU": 1} if settings.device == "cuda" else {"CPU": 1}

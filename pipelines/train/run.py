"""`vrshq train`: stages of training, each resumable, and a bundle of the result.

settings -> start -> for each stage: samples (Ray Data) -> workers (Ray Train) or this process -> checkpoints -> weights
-> OUTPUT/bundle, which `vrshq label --model` takes.

    OUTPUT/train.json                         the settings; a command with other settings is refused
    OUTPUT/start/                             sizes and tokenizers of a model that is trained from scratch
    OUTPUT/checkpoints/<stage>/<step>.pt      trained weights, optimiser, average, sampler; the last two are kept
    OUTPUT/stages/<stage>.pt                  trained weights at the stage's end (averaged, if the stage keeps an average)
    OUTPUT/logs/<stage>.jsonl                 losses by step; tensorboard/ holds the same for TensorBoard
    OUTPUT/bundle/                            bundle.json, model.safetensors, tokenizers, training.jsonl (all stages' logs),
                                              heads.safetensors (needed only to train further)

A run that was killed continues from its last checkpoint. Sample k and everything random about it depend on the seed and k
alone, so the losses equal those of an undisturbed run.
"""

from __future__ import annotations

from collections.abc import Callable

from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.train.checkpoints import is_finished
from vrshq.pipelines.train.identity import claim_folder
from vrshq.pipelines.train.log import TrainingLog
from vrshq.pipelines.train.on_ray import run_stage_on_ray
from vrshq.pipelines.train.result import write_result
from vrshq.pipelines.train.settings import TrainSettings
from vrshq.pipelines.train.stage import Report, run_stage
from vrshq.pipelines.train.weights import check_start


def train(
    settings: TrainSettings,
    output: str,
    *,
    address: str | None = None,
    on_begin: Callable[[], None] = lambda: None,
    on_log: Report = lambda *_: None,
) -> str:
    """Runs all stages that are not finished yet.

    Args:
        settings: settings of the run.
        output: folder of the run, local or in a bucket.
        address: Ray cluster; used if `settings.workers` is 1 or more.
        on_begin: called once the folder is accepted, before the work.
        on_log: called with stage, step and losses; with Ray only at the end of each stage.

    Returns:
        The uri of the bundle.

    Raises:
        SettingsError: the settings do not fit the folder or each other, or Ray's workers failed.
        StorageError: the folder cannot be read or written.
        CheckpointError: the bundle that training starts from does not fit the settings.
    """
    check_start(settings)
    folder = Folder(output)
    claim_folder(folder, settings)
    on_begin()
    for number, stage in enumerate(settings.stages):
        if is_finished(folder, stage.name):
            continue
        if settings.workers == 0:
            run_stage(settings, number, output, on_log=on_log)
        else:
            run_stage_on_ray(settings, number, output, address)
            rows = TrainingLog(folder, stage.name, local=False).rows
            if rows:
                on_log(stage.name, int(rows[-1]["step"]), rows[-1])
    return write_result(settings, output)

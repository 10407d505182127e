"""One stage of training, from its last checkpoint to its end, on one rank."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_remote
from vrshq.errors import UserError
from vrshq.operators.training.clip import Clip
from vrshq.operators.training.forward import TrainingModel
from vrshq.operators.training.pointing import REFERENCE_LAYER
from vrshq.operators.training.schedule import choose_trained
from vrshq.operators.training.step import StageTrainer
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.train.checkpoints import latest_checkpoint, save_checkpoint, save_weights
from vrshq.pipelines.train.log import TrainingLog
from vrshq.pipelines.train.measure import evaluate_now, validate
from vrshq.pipelines.train.mixture import Mixture
from vrshq.pipelines.train.sets import open_mixture
from vrshq.pipelines.train.settings import Stage, TrainSettings
from vrshq.pipelines.train.weights import model_before

Report = Callable[[str, int, dict[str, float]], None]  # stage, step, losses


@dataclass(frozen=True)
class Rank:
    """One process of several that train together.

    Attributes:
        number: this process; process 0 writes all files.
        world: how many processes there are.
        wrap: takes the model; returns the module to call, and the context in which gradients are not exchanged. None: the
            model itself is called.
        clips: gives the samples of the given numbers, in order. None: the samples are made in this process.
    """

    number: int = 0
    world: int = 1
    wrap: Callable[[TrainingModel], tuple[Any, Any]] | None = None
    clips: Callable[[Iterable[int]], Iterator[Clip]] | None = None


ALONE = Rank()


def run_stage(
    settings: TrainSettings, number: int, output: str, rank: Rank = ALONE, on_log: Report = lambda *_: None
) -> None:
    """Runs one rank's part of stage `number` from its last checkpoint to its end.

    Args:
        settings: settings of the run.
        number: the stage's index in `settings.stages`.
        output: folder of the run, local or in a bucket.
        rank: this process among those that train together.
        on_log: called on rank 0 with stage, step and losses.

    Raises:
        SettingsError: the stage does not fit the model.
    """
    torch.set_num_threads(settings.threads)
    stage, folder = settings.stages[number], Folder(output)
    try:
        trainer = make_trainer(model_before(settings, number, output), stage, settings.seed, rank)
    except UserError:
        raise
    except ValueError as error:
        raise SettingsError(f"stage {stage.name}: {error}") from error
    state = latest_checkpoint(folder, stage.name)
    if state is not None:
        trainer.load_state(state)
    writes = rank.number == 0
    log = TrainingLog(folder, stage.name, local=writes and not is_remote(output), before=trainer.step)
    mixture = open_mixture(stage, settings.seed + number)
    source = (rank.clips or mixture.stream)(trainer.sample_numbers())
    # all ranks must take part in reading sharded weights
    sharded = rank.world > 1 and settings.parallel == "fsdp"
    while trainer.step < stage.steps:
        row = trainer.run_step(source)
        if not writes and not sharded:
            continue
        step, last = trainer.step, trainer.step == stage.steps
        measured = _measure(settings, number, output, trainer, mixture, rank)
        if writes and (measured or _due(step, settings.log_every, last)):
            log.add(step, row | measured)
            on_log(stage.name, step, row | measured)
        if _due(step, settings.checkpoint_every, last):
            state = trainer.state()
            if writes:
                log.write()
                save_checkpoint(folder, stage.name, step, state)
    if writes or sharded:
        state = trainer.state()
        if writes:
            save_weights(folder, stage.name, state["average"] or state["model"])


def make_trainer(model: TrainingModel, stage: Stage, seed: int, rank: Rank = ALONE) -> StageTrainer:
    """Freezes the parameters that the stage does not train, and wraps the model if the rank says so.

    Raises:
        ValueError: the stage does not fit the model.
    """
    layers = len(model.language.llama.layers)
    if stage.losses.reference > 0 and layers < -REFERENCE_LAYER:
        raise ValueError(
            f"losses.reference = {stage.losses.reference:g}: expected a language model of at least {-REFERENCE_LAYER} layers, "
            f"got {layers}; set language_layers"
        )
    choose_trained(model, stage.trained)
    place: dict[str, Any] = {"rank": rank.number, "world": rank.world}
    if rank.wrap is None:
        return StageTrainer(model, stage, seed, **place)
    wrapped, no_sync = rank.wrap(model)
    return StageTrainer(model, stage, seed, **place, wrapped=wrapped, no_sync=no_sync)


def _measure(
    settings: TrainSettings, number: int, output: str, trainer: StageTrainer, mixture: Mixture, rank: Rank
) -> dict[str, float]:
    """The results of validation and evaluation if they are due after this step."""
    last = trainer.step == trainer.config.steps
    measured: dict[str, float] = {}
    if _due(trainer.step, settings.validate.every, last):
        sharded = rank.world > 1 and settings.parallel == "fsdp"
        measured |= validate(trainer, mixture, settings.validate.clips, sharded)
    if _due(trainer.step, settings.evaluate.every, last):
        measured |= evaluate_now(settings, trainer, number, output, rank.number)
    return measured


def _due(step: int, every: int, last: bool) -> bool:
    """Whether something that is done every so many steps (0: never), and after the last one, is due after `step`."""
    return every > 0 and (last or step % every == 0)

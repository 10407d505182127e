"""`vrshq train`: stages of training, each resumable, and a bundle of the result.

settings -> start -> for each stage: samples (Ray Data) -> workers (Ray Train) or this process -> checkpoints -> its weights
-> OUTPUT/bundle, which `vrshq label --model` takes.

    OUTPUT/train.json                         the settings; another command with other ones is refused
    OUTPUT/start/                             sizes and tokenizers of a model that is trained from nothing
    OUTPUT/checkpoints/<stage>/<step>.pt      trained weights, optimiser, average, sampler; the last two are kept
    OUTPUT/stages/<stage>.pt                  trained weights at the stage's end (their average, where there is one)
    OUTPUT/logs/<stage>.jsonl                 losses by step; tensorboard/ has the same for TensorBoard
    OUTPUT/bundle/                            bundle.json, model.safetensors, tokenizers, training.jsonl (all stages' logs),
                                              heads.safetensors (what only more training needs)

Killed anywhere and run again, it goes on from the last checkpoint: sample k and everything random about it depend on the
seed and k alone, so that the losses are those of an undisturbed run.
"""

from __future__ import annotations

import io
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter

from vrshq.cluster.storage.folder import Folder, fetch_to_local, is_remote
from vrshq.operators.training.clip import Clip
from vrshq.operators.training.forward import TrainingModel
from vrshq.operators.training.start import build, prepare_start, write_adapter, write_bundle
from vrshq.operators.training.step import StageTrainer, sample_seed
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.train.log import TrainingLog
from vrshq.pipelines.train.mixture import Mixture
from vrshq.pipelines.train.sets import open_mixture
from vrshq.pipelines.train.settings import Stage, TrainSettings

KEPT = 2  # checkpoints of a stage
VALIDATION = 1 << 40  # samples from here on are for validation; no training gets that far
Report = Callable[[str, int, dict[str, float]], None]


def train(settings: TrainSettings, output: str, *, address: str | None = None, on_log: Report = lambda *_: None) -> str:
    """Runs all stages that are not done yet; returns the uri of the bundle.

    Args:
        output: folder of the run, local or in a bucket.
        address: Ray cluster, where `settings.workers` is 1 or more.
        on_log: called with stage, step and losses; with Ray only at the end of each stage.

    Raises:
        SettingsError, StorageError, CheckpointError: one line each.
    """
    folder = Folder(output)
    _check_same(folder, settings)
    for number, stage in enumerate(settings.stages):
        if folder.exists(f"stages/{stage.name}.pt"):
            continue
        if settings.workers == 0:
            run_stage(settings, number, output, on_log=on_log)
        else:
            from vrshq.pipelines.train.on_ray import run_stage_on_ray

            run_stage_on_ray(settings, number, output, address)
            rows = TrainingLog(folder, stage.name, local=False).rows
            if rows:
                on_log(stage.name, int(rows[-1]["step"]), rows[-1])
    return write_result(settings, output)


def run_stage(
    settings: TrainSettings,
    number: int,
    output: str,
    *,
    rank: int = 0,
    world: int = 1,
    wrap: Callable[[TrainingModel], tuple[Any, Any]] | None = None,
    clips: Callable[[Iterable[int]], Iterator[Clip]] | None = None,
    on_log: Report = lambda *_: None,
) -> None:
    """One rank's part of a stage, from its last checkpoint to its end. Rank 0 writes everything.

    Args:
        wrap: makes of the model what is called, and the context in which gradients are not exchanged.
        clips: gives the samples of the given numbers; default: made here.
    """
    torch.set_num_threads(settings.threads)
    stage, folder = settings.stages[number], Folder(output)
    model = _model(settings, number, output)
    trainer = make_trainer(model, stage, settings.seed, rank, world, wrap)
    latest = _latest(folder, stage.name)
    if latest:
        trainer.load_state(_load(folder, latest))
    log = TrainingLog(folder, stage.name, local=rank == 0 and not is_remote(output), before=trainer.step)
    mixture = open_mixture(stage, settings.seed + number)
    source = (clips or mixture.stream)(trainer.sample_numbers())
    shared = world > 1 and settings.parallel == "fsdp"
    while trainer.step < stage.steps:
        row = trainer.run_step(source)
        step, last = trainer.step, trainer.step == stage.steps
        # where weights are shared out, all ranks take part in whatever needs them
        if rank != 0 and not shared:
            continue
        measured: dict[str, float] = {}
        if _due(step, settings.validate.every, last):
            measured |= validate(trainer, mixture, settings.validate.clips, shared)
        if _due(step, settings.evaluate.every, last):
            measured |= evaluate_now(settings, trainer, number, output, rank)
        if rank == 0 and (measured or _due(step, settings.log_every, last)):
            log.add(step, row | measured)
            on_log(stage.name, step, row | measured)
        if _due(step, settings.checkpoint_every, last):
            state = trainer.state()
            if rank == 0:
                log.write()
                _save(folder, f"checkpoints/{stage.name}/{step:08d}.pt", state)
                for old in _checkpoints(folder, stage.name)[:-KEPT]:
                    folder.remove(old)
    if rank == 0 or shared:
        state = trainer.state()
    if rank == 0:
        _save(folder, f"stages/{stage.name}.pt", {"model": state["average"] or state["model"]})


def make_trainer(
    model: TrainingModel,
    stage: Stage,
    seed: int,
    rank: int,
    world: int,
    wrap: Callable[[TrainingModel], tuple[Any, Any]] | None,
) -> StageTrainer:
    """Freezes what the stage does not train, and wraps the model for several workers where `wrap` is given."""
    from vrshq.operators.training.schedule import choose_trained

    choose_trained(model, stage.trained)
    if wrap is None:
        return StageTrainer(model, stage, seed, rank=rank, world=world)
    wrapped, no_sync = wrap(model)
    return StageTrainer(model, stage, seed, rank=rank, world=world, wrapped=wrapped, no_sync=no_sync)


@torch.no_grad()
def validate(trainer: StageTrainer, mixture: Mixture, clips: int, shared: bool) -> dict[str, float]:
    """Losses and IoU on clips that training never draws, with the averaged weights where there are some.

    Args:
        shared: weights are shared out over ranks, which then all have to call this.
    """
    config, model = trainer.config, trainer.wrapped if shared else trainer.model
    sums: dict[str, list[float]] = {}
    with _averaged(trainer):
        for number in range(VALIDATION, VALIDATION + clips):
            seed = sample_seed(trainer.seed, "validation", number)
            losses = model(mixture.sample(number), seed, config.forward, config.losses)
            for name, value in losses.items():
                if value == value:
                    sums.setdefault(f"valid_{name}", []).append(float(value))
    return {name: sum(values) / len(values) for name, values in sums.items()}


def evaluate_now(
    settings: TrainSettings, trainer: StageTrainer, number: int, output: str, rank: int
) -> dict[str, float]:
    """The numbers of `vrshq evaluate` for the weights as they are in stage `number`; only rank 0 evaluates."""
    from vrshq.pipelines.evaluate.run import evaluate
    from vrshq.pipelines.label.settings import Settings

    state = trainer.state()
    if rank != 0:
        return {}
    config = settings.evaluate
    model = _model(replace(settings, device="cpu"), number, output)
    _put(model, state["average"] or state["model"])
    with tempfile.TemporaryDirectory(prefix="vrshq-train-") as scratch:
        bundle = write_bundle(model, _start(settings, output), Path(scratch) / "bundle", name=settings.name)
        chosen = Settings.model_validate({**config.settings, "model": str(bundle)})
        run = evaluate(config.dataset, config.root, f"{scratch}/run", chosen, split=config.split, use_ray=False)
    return {f"evaluate_{name}": value for name, value in _numbers(run.scores or {}).items()}


def _numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found


class _averaged:  # noqa: N801 - used like a function
    """The model with its averaged weights, for the time of a `with`."""

    def __init__(self, trainer: StageTrainer) -> None:
        self.trainer = trainer

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        if self.trainer.average is None:
            return
        for name, value in self.trainer.average.values.items():
            parameter = self.trainer.trained[name]
            kept = parameter.clone()
            parameter.copy_(value)
            value.copy_(kept)


def write_result(settings: TrainSettings, output: str) -> str:
    """Writes the bundle of all stages' weights (and the adapter's folder, where there is one); returns its uri."""
    model = _model(settings, len(settings.stages), output)
    folder, start = Folder(output), _start(settings, output)
    provenance = {"command": "vrshq train", "settings": json.loads(_dump(settings))}
    with tempfile.TemporaryDirectory(prefix="vrshq-train-") as scratch:
        dtype = getattr(torch, settings.bundle_dtype)
        write_bundle(
            model,
            start,
            Path(scratch) / "bundle",
            name=settings.name,
            dtype=dtype,
            with_heads=True,
            presence=settings.presence,
            provenance=provenance,
        )
        (Path(scratch) / "bundle" / "training.jsonl").write_text(_whole_log(settings, folder), encoding="utf-8")
        if settings.start.lora.rank:
            write_adapter(model, Path(scratch) / "adapter")
        for path in sorted(Path(scratch).rglob("*")):
            if path.is_file():
                folder.write_file(path.relative_to(scratch).as_posix(), path)
    return folder.uri_of("bundle")


def _whole_log(settings: TrainSettings, folder: Folder) -> str:
    rows = [
        {"stage": stage.name, **row}
        for stage in settings.stages
        for row in TrainingLog(folder, stage.name, local=False).rows
    ]
    return "".join(json.dumps(row) + "\n" for row in rows)


def _model(settings: TrainSettings, number: int, output: str) -> TrainingModel:
    """The model before stage `number`: the start, and over it what each earlier stage trained."""
    model = build(settings.start, _start(settings, output), settings.seed, settings.device)
    for stage in settings.stages[:number]:
        _put(model, _load(Folder(output), f"stages/{stage.name}.pt")["model"])
    return model


@torch.no_grad()
def _put(model: TrainingModel, weights: dict[str, torch.Tensor]) -> None:
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


def _start(settings: TrainSettings, output: str) -> str:
    """The local folder or name of the bundle that training starts from."""
    if is_remote(output):
        place = Path(tempfile.gettempdir()) / f"vrshq-start-{os.getuid()}-{os.getpid()}"
        return prepare_start(settings.start, settings.seed, place)
    return prepare_start(settings.start, settings.seed, Path(output) / "start")


def _due(step: int, every: int, last: bool) -> bool:
    return every > 0 and (last or step % every == 0)


def _checkpoints(folder: Folder, stage: str) -> list[str]:
    return sorted(name for name in folder.list(f"checkpoints/{stage}") if name.endswith(".pt"))


def _latest(folder: Folder, stage: str) -> str | None:
    found = _checkpoints(folder, stage)
    return found[-1] if found else None


def _save(folder: Folder, name: str, state: dict[str, Any]) -> None:
    """Written whole or not at all, which is what `Folder` does."""
    with tempfile.NamedTemporaryFile(prefix="vrshq-", suffix=".pt") as file:
        torch.save(state, file)
        file.flush()
        folder.write_file(name, file.name)


def _load(folder: Folder, name: str) -> dict[str, Any]:
    with ExitStack() as stack:
        local = stack.enter_context(fetch_to_local(folder.uri_of(name), tempfile.gettempdir()))
        state: dict[str, Any] = torch.load(io.BytesIO(Path(local).read_bytes()), map_location="cpu", weights_only=True)
    return state


# What may change between the commands of one run: where and how fast, and what is said of the result, not what is learnt.
_FREE = ("workers", "parallel", "device", "threads", "feeders", "checkpoint_every", "log_every", "attempts", "presence")


def _dump(settings: TrainSettings) -> str:
    return TypeAdapter(TrainSettings).dump_json(settings).decode()


def _check_same(folder: Folder, settings: TrainSettings) -> None:
    given = json.loads(_dump(settings))
    if not folder.exists("train.json"):
        folder.write_bytes("train.json", (json.dumps(given, indent=1) + "\n").encode())
        return
    known = json.loads(folder.read_bytes("train.json"))
    different = [name for name in given if name not in _FREE and known.get(name) != given[name]]
    if different:
        raise SettingsError(
            f"{folder.uri}: it holds a run with other settings ({', '.join(different)}); give the same ones, or a new folder"
        )

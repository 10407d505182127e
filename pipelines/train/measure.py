"""Measurements during training: losses and IoU on held-out samples, and the scores of `vrshq evaluate`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vrshq.operators.training.start import write_bundle
from vrshq.operators.training.step import StageTrainer, sample_seed
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.train.mixture import Mixture
from vrshq.pipelines.train.settings import TrainSettings
from vrshq.pipelines.train.weights import model_before, presence_of, put_weights, start_bundle

VALIDATION = 1 << 40  # samples from this number on are for validation; no training reaches it


@torch.no_grad()
def validate(trainer: StageTrainer, mixture: Mixture, clips: int, shared: bool) -> dict[str, float]:
    """Mean losses and IoU on samples that training never draws, with the averaged weights if the stage keeps them.

    Args:
        trainer: the stage.
        mixture: its data.
        clips: the number of samples.
        shared: weights are sharded over the ranks; then all ranks must call this.

    Returns:
        Each mean under `valid_` and the loss's name; samples with a NaN are left out.
    """
    config, model = trainer.config, trainer.wrapped if shared else trainer.model
    sums: dict[str, list[float]] = {}
    with averaged_weights(trainer):
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
    """The scores of `vrshq evaluate` for the current weights of stage `number`.

    All ranks must call this where weights are sharded; rank 0 evaluates, and the others return {}.
    """
    state = trainer.state()
    if rank != 0:
        return {}
    config = settings.evaluate
    model = model_before(replace(settings, device="cpu"), number, output)
    put_weights(model, state["average"] or state["model"])
    with tempfile.TemporaryDirectory(prefix="vrshq-train-") as scratch:
        start = start_bundle(settings, output)
        presence = presence_of(settings, start)
        bundle = write_bundle(model, start, Path(scratch) / "bundle", name=settings.name, presence=presence)
        chosen = Settings.model_validate({**config.settings, "model": str(bundle)})
        run = evaluate(config.dataset, config.root, f"{scratch}/run", chosen, split=config.split, use_ray=False)
    return {f"evaluate_{name}": value for name, value in _numbers(run.scores or {}).items()}


def _numbers(values: dict[str, Any], prefix: str = "") -> dict[str, float]:
    """The numbers in nested mappings, by dotted path."""
    found: dict[str, float] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            found |= _numbers(value, f"{prefix}{name}.")
        elif isinstance(value, int | float) and not isinstance(value, bool):
            found[f"{prefix}{name}"] = float(value)
    return found


@contextmanager
def averaged_weights(trainer: StageTrainer) -> Iterator[None]:
    """The model holds its averaged weights inside the `with`; no change if the stage keeps no average."""
    _swap(trainer)
    try:
        yield
    finally:
        _swap(trainer)


@torch.no_grad()
def _swap(trainer: StageTrainer) -> None:
    if trainer.average is None:
        return
    for name, value in trainer.average.values.items():
        parameter = trainer.trained[name]
        kept = parameter.clone()
        parameter.copy_(value)
        value.copy_(kept)

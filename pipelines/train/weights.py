"""The model before a stage: the start with the weights of all earlier stages."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import torch

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_remote, local_path
from vrshq.operators.models.bundle import CheckpointError, open_bundle
from vrshq.operators.models.families import VRS_HQ
from vrshq.operators.training.forward import TrainingModel
from vrshq.operators.training.growth import add_differences, deepen
from vrshq.operators.training.start import build, prepare_start
from vrshq.pipelines.models.known import known_model
from vrshq.pipelines.models.locate import local_model
from vrshq.pipelines.train.checkpoints import load_weights
from vrshq.pipelines.train.settings import TrainSettings


def model_before(settings: TrainSettings, number: int, output: str) -> TrainingModel:
    """The model before stage `number`, with its layers; the number of all stages gives the trained model."""
    model = build(settings.start, start_bundle(settings, output), settings.seed, settings.device)
    for index, stage in enumerate(settings.stages[: number + 1]):
        if stage.language_layers is not None:
            deepen(model.language, stage.language_layers)
        if stage.frame_differences:
            add_differences(model.language)
        if index < number:
            put_weights(model, load_weights(Folder(output), stage.name))
    return model


@torch.no_grad()
def put_weights(model: TrainingModel, weights: dict[str, torch.Tensor]) -> None:
    """Copies weights, by parameter name, into the model."""
    parameters = dict(model.named_parameters())
    for name, value in weights.items():
        parameters[name].copy_(value)


def presence_of(settings: TrainSettings, start: str) -> float:
    """The presence threshold of the bundles that training writes: the given one, else that of the bundle `start`."""
    return open_bundle(start).presence if settings.presence is None else settings.presence


def check_start(settings: TrainSettings) -> None:
    """Refuses a start of another family than the one that can be trained, before anything is fetched or written.

    Raises:
        CheckpointError: the start is of another family, or is no model.
    """
    if (name := settings.start.bundle) is None:
        return
    known = known_model(name)
    if known is not None and not Path(name).is_dir():
        family = known.family
    elif Path(name).is_dir():
        family = open_bundle(name).family.name
    else:
        return  # its description is fetched with it
    if family != VRS_HQ.name:
        raise CheckpointError(
            f"start.bundle {name}: a model of the family {family}; vrshq train trains the family {VRS_HQ.name} alone"
        )


def start_bundle(settings: TrainSettings, output: str) -> str:
    """The local folder or name of the bundle that training starts from. A remote one is fetched once per node."""
    if settings.start.bundle is not None:
        return local_model(settings.start.bundle, "start.bundle")
    if is_remote(output):
        scratch = Path(tempfile.gettempdir()) / f"vrshq-start-{os.getuid()}-{os.getpid()}"
        return prepare_start(settings.start, settings.seed, scratch)
    return prepare_start(settings.start, settings.seed, local_path(output) / "start")

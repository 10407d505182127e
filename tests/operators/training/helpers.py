"""Small clips and models for the tests of training."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from vrshq.operators.models.config import TowerConfig
from vrshq.operators.models.preprocess import View, tower_view
from vrshq.operators.synth import SynthConfig, make_video
from vrshq.operators.training.auxiliary import Auxiliary
from vrshq.operators.training.clip import (
    Clip,
    Objects,
    from_synth,
)
from vrshq.operators.training.config import StageConfig, StartConfig
from vrshq.operators.training.forward import TrainingModel
from vrshq.operators.training.start import build
from vrshq.operators.training.step import StageTrainer

SMALL = SynthConfig(short_sides=(64,), aspects=(1.0,), frames=(4, 6), objects=(2, 3))


def clip_of(index: int = 0, frames: tuple[int, int] = (4, 4), expressions: int = 2) -> Clip:
    return from_synth(make_video(0, index, "train", SMALL), np.random.default_rng(index), frames, expressions)


def model_of(**changes: Any) -> TrainingModel:
    return build(StartConfig(**{"bundle": "untrained-tiny", **changes}), "untrained-tiny", 0, "cpu")


def view_of(objects: Objects, view: Literal["centre", "whole"] = "centre", side: int = 8) -> View:
    height, width = objects.masks.shape[2:]
    return tower_view(height, width, TowerConfig(image_size=side, patch_size=1, view=view))


def one_step(model: TrainingModel, config: StageConfig, clips: list[Clip]) -> tuple[dict[str, float], set[str]]:
    """The losses of one step, and the names of the parameters that it changed."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    losses = StageTrainer(model, config, 0).run_step(clips)
    return losses, {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


def objects_absent_in_some_frames() -> Objects:
    objects = objects_of(clip_of(expressions=1))
    masks = objects.masks.copy()
    masks[0, 1] = False  # absent in one frame
    masks[1, 0] = False  # absent in the first frame
    return replace(objects, masks=masks)


def one_token_each(shown: np.ndarray) -> Tensor:
    """(O, n, O) bool for `shown` (O, n) bool: each object has one token in each frame that shows it."""
    return torch.from_numpy(np.eye(len(shown), dtype=bool)[:, None] & shown[..., None])


def objects_of(clip: Clip) -> Objects:
    assert clip.objects is not None
    return clip.objects


def heads_of(model: TrainingModel) -> Auxiliary:
    assert model.auxiliary is not None
    return model.auxiliary


def gradient_of(model: TrainingModel, name: str) -> Tensor:
    gradient = model.get_parameter(name).grad
    assert gradient is not None
    return gradient

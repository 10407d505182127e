"""A tiny Sa2VA in the published layout, and two cases of its reference, distilled from the parity kit into the repository.

The weights are random, but for a language model that answers some questions with fixed sentences, see the kit's README. Case
q3 has seven frames, of which the first five are prompted, and an answer with two [SEG]. Case q2 has three frames and an
answer without [SEG].
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from tests.support.array_video import ArrayVideo
from tests.support.paths import ROOT
from vrshq.operators.batch import Operator
from vrshq.operators.models.shared import shared_network
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.work.worker import load_operator

FOLDER = ROOT / "tests" / "data" / "sa2va-tiny"
MODEL = str(FOLDER)
# The questions of the cases, and their answers.
QUESTIONS = {"q2": "Is there an elephant that crosses the street?", "q3": "Which ball and which hand move?"}
ANSWERS = {"q2": "There is no such object.", "q3": "<p>the ball</p> [SEG] and <p>the hand</p> [SEG]."}


@cache
def case(name: str) -> dict[str, np.ndarray]:
    """The arrays of a case."""
    with np.load(ROOT / "tests" / "data" / f"sa2va-{name}.npz") as arrays:
        return dict(arrays)


def case_video(name: str) -> ArrayVideo:
    """The frames of a case."""
    frames = case(name)["frames"]
    video = ArrayVideo(len(frames), *frames.shape[1:3])
    video.array = frames
    return video


def write_frames(name: str, folder: Path) -> None:
    """The frames of a case as a folder of PNG files."""
    folder.mkdir(parents=True)
    for number, frame in enumerate(case(name)["frames"]):
        Image.fromarray(frame).save(folder / f"{number:05d}.png")


def stages(model: str = MODEL, **settings: Any) -> list[Operator]:
    """The operators from an open video to mask columns."""
    configs = Settings.model_validate(settings).operator_configs(model, "cpu")
    names = ("presample", "tokens", "fuse", "keyframe", "propagate")
    return [load_operator(name)(configs[name]) for name in names]


@dataclass
class Calls:
    """Images, or passes, through each network so far."""

    sam2: int = 0
    vision: int = 0
    prefixes: int = 0


@contextmanager
def counted_calls(model: str = MODEL) -> Iterator[Calls]:
    """Counts by hooks on the networks that all operators of this process share."""
    calls = Calls()
    language = shared_network(model, "language", "cpu", "float32").model.model
    segmenter = shared_network(model, "segmenter", "cpu", "float32")

    def images(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        calls.sam2 += len(given[0])

    def pictures(_: nn.Module, __: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.vision += len(named["grid_thw"])

    def passes(_: nn.Module, __: tuple[Any, ...], named: dict[str, Any]) -> None:
        calls.prefixes += named.get("visual_pos_masks") is not None

    with ExitStack() as hooks:
        hooks.callback(segmenter.image_encoder.trunk.register_forward_pre_hook(images).remove)
        hooks.callback(language.visual.register_forward_pre_hook(pictures, with_kwargs=True).remove)
        hooks.callback(language.language_model.register_forward_pre_hook(passes, with_kwargs=True).remove)
        yield calls

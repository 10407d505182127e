"""A family of sixty lines, after the recipe of CONTRIBUTING.md: "brighter than 200" segments the pixels above that value."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from vrshq.operators.batch import InputError
from vrshq.operators.models.bundle import Bundle, open_bundle
from vrshq.operators.models.families import FamilyInfo, Start
from vrshq.operators.models.family import (
    Candidate,
    Frames,
    Pauses,
    Question,
    ReadConfig,
    Reading,
    Request,
    TrackConfig,
    TrackedObject,
)
from vrshq.operators.models.weights import map_file

INFO = FamilyInfo(name="brightest", module=__name__, architectures=frozenset({"Brightest"}), frames=2)


class Opened:
    """A video, and how many of its frames were looked at."""

    def __init__(self, video: Frames) -> None:
        self.video, self.encoder_calls = video, 0


class Words:
    """Reads the number out of the text."""

    def read(
        self,
        video: Frames,  # noqa: ARG002
        questions: Mapping[int, Question],
        kept: dict[int, Any],  # noqa: ARG002
    ) -> dict[int, Reading | InputError]:
        found = {key: re.search(r"\d+", question.text) for key, question in questions.items()}
        return {
            key: Reading(torch.tensor([[float(number[0])]]), answer="yes")
            if number
            else InputError("expected a number")
            for key, number in found.items()
        }


class Threshold:
    """Compares each pixel's mean with the number, plus the offset that the checkpoint holds."""

    start: Start = "frames"
    pauses = False

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def open(self, video: Frames, *, stays: bool = False) -> Opened:  # noqa: ARG002
        return Opened(video)

    def candidates(self, opened: Opened, requests: Mapping[int, Request]) -> dict[int, list[list[Candidate]]]:
        raise NotImplementedError  # it has no keyframes

    def track(
        self,
        opened: Opened,
        requests: Mapping[int, Request],
        pauses: Pauses | None = None,  # noqa: ARG002
    ) -> Iterator[list[TrackedObject]]:
        for frame in range(opened.video.num_frames):
            grey = torch.from_numpy(opened.video.frames([frame])[0]).float().mean(-1)
            opened.encoder_calls += 1
            logits = {key: grey - request.objects[0][0] - self.offset for key, request in requests.items()}
            yield [TrackedObject(key, 0, frame, one, float(one.max()), frame < 2) for key, one in logits.items()]

    def full_size(self, opened: Opened, low_res: Tensor) -> Tensor:  # noqa: ARG002
        return low_res


def load(bundle: Bundle, part: str, device: str, dtype: torch.dtype) -> nn.Module:
    raise NotImplementedError  # it has no network


def language(config: ReadConfig) -> Words:  # noqa: ARG001
    return Words()


def tracker(config: TrackConfig) -> Threshold:
    return Threshold(float(map_file(open_bundle(config.model).shards[0])["offset"]))

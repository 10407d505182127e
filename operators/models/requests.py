"""From a unit's columns to the requests that a tracker takes, and an instruction's presence from its object scores."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch

from vrshq.operators.batch import Unit, open_instructions
from vrshq.operators.models.family import Request


def requests_of(unit: Unit) -> dict[int, Request]:
    """What a tracker needs to know of each open instruction, by position; with keyframes where they were chosen."""
    found = {}
    for position in open_instructions(unit):
        frames = unit["sampled_frames"][position]
        prompts = [torch.tensor(one) for one in unit["prompts"][position]]
        request = Request(unit["texts"][position], frames, prompts)
        keyframes = value_at(unit, "keyframes", position)
        if keyframes is not None:
            scores = zip(unit["object_scores"][position], keyframes, strict=True)
            request = replace(
                request,
                keyframes=keyframes,
                scores=[row[frames.index(frame)] for row, frame in scores],
                logits=value_at(unit, "keyframe_logits", position),
            )
        found[position] = request
    return found


def value_at(unit: Unit, column: str, position: int) -> Any:
    """The entry of an instruction in a column that may be missing."""
    values = unit.get(column)
    return values[position] if values else None


def presence_of(scores: list[list[float]]) -> float | None:
    """The sigmoid of the highest object logit (over objects and frames), 0 to 1; None where there is no object."""
    highest = max((score for row in scores for score in row), default=None)
    return None if highest is None else 1 / (1 + math.exp(-min(max(highest, -700.0), 700.0)))

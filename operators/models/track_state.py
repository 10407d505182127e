"""A track's state as bytes: safetensors, so that reading it runs no code."""

from __future__ import annotations

import json
from typing import Any, Literal

import torch
from safetensors.torch import load, save

from vrshq.operators.models.family import TrackState

_ABOUT = "about"  # the tensor with the state's JSON


def to_bytes(state: TrackState) -> bytes:
    """The state without its name."""
    text = torch.frombuffer(bytearray(json.dumps(state.about).encode()), dtype=torch.uint8)
    content: bytes = save({**state.tensors, _ABOUT: text})
    return content


def from_bytes(name: Literal["prompts", "sweep"], content: bytes) -> TrackState:
    """What `to_bytes` was given."""
    tensors = load(content)
    about: dict[str, Any] = json.loads(bytes(tensors.pop(_ABOUT).tolist()))
    return TrackState(name, tensors, about)

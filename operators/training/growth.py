"""A language model that grows between two stages of training."""

from __future__ import annotations

import copy
from dataclasses import replace

import torch
from torch import nn

from vrshq.operators.models.llama import Layer
from vrshq.operators.models.vrs_hq.differences import FrameDifferences
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.training.pointing import LAYER


@torch.no_grad()
def deepen(language: ChatUniVi, layers: int) -> None:
    """Inserts layers into the LLaMA before `LAYER`, so that instructions are processed further before [TAK] points.

    A new layer is a copy of `LAYER` whose two output projections are zero. So it changes nothing until it is trained
    (function-preserving growth, Net2Net, arXiv 1511.05641).

    Args:
        language: the language model; its `config` gets the new number of layers.
        layers: number of layers after the growth.

    Raises:
        ValueError: the LLaMA has more layers.
    """
    llama = language.llama
    now = list(llama.layers)
    if layers < len(now):
        raise ValueError(f"language_layers = {layers}: expected at least {len(now)}, as many as the language model has")
    new = [_idle(now[LAYER]) for _ in range(layers - len(now))]
    llama.layers = nn.ModuleList([*now[:LAYER], *new, *now[LAYER:]])
    llama.config = replace(llama.config, num_layers=layers)
    language.config = replace(language.config, language=llama.config)


@torch.no_grad()
def add_differences(language: ChatUniVi) -> None:
    """Adds `FrameDifferences` to a language model without them. Their weights are zero: they change nothing until trained.

    Args:
        language: the language model; its `config` gets `frame_differences`.
    """
    if language.frame_differences is None:
        language.config = replace(language.config, frame_differences=True)
        language.frame_differences = FrameDifferences(language.config).to(language.device, language.dtype)
        language.frame_differences.project.weight.zero_()


def _idle(layer: nn.Module) -> nn.Module:
    """A copy of a layer that adds zero to its input."""
    idle = copy.deepcopy(layer)
    assert isinstance(idle, Layer)
    idle.self_attn.o_proj.weight.zero_()
    idle.mlp.down_proj.weight.zero_()
    return idle

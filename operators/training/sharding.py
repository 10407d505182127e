"""Weights, gradients and the optimiser's state sharded over ranks (FSDP), for models that do not fit one GPU."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from vrshq.operators.training.forward import Losses, TrainingModel


class Sharded(nn.Module):
    """A training model whose weights are sharded over all ranks: each layer of the LLaMA on its own, the rest together.

    It is called like the model. All ranks must call it equally often.
    """

    def __init__(self, model: TrainingModel, world: int) -> None:
        super().__init__()
        self.model = model
        mesh = init_device_mesh(next(model.parameters()).device.type, (world,))
        layers = list(model.language.llama.layers)
        in_layers = {id(parameter) for layer in layers for parameter in layer.parameters()}
        # gathered together with the root, before it is called
        self._of_root = [name for name, parameter in model.named_parameters() if id(parameter) not in in_layers]
        for layer in layers:
            fully_shard(layer, mesh=mesh)
        # the root reshards its weights too: after a call without gradients, gathered weights would become stale
        fully_shard(self, mesh=mesh, reshard_after_forward=True)

    def forward(self, *arguments: Any) -> Losses:
        """As `TrainingModel.forward`."""
        losses: Losses = self.model(*arguments)
        # Ranks may use different parameters, but FSDP exchanges gradients for all parameters of a group or for none.
        untouched = torch.zeros_like(losses["loss"])
        for name in self._of_root:
            parameter = self.model.get_parameter(name)
            if parameter.requires_grad:
                untouched = untouched + 0.0 * parameter.reshape(-1)[0]
        return {**losses, "loss": losses["loss"] + untouched.to(losses["loss"].dtype)}

    def no_sync(self) -> AbstractContextManager[None]:
        """A context in which gradients are not exchanged."""
        return _no_exchange(self)


@contextmanager
def _no_exchange(module: nn.Module) -> Iterator[None]:
    assert isinstance(module, FSDPModule)
    module.set_requires_gradient_sync(False)
    try:
        yield
    finally:
        module.set_requires_gradient_sync(True)

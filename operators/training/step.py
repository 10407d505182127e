"""The training loop: one optimiser step over a rank's share of the samples, and the state for resuming.

Sample k, and all randomness in its forward pass, is a pure function of the seed and k. So the number of the next sample is
the whole state of the sampler and of the random numbers.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils._pytree import tree_map_only

from vrshq.operators.training.clip import Clip
from vrshq.operators.training.config import StageConfig
from vrshq.operators.training.forward import TrainingModel
from vrshq.operators.training.schedule import Average, choose_trained, optimisers, rate_factor


def sample_seed(seed: int, stage: str, number: int) -> int:
    """The seed of everything random about one sample of a stage."""
    digest = hashlib.blake2b(json.dumps([seed, stage, number]).encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


class StageTrainer:
    """Trains one stage in one process, which is one rank of `world`.

    Args:
        model: the model that holds the parameters.
        config: the stage.
        seed: the run's seed.
        rank: number of this process.
        world: number of processes.
        wrapped: the module that is called, e.g. DDP around the model; default: the model itself. It may shard the weights
            (FSDP).
        no_sync: a context in which gradients are not exchanged.

    Raises:
        ValueError: the batch is not a multiple of `world`, or a part of `config.trained` does not exist.
    """

    def __init__(
        self,
        model: TrainingModel,
        config: StageConfig,
        seed: int,
        *,
        rank: int = 0,
        world: int = 1,
        wrapped: nn.Module | None = None,
        no_sync: Callable[[], AbstractContextManager[Any]] = nullcontext,
    ) -> None:
        if config.batch % world:
            raise ValueError(f"stage {config.name}: a batch of {config.batch} is not shared evenly by {world} workers")
        self.model, self.config, self.seed = model, config, seed
        self.rank, self.world = rank, world
        self.wrapped, self.no_sync = wrapped or model, no_sync
        self.trained = choose_trained(model, config.trained) if wrapped is None else _trained(model)
        self.optimisers = optimisers(model, self.trained, config.optimiser)
        self.rates = [float(one.param_groups[0]["lr"]) for one in self.optimisers]
        self.average = Average(self.trained, config.optimiser.average) if config.optimiser.average else None
        self.step = 0

    def sample_numbers(self) -> Iterable[int]:
        """The numbers of the samples of this rank, in order, from the next step on."""
        first, end = self.step * self.config.batch, self.config.steps * self.config.batch
        return range(first + self.rank, end, self.world)

    def run_step(self, clips: Iterable[Clip]) -> dict[str, float]:
        """Runs one optimiser step on the next `batch / world` clips of this rank.

        Returns:
            The means of the losses over the batches of all ranks, `gradient` (the norm before clipping) and `rate`.
        """
        config, share = self.config, self.config.batch // self.world
        first = self.step * config.batch + self.rank
        sums: dict[str, list[float]] = defaultdict(list)
        source = iter(clips)
        for place in range(share):
            clip = next(source)
            last = place == share - 1
            seed = sample_seed(self.seed, config.name, first + place * self.world)
            device = next(self.model.parameters()).device
            with nullcontext() if last else self.no_sync():
                # the backward pass takes the types of the forward pass, without autocast
                with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
                    losses = self.wrapped(clip, seed, config.forward, config.losses)
                (losses["loss"] / share).backward()
            for name, value in losses.items():
                sums[name].append(float(value.detach()))
        norm = nn.utils.clip_grad_norm_(self.trained.values(), config.optimiser.clip)
        factor = rate_factor(self.step, config.steps, config.optimiser)
        for one, rate in zip(self.optimisers, self.rates, strict=True):
            for group in one.param_groups:
                group["lr"] = rate * factor
            one.step()
            one.zero_grad()
        if self.average:
            self.average.update(self.trained, self.step)
        self.step += 1
        means = {name: _mean(values) for name, values in self._of_all_ranks(sums).items()}
        return {**means, "gradient": _number(norm), "rate": config.optimiser.rate * factor}

    def _of_all_ranks(self, values: dict[str, list[float]]) -> dict[str, list[float]]:
        """Gathers the values of all ranks, so that the log does not depend on the number of workers."""
        if self.world == 1:
            return values
        parts: list[dict[str, list[float]]] = [{}] * self.world
        torch.distributed.all_gather_object(parts, dict(values))
        return {name: [value for part in parts for value in part.get(name, [])] for part in parts for name in part}

    def state(self) -> dict[str, Any]:
        """The state for resuming, without frozen weights: tensors, numbers, texts, lists and dicts only.

        Where weights are sharded, all ranks must call this, and each gets the whole state.
        """
        return {
            "step": self.step,
            "sampler": {"seed": self.seed, "next_sample": self.step * self.config.batch},
            "model": {name: whole(parameter.detach()) for name, parameter in self.trained.items()},
            "optimisers": [tree_map_only(Tensor, whole, one.state_dict()) for one in self.optimisers],
            "average": tree_map_only(Tensor, whole, self.average.values) if self.average else None,
            "rng": torch.get_rng_state(),
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Continues from a state that `state` returned.

        Raises:
            ValueError: the state belongs to another seed or batch size.
        """
        if state["sampler"] != {"seed": self.seed, "next_sample": state["step"] * self.config.batch}:
            raise ValueError(
                f"checkpoint of sampler state {state['sampler']}: expected seed {self.seed} and batch {self.config.batch}"
            )
        self.step = state["step"]
        with torch.no_grad():
            for name, parameter in self.trained.items():
                parameter.copy_(shared_like(state["model"][name], parameter))
            if self.average:
                for name, value in self.average.values.items():
                    value.copy_(shared_like(state["average"][name], value))
        for one, saved in zip(self.optimisers, state["optimisers"], strict=True):
            moments = {
                place: {
                    key: shared_like(value, parameter) if value.shape == parameter.shape else value
                    for key, value in saved["state"].get(place, {}).items()
                }
                for place, parameter in enumerate(one.param_groups[0]["params"])
            }
            one.load_state_dict({**saved, "state": moments})
        torch.set_rng_state(state["rng"].cpu())


def whole(value: Tensor) -> Tensor:
    """The tensor; a sharded one is gathered, for which all ranks must call this."""
    return value.full_tensor() if isinstance(value, DTensor) else value


def shared_like(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, sharded like another one."""
    if not isinstance(like, DTensor):
        return value
    return distribute_tensor(value.to(like.device), like.device_mesh, like.placements)


def _trained(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _mean(values: list[float]) -> float:
    """The mean of the values that are not NaN; NaN if there is none."""
    known = [value for value in values if value == value]
    return sum(known) / len(known) if known else float("nan")


def _number(value: Tensor | float) -> float:
    return float(whole(value.detach())) if isinstance(value, Tensor) else float(value)

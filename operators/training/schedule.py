"""Trained parameters and optimisers: trained parts, LoRA, AdamW and Muon, warm-up and decay, the moving average of weights."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrshq.operators.models.lora import LowRank
from vrshq.operators.models.vrs_hq.checkpoint import published_name
from vrshq.operators.training.config import LoraConfig, OptimiserConfig

# The parts that the paper trains, by the beginnings of their names in `TrainingModel`; everything else is frozen.
PAPER_PARTS = (
    "language.llama.embed_tokens",
    "lm_head",
    "language.text_hidden_fcs",
    "segmenter.sam_mask_decoder",
    "lora",
)


def rate_factor(step: int, steps: int, config: OptimiserConfig) -> float:
    """Factor on the learning rate of a step (from 0): (step + 1) / warmup during the warm-up, then falling."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    gone = (step - config.warmup) / max(1, steps - config.warmup)
    left = {"linear": 1 - gone, "cosine": 0.5 * (1 + math.cos(math.pi * gone)), "none": 1.0}[config.decay]
    return config.final + (1 - config.final) * max(0.0, left)


class LoraLinear(nn.Module):
    """A frozen linear layer with a low-rank addition: W x + alpha / r * B A dropout(x). B starts at zero."""

    def __init__(self, base: nn.Linear, config: LoraConfig) -> None:
        super().__init__()
        self.base = base
        self.scale, self.dropout = config.alpha / config.rank, config.dropout
        like: dict[str, Any] = {"device": base.weight.device, "dtype": torch.float32}
        self.lora_a = nn.Parameter(torch.empty(config.rank, base.in_features, **like))
        self.lora_b = nn.Parameter(torch.zeros(base.out_features, config.rank, **like))
        nn.init.kaiming_uniform_(self.lora_a, a=5**0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        added = F.dropout(inputs, self.dropout, self.training).to(self.lora_a.dtype) @ self.lora_a.T @ self.lora_b.T
        result: Tensor = self.base(inputs)
        return result + self.scale * added.to(result.dtype)


def add_lora(llama: nn.Module, config: LoraConfig) -> None:
    """Wraps the target layers of a LLaMA in place; does nothing for rank 0."""
    if config.rank == 0:
        return
    found = [
        (parent, name)
        for parent in llama.modules()
        if not isinstance(parent, LoraLinear)
        for name, child in parent.named_children()
        if isinstance(child, nn.Linear) and name in config.targets
    ]
    for target in config.targets:
        if target not in {name for _, name in found}:
            raise ValueError(
                f"lora.targets: the LLaMA has no linear layer {target}; expected for example q_proj, v_proj"
            )
    for parent, name in found:
        setattr(parent, name, LoraLinear(getattr(parent, name), config))


def lora_layers(llama: nn.Module) -> dict[str, LoraLinear]:
    """The wrapped layers by their names in the LLaMA, e.g. layers.0.self_attn.q_proj."""
    return {name: module for name, module in llama.named_modules() if isinstance(module, LoraLinear)}


def plain_name(name: str) -> str | None:
    """The name that a parameter has without LoRA wrappers; None for a factor of an adapter."""
    if name.endswith((".lora_a", ".lora_b")):
        return None
    return name.replace(".base.weight", ".weight").replace(".base.bias", ".bias")


def merged_state(language: nn.Module, llama: nn.Module) -> dict[str, Tensor]:
    """The MLLM's tensors under the names without LoRA, adapters merged in float32."""
    state = {plain: value for name, value in language.state_dict().items() if (plain := plain_name(name))}
    for name, layer in lora_layers(llama).items():
        low = LowRank(layer.lora_a.detach(), layer.lora_b.detach(), layer.scale)
        state[f"llama.{name}.weight"] = low.added_to(layer.base.weight.detach())
    return state


def adapter_state(llama: nn.Module) -> dict[str, Tensor]:
    """The adapters' factors under peft's names."""
    state = {}
    for name, layer in lora_layers(llama).items():
        module = published_name("language", f"llama.{name}.weight").removesuffix(".weight")
        state[f"base_model.model.{module}.lora_A.weight"] = layer.lora_a.detach()
        state[f"base_model.model.{module}.lora_B.weight"] = layer.lora_b.detach()
    return state


def choose_trained(model: nn.Module, parts: Sequence[str]) -> dict[str, nn.Parameter]:
    """Freezes all parameters but those of `parts`, and returns those by name.

    A part is the beginning of a name, up to a dot; `lora` stands for all adapters.

    Raises:
        ValueError: no parameter belongs to a part; the message names the part.
    """
    trained: dict[str, nn.Parameter] = {}
    used: set[str] = set()
    for name, parameter in model.named_parameters():
        begins = {part for part in parts if name == part or name.startswith(f"{part}.")}
        if name.endswith((".lora_a", ".lora_b")):
            begins = {"lora"} & set(parts)
        used |= begins
        parameter.requires_grad_(bool(begins))
        if begins:
            trained[name] = parameter
    if absent := [part for part in parts if part not in used]:
        heads = sorted({name.partition(".")[0] for name, _ in model.named_parameters()})
        raise ValueError(f"trained: no parameter begins with {absent[0]}; names begin with {', '.join(heads)}")
    return trained


def optimisers(
    model: nn.Module, trained: dict[str, nn.Parameter], config: OptimiserConfig
) -> list[torch.optim.Optimizer]:
    """AdamW and, for `config.muon`, Muon for the trained matrices of linear layers inside the networks.

    Muon orthogonalises a matrix's momentum and scales it to the size of AdamW's updates (arXiv 2502.16982). Embeddings, biases,
    convolutions, the LM head and training-only heads stay with AdamW.
    """
    matrices: list[nn.Parameter] = []
    if config.muon:
        inner = {
            f"{name}.weight"
            for name, module in model.named_modules()
            if isinstance(module, nn.Linear) and not name.startswith(("lm_head", "auxiliary"))
        }
        matrices = [parameter for name, parameter in trained.items() if name in inner]
    chosen = {id(parameter) for parameter in matrices}
    rest = [parameter for parameter in trained.values() if id(parameter) not in chosen]
    found: list[torch.optim.Optimizer] = []
    if rest:
        found.append(
            torch.optim.AdamW(rest, lr=config.rate, betas=config.betas, weight_decay=config.weight_decay, foreach=True)
        )
    if matrices:
        found.append(
            torch.optim.Muon(matrices, lr=config.muon, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw")
        )
    return found


class Average:
    """The exponential moving average of trained parameters: average += (1 - decay) * (value - average).

    The decay of step k (from 0) is min(decay, (1 + k) / (10 + k)), so that the initial weights are soon forgotten.
    """

    def __init__(self, parameters: dict[str, nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.values = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, parameters: dict[str, nn.Parameter], step: int) -> None:
        """Moves the averages towards the parameters after step `step` (from 0)."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(list(self.values.values()), [parameters[name] for name in self.values], 1 - decay)

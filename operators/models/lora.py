"""LoRA adapters in peft's layout, merged into the weights as they load: W + alpha / r * B A. Needs no peft.

An adapter is a folder with `adapter_config.json` and `adapter_model.safetensors` (or `.bin`). Its tensors, or those of a
whole checkpoint that was saved with the adapter still wrapped around it, have peft's names; `unwrapped` gives the names
that the model itself uses.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from vrshq.operators.models.bundle import ADAPTER_CONFIG, CheckpointError

_WRAPPER = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_([AB])(?:\.[^.]+)?\.weight")
# Settings with which an adapter is not W + alpha / r * B A.
_UNSUPPORTED = (
    "use_dora",
    "use_rslora",
    "lora_bias",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "trainable_token_indices",
)


def unwrapped(name: str) -> str:
    """The model's own name of a tensor that peft saved, without `base_model.model.`; other names are unchanged."""
    if not name.startswith(_WRAPPER):
        return name
    return name.removeprefix(_WRAPPER).replace(".base_layer.", ".")


def factor(name: str) -> tuple[str, str] | None:
    """For an unwrapped LoRA tensor, (name of the weight that it changes, "A" or "B"); None for any other tensor."""
    match = _FACTOR.fullmatch(name)
    return (f"{match[1]}.weight", match[2]) if match else None


@dataclass(frozen=True)
class LowRank:
    """The update of one weight (out, in) by an adapter: `scale` * b (out, r) @ a (r, in)."""

    a: Tensor
    b: Tensor
    scale: float

    def added_to(self, weight: Tensor) -> Tensor:
        """The merged weight (out, in), computed in float32; `weight` itself if the adapter is fresh (b = 0)."""
        if not self.b.any():
            return weight
        return torch.addmm(weight.float(), self.b.float(), self.a.float(), alpha=self.scale)


@dataclass(frozen=True)
class AdapterConfig:
    """The settings of `adapter_config.json` that the merge depends on.

    Attributes:
        path: the file.
        rank: r.
        scale: alpha / r.
        target_modules: names of the changed layers; () if peft was given a pattern, or only some of the layers.
    """

    path: Path
    rank: int
    scale: float
    target_modules: tuple[str, ...]

    @classmethod
    def read(cls, folder: Path) -> AdapterConfig:
        """Reads the settings of an adapter's folder.

        Raises:
            CheckpointError: there is no such file, or it is not of LoRA, or of a variant that is not supported.
        """
        path = folder / ADAPTER_CONFIG
        try:
            values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            rank, alpha = int(values["r"]), float(values["lora_alpha"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{path}: expected peft's settings with r and lora_alpha ({error!r})") from error
        if rank < 1 or values.get("peft_type", "LORA") != "LORA" or values.get("bias", "none") != "none":
            given = {key: values.get(key) for key in ("peft_type", "r", "bias")}
            raise CheckpointError(f"{path}: {given}, expected LORA of rank 1 or more without biases")
        for key in _UNSUPPORTED:
            if values.get(key):
                raise CheckpointError(
                    f"{path}: {key} is not supported; merge the adapter with peft, and load the result"
                )
        targets = values.get("target_modules")
        partial = values.get("layers_to_transform") is not None or not isinstance(targets, list)
        return cls(path, rank, alpha / rank, () if partial else tuple(map(str, targets or ())))

    def targets(self, weight: str) -> bool:
        """Whether the adapter must have factors for this weight.

        Only weights of the LLaMA are considered. A bare name such as `q_proj` also fits layers of the other networks, which
        training does not change.
        """
        module = f".{weight.removesuffix('.weight')}"
        return weight.startswith("model.layers.") and any(module.endswith(f".{name}") for name in self.target_modules)


def pair(
    factors: Mapping[str, Mapping[str, Tensor]], weights: Mapping[str, Tensor], config: AdapterConfig
) -> dict[str, LowRank]:
    """Matches the factors of an adapter with the weights that they change.

    Args:
        factors: name of a weight -> {"A": (r, in), "B": (out, r)}.
        weights: the checkpoint without the adapter, by name.

    Raises:
        CheckpointError: a tensor fits no weight, has another rank, or lacks its counterpart; the message names it.
    """
    problems = []
    for name in sorted({*factors, *filter(config.targets, weights)}):
        sides, module = factors.get(name, {}), name.removesuffix(".weight")
        absent = [side for side in "AB" if side not in sides]
        if absent:
            problems += [f"missing adapter tensor {module}.lora_{side}.weight" for side in absent]
        elif name not in weights:
            problems.append(f"adapter tensor {module}.lora_A.weight: the model has no {name}")
        else:
            a, b, shape = sides["A"].shape, sides["B"].shape, tuple(weights[name].shape)
            expected = [(config.rank, shape[-1]), (shape[0], config.rank)] if len(shape) == 2 else None
            if [tuple(a), tuple(b)] != expected:
                problems.append(
                    f"adapter tensors {module}.lora_A.weight and lora_B.weight: shapes {tuple(a)} and {tuple(b)}, expected "
                    f"rank {config.rank} for a weight of {shape}"
                )
    if problems or not factors:
        more = f"; {len(problems)} such problems in all" if len(problems) > 3 else ""
        found = "; ".join(problems[:3]) or "no adapter tensors beside it; expected adapter_model.safetensors or .bin"
        raise CheckpointError(f"{config.path}: {found}{more}")
    return {name: LowRank(sides["A"], sides["B"], config.scale) for name, sides in factors.items()}

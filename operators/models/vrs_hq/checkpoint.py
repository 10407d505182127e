"""A checkpoint of VRS-HQ: its tensors under their published names, with a LoRA adapter merged as they are read."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from vrshq.operators.models.bundle import DESCRIPTION, Bundle, CheckpointError
from vrshq.operators.models.clip_network import Clip
from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.lora import AdapterConfig, LowRank, factor, pair, unwrapped
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.weights import (
    can_be_mapped,
    check_tensors,
    map_file,
    parameters_on_meta,
    release_pages,
    set_tensor,
)

Part = Literal["language", "segmenter", "clip"]


@dataclass(frozen=True)
class Checkpoint:
    """All tensors of a bundle under their published names, mapped into memory. Each can be read once.

    Attributes:
        bundle: the bundle.
        tensors: mapped tensors, by name.
        adapters: updates by a LoRA adapter, by the name of the tensor.
        files: the files that a tensor is made from, its own first, by the name of the tensor.
        mapped: the files whose pages can be released.
    """

    bundle: Bundle
    tensors: dict[str, Tensor] = field(default_factory=dict)
    adapters: dict[str, LowRank] = field(default_factory=dict)
    files: dict[str, list[Path]] = field(default_factory=dict)
    mapped: set[Path] = field(default_factory=set)

    def check(self, model: ModelConfig, part: Part | None = None) -> None:
        """Compares names and shapes of all parts with the model. Reads nothing.

        Args:
            model: the sizes that are expected.
            part: the part that is loaded. It alone is compared where only some files of the weights were fetched.

        Raises:
            CheckpointError: tensors are missing, unexpected or of another shape; the message counts them and names the first.
        """
        hint = ""
        if not (self.bundle.folder / DESCRIPTION).exists():
            hint = (
                "; without a bundle.json beside it, a checkpoint has the published full sizes, but for the language model's, "
                "which are those of its config.json"
            )
        whole = part is None or len(self.bundle.fetched) == len(self.bundle.shards)
        given = {
            name: tensor
            for name, tensor in self.tensors.items()
            if unused(name) is None and (whole or _part(name) == part)
        }
        expected = {name: shape for name, shape in layout(model).items() if whole or _part(name) == part}
        check_tensors(self.bundle.folder, given, expected, hint)

    def files_of(self, part: Part) -> list[Path]:
        """The files that one part of the model is read from."""
        return sorted({file for name in self.tensors if _part(name) == part for file in self.files[name]})

    def read(self, name: str, device: str = "cpu", dtype: torch.dtype | None = None) -> Tensor:
        """A copy of one tensor with its adapter merged. A floating-point tensor has `dtype` (default: as stored)."""
        stored = self.tensors.pop(name)
        adapter = self.adapters.get(name)
        value = (adapter.added_to(stored) if adapter else stored).to(
            device=device,
            dtype=dtype if dtype and stored.is_floating_point() else stored.dtype,
            copy=True,
            memory_format=torch.contiguous_format,
        )
        if self.files[name][0] in self.mapped:
            release_pages(stored)
        return value


def open_checkpoint(bundle: Bundle) -> Checkpoint:
    """Maps a bundle's files and matches its adapter, if any, with the weights.

    Raises:
        CheckpointError: a file that is truncated or holds anything but tensors, a name that occurs twice, an adapter whose
        tensors fit no weight.
    """
    checkpoint = Checkpoint(bundle)
    factors: dict[str, dict[str, Tensor]] = {}
    factor_files: dict[str, set[Path]] = {}
    adapter_weights = bundle.adapter_weights()
    for file in (*bundle.fetched, *([adapter_weights] if adapter_weights else [])):
        prefix = "clip." if file.parent == bundle.clip else ""
        if can_be_mapped(file):
            checkpoint.mapped.add(file)
        for saved_name, tensor in map_file(file).items():
            name = prefix + unwrapped(saved_name)
            if found := factor(name):
                weight, side = found
                twice = side in factors.setdefault(weight, {})
                factors[weight][side] = tensor
                factor_files.setdefault(weight, set()).add(file)
            elif file == adapter_weights:
                raise CheckpointError(
                    f"{file}: unknown adapter tensor {saved_name}; expected names like *.lora_A.weight"
                )
            else:
                twice = name in checkpoint.tensors
                checkpoint.tensors[name], checkpoint.files[name] = tensor, [file]
            if twice:
                raise CheckpointError(f"{file}: unexpected tensor {saved_name}, which another file has too")
    if factors or bundle.adapter:
        if bundle.adapter is None:
            raise CheckpointError(
                f"{bundle.folder}: it has LoRA tensors (of {min(factors)}) but no adapter_config.json with r and lora_alpha; "
                "put the one it was trained with beside it (published recipe: r 8, lora_alpha 16)"
            )
        checkpoint.adapters.update(pair(factors, checkpoint.tensors, AdapterConfig.read(bundle.adapter)))
        for weight, files in factor_files.items():
            checkpoint.files[weight] += sorted(files)
    return checkpoint


DERIVED = {
    "rotary_emb.inv_freq": "computed from the rotary base",
    "embeddings.position_ids": "counts from 0",
}
LM_HEAD = "lm_head.weight"
# Published prefix, the part of the model, the same prefix inside it.
_PLACES: tuple[tuple[str, Part, str], ...] = (
    ("model.visual_model.", "segmenter", ""),
    ("model.vision_tower.vision_tower.vision_model.", "language", "vision_tower."),
    ("model.mm_projector.", "language", "mm_projector."),
    ("model.frame_differences.", "language", "frame_differences."),
    ("model.text_hidden_fcs.0.", "language", "text_hidden_fcs."),
    ("model.embed_tokens.", "language", "llama.embed_tokens."),
    ("model.layers.", "language", "llama.layers."),
    ("model.norm.", "language", "llama.norm."),
    ("clip.", "clip", ""),
)


def unused(name: str) -> str | None:
    """Why a checkpoint tensor is not used; None for one that is."""
    if name == LM_HEAD:
        return "the answer is teacher-forced, so no token is predicted"
    return next((reason for suffix, reason in DERIVED.items() if name.endswith(suffix)), None)


def split_name(name: str) -> tuple[Part, str] | str:
    """The part of a checkpoint tensor and its name inside the part, or the reason why it is not used.

    Raises:
        CheckpointError: a name that no part of the model has.
    """
    if reason := unused(name):
        return reason
    for prefix, part, inside in _PLACES:
        if name.startswith(prefix):
            return part, inside + name.removeprefix(prefix)
    raise CheckpointError(f"unexpected tensor {name}: no part of the model has it")


def published_name(part: Part, inside: str) -> str:
    """The inverse of `split_name`: the name in a checkpoint of the parameter `inside` a part of the model."""
    for prefix, owner, start in _PLACES:
        if owner == part and inside.startswith(start):
            return prefix + inside.removeprefix(start)
    raise ValueError(f"the {part} part publishes no {inside}")


def _part(name: str) -> Part | None:
    target = split_name(name)
    return None if isinstance(target, str) else target[0]


@functools.lru_cache(maxsize=4)
def layout(model: ModelConfig) -> Mapping[str, tuple[int, ...]]:
    """All tensors of a checkpoint of these sizes: published name -> shape. Takes about 2 s for the full-size model."""
    with parameters_on_meta():
        networks: dict[Part, nn.Module] = {
            "language": ChatUniVi(model),
            "segmenter": Segmenter(model.sam2),
            "clip": Clip(model.clip),
        }
    return {
        published_name(part, inside): tuple(tensor.shape)
        for part, network in networks.items()
        for inside, tensor in network.state_dict().items()
    }


def fill(network: nn.Module, part: Part, checkpoint: Checkpoint, device: str, dtype: torch.dtype) -> None:
    """Reads the tensors of a checked checkpoint into the parameters and buffers of one part of the model."""
    for name in list(checkpoint.tensors):
        target = split_name(name)
        if isinstance(target, str) or target[0] != part:
            continue
        set_tensor(network, target[1], checkpoint.read(name, device, dtype))

"""The published layout of Sa2VA on Qwen3-VL: its `config.json`, the places of its tensors, and strict loading."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn

from vrshq.operators.models.bundle import CheckpointError, find_shards, read_json
from vrshq.operators.models.sa2va.config import Sa2vaConfig, Sa2vaSam2Config
from vrshq.operators.models.sa2va.network import Sa2vaLanguage
from vrshq.operators.models.sa2va.tracker import sa2va_segmenter
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.weights import check_tensors, map_file, parameters_on_meta, release_pages, set_tensor

Part = Literal["language", "segmenter"]
Network = TypeVar("Network", bound=nn.Module)

ARCHITECTURE = "Sa2VAChatModelQwen"
_SEGMENTER = "grounding_encoder.sam2_model."
# The layer scales of the memory fuser have another name than in SAM2's own code.
_SCALES = ("memory_encoder.fuser.layers.", ".g_weight", ".gamma")


def read_config(folder: Path, changes: Mapping[str, Any] | None = None) -> Sa2vaConfig:
    """The configuration in a folder's `config.json`. Code that lies beside it is not run.

    Args:
        folder: of the checkpoint.
        changes: attributes of `Sa2vaConfig` that the file does not have, as plain values; `sam2` is a mapping.

    Raises:
        CheckpointError: the file cannot be read, or is of another model.
    """
    path = folder / "config.json"
    values = read_json(path)
    if ARCHITECTURE not in (values.get("architectures") or ()):
        raise CheckpointError(f"{path}: architectures {values.get('architectures')}, expected {ARCHITECTURE}")
    try:
        given = dict(changes or {})
        if "sam2" in given:
            sizes: dict[str, Any] = {
                name: tuple(value) if isinstance(value, list) else value for name, value in given["sam2"].items()
            }
            given["sam2"] = Sa2vaSam2Config(**sizes)
        return Sa2vaConfig(
            language=values["text_config"],
            vision=values["vision_config"],
            image_token_id=int(values["image_token_id"]),
            **given,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(f"{path}: {type(error).__name__}: {error}; expected that of Sa2VA on Qwen3-VL") from error


def place_of(name: str) -> tuple[Part, str]:
    """The part of the model that a published tensor belongs to, and its name inside the part."""
    if not name.startswith(_SEGMENTER):
        return "language", name
    inside = name.removeprefix(_SEGMENTER)
    start, published, own = _SCALES
    if inside.startswith(start) and inside.endswith(published):
        inside = inside.removesuffix(published) + own
    return "segmenter", inside


def published_name(part: Part, inside: str) -> str:
    """The inverse of `place_of`."""
    if part == "language":
        return inside
    start, published, own = _SCALES
    if inside.startswith(start) and inside.endswith(own):
        inside = inside.removesuffix(own) + published
    return _SEGMENTER + inside


_BUILDERS: dict[Part, Callable[[Sa2vaConfig], nn.Module]] = {
    "language": Sa2vaLanguage,
    "segmenter": lambda config: sa2va_segmenter(config.sam2),
}


def layout(config: Sa2vaConfig) -> Mapping[str, tuple[int, ...]]:
    """All tensors of a checkpoint of these sizes: published name -> shape. Takes no memory for weights."""
    with parameters_on_meta():
        networks = {part: build(config) for part, build in _BUILDERS.items()}
    return {
        published_name(part, inside): tuple(tensor.shape)
        for part, network in networks.items()
        for inside, tensor in network.state_dict().items()
    }


def load_language(folder: Path, config: Sa2vaConfig, device: str, dtype: torch.dtype) -> Sa2vaLanguage:
    """The language side, in evaluation mode.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the message counts them and names the first.
    """
    return _load(folder, config, "language", Sa2vaLanguage, device, dtype)


def load_segmenter(folder: Path, config: Sa2vaConfig, device: str) -> Segmenter:
    """SAM2, in evaluation mode, with float32 weights. Raises CheckpointError as `load_language` does."""
    return _load(folder, config, "segmenter", lambda own: sa2va_segmenter(own.sam2), device, torch.float32)


def _load(
    folder: Path,
    config: Sa2vaConfig,
    part: Part,
    build: Callable[[Sa2vaConfig], Network],
    device: str,
    dtype: torch.dtype,
) -> Network:
    tensors, whole = _tensors(folder)
    expected = layout(config)
    if not whole:  # only some files were fetched, those of this part among them
        tensors = {name: tensor for name, tensor in tensors.items() if place_of(name)[0] == part}
        expected = {name: shape for name, shape in expected.items() if place_of(name)[0] == part}
    check_tensors(folder, tensors, expected)
    with parameters_on_meta():
        network = build(config)
    for name in list(tensors):
        owner, inside = place_of(name)
        stored = tensors.pop(name)
        if owner != part:
            continue
        set_tensor(network, inside, stored.to(device=device, dtype=dtype, copy=True))
        release_pages(stored)
    return network.to(device).eval()


def _tensors(folder: Path) -> tuple[dict[str, Tensor], bool]:
    """All tensors of a folder's shards, mapped into memory, and whether all shards lie here."""
    found: dict[str, Tensor] = {}
    shards = find_shards(folder)  # raises for one that is absent, unless its source states it
    here = [file for file in shards if file.exists()]
    for file in here:
        for name, tensor in map_file(file).items():
            if name in found:
                raise CheckpointError(f"{file}: unexpected tensor {name}, which another file has too")
            found[name] = tensor
    return found, len(here) == len(shards)

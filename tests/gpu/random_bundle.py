"""A VRS-HQ model of any sizes with random weights, written in seconds: its masks mean nothing, its speed and memory do."""

from __future__ import annotations

import json
import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vrshq.operators.models.bundle import DESCRIPTION, FORMAT
from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.vrs_hq.checkpoint import layout, published_name
from vrshq.operators.models.vrs_hq.load import _spread_untrained_outputs

SHARD_BYTES = 2 << 30
_DRAWN = 1 << 20  # numbers that are drawn; larger tensors repeat them


def write_random_bundle(folder: Path, sizes: ModelConfig, dtype: torch.dtype) -> None:
    """Writes `bundle.json` and shards of safetensors into a folder that holds the tokenizers.

    Matrices are drawn with a deviation of 1 / sqrt(inputs), vectors are 1 (norms) or 0. SAM2 has the weights of an untrained
    one whose masks vary.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(_DRAWN, generator=generator).to(dtype)
    own = {published_name("segmenter", name): value for name, value in _segmenter(sizes).items()}
    shard: dict[str, Tensor] = {}
    files: list[str] = []
    for name, shape in layout(sizes).items():
        shard[name] = own[name].to(dtype) if name in own else _weight(name, shape, drawn)
        if sum(value.nbytes for value in shard.values()) > SHARD_BYTES:
            _write(folder, shard, files)
    _write(folder, shard, files)
    description = {"format": FORMAT, "name": "random", "model": sizes.to_dict(), "weights": files}
    (folder / DESCRIPTION).write_text(json.dumps(description))


def _segmenter(sizes: ModelConfig) -> dict[str, Tensor]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Segmenter(sizes.sam2)
        _spread_untrained_outputs(network)
    return dict(network.state_dict())


def _weight(name: str, shape: tuple[int, ...], drawn: Tensor) -> Tensor:
    count = math.prod(shape)
    if len(shape) < 2:
        return torch.full(shape, 1.0 if name.endswith("weight") else 0.0, dtype=drawn.dtype)
    repeated = drawn.repeat(-(-count // len(drawn)))[:count].view(shape)
    return repeated / math.sqrt(math.prod(shape[1:]))


def _write(folder: Path, shard: dict[str, Tensor], files: list[str]) -> None:
    if shard:
        files.append(f"model-{len(files)}.safetensors")
        save_file({name: value.contiguous() for name, value in shard.items()}, folder / files[-1])
        shard.clear()

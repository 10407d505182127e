"""The published layout of SAM 3: `config.json`, the names of the tensors, strict loading, tokenizer and image processing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from torch import Tensor
from transformers import CLIPTokenizer, Sam2VideoVideoProcessor, Sam3ImageProcessor, Sam3VideoConfig, Sam3VideoProcessor

from vrshq.operators.models.bundle import Bundle, CheckpointError, read_json
from vrshq.operators.models.sam3.network import Sam3Network
from vrshq.operators.models.weights import check_tensors, map_file, parameters_on_meta, set_tensor

ARCHITECTURE = "Sam3VideoModel"
MAX_TOKENS = 32  # transformers pads every phrase to this number of tokens
# transformers 5 writes the tracker's tensors with its name twice when it saves a model that it did not load.
_DOUBLED = "tracker_model.tracker_model."


def read_config(folder: Path) -> Sam3VideoConfig:
    """The configuration in a folder's `config.json`.

    Raises:
        CheckpointError: the file cannot be read, or is of another model.
    """
    path = folder / "config.json"
    values = read_json(path)
    if ARCHITECTURE not in (values.get("architectures") or ()):
        raise CheckpointError(f"{path}: architectures {values.get('architectures')}, expected {ARCHITECTURE}")
    try:
        config = Sam3VideoConfig.from_dict(_without_implementations(values), attn_implementation="sdpa")
        positions = config.detector_config.text_config.max_position_embeddings
    except (StrictDataclassError, KeyError, TypeError, ValueError, AttributeError) as error:
        text = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{path}: {type(error).__name__}: {text}; expected that of SAM 3 for video") from error
    if positions < MAX_TOKENS:
        raise CheckpointError(f"{path}: max_position_embeddings {positions}, expected at least {MAX_TOKENS}")
    return config


def _without_implementations(values: Any) -> Any:
    """The values without a choice of attention's implementation: some names stand for code that is fetched from the hub."""
    if not isinstance(values, dict):
        return values
    return {key: _without_implementations(value) for key, value in values.items() if "attn_implementation" not in key}


def own_name(name: str) -> str:
    """The model's own name of a stored tensor."""
    return "tracker_model." + name.removeprefix(_DOUBLED) if name.startswith(_DOUBLED) else name


def layout(config: Sam3VideoConfig) -> dict[str, tuple[int, ...]]:
    """All tensors of a checkpoint of these sizes: name -> shape. Takes no memory for weights."""
    with parameters_on_meta():
        model = Sam3Network(config).model
    return {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def load_network(bundle: Bundle, device: str, dtype: torch.dtype) -> Sam3Network:
    """The detector and the tracker, in evaluation mode.

    Raises:
        CheckpointError: a tensor is missing, unexpected or of another shape; the message counts them and names the first.
    """
    config = read_config(bundle.folder)
    bundle.verify(bundle.shards)
    stored = _tensors(bundle)
    with parameters_on_meta():
        network = Sam3Network(config)
    expected = {name: tuple(tensor.shape) for name, tensor in network.model.state_dict().items()}
    check_tensors(bundle.folder, stored, expected)
    for name in list(stored):
        # the mapped pages are free once nothing refers to them
        set_tensor(network.model, name, stored.pop(name).to(device=device, dtype=dtype, copy=True))
    return network.to(device).eval()


def _tensors(bundle: Bundle) -> dict[str, Tensor]:
    """All tensors of a folder's shards under the model's own names, mapped into memory."""
    found: dict[str, Tensor] = {}
    for file in bundle.shards:
        for name, tensor in map_file(file).items():
            if own_name(name) in found:
                raise CheckpointError(f"{file}: unexpected tensor {name}, which is there twice")
            found[own_name(name)] = tensor
    return found


def read_tokenizer(bundle: Bundle) -> CLIPTokenizer:
    """The byte-pair tokenizer of SAM 3's text encoder, from the bundle's folder. Raises CheckpointError."""
    folder = bundle.folder
    if not any((folder / name).exists() for name in ("vocab.json", "tokenizer.json")):
        raise CheckpointError(f"{folder}: no vocab.json or tokenizer.json; expected the tokenizer files of SAM 3")
    names = ("vocab.json", "merges.txt", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
    bundle.verify([folder / name for name in names if (folder / name).exists()])
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


def make_processor(bundle: Bundle, image_size: int) -> Sam3VideoProcessor:
    """The library's processor with the published image processing: a square, and channels from -1 to 1.

    Args:
        bundle: for the tokenizer.
        image_size: edge of the square, in pixels.

    Raises:
        CheckpointError: there is no tokenizer.
    """
    values: dict[str, Any] = {
        "size": {"height": image_size, "width": image_size},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }
    return Sam3VideoProcessor(Sam3ImageProcessor(**values), Sam2VideoVideoProcessor(**values), read_tokenizer(bundle))

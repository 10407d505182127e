"""Loading of checkpoint files into networks, without running pickled code and with one copy of the weights at the peak.

Files are mapped into memory. The names and shapes of all parts are compared with the model before any tensor is read. Networks
are built without memory and filled tensor by tensor, and the pages of a file are released as soon as they have been read.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import json
import mmap
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPModel

from vrshq.operators.models.bundle import DESCRIPTION, Bundle, CheckpointError
from vrshq.operators.models.clip import clip_config
from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.lora import AdapterConfig, LowRank, factor, pair, unwrapped
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.vrs_hq.network import ChatUniVi

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

    def check(self, model: ModelConfig) -> None:
        """Compares names and shapes of all parts with the model. Reads nothing.

        Raises:
            CheckpointError: tensors are missing, unexpected or of another shape; the message counts them and names the first.
        """
        expected = layout(model)
        given = {name for name in self.tensors if unused(name) is None}
        missing = sorted(expected.keys() - given)
        unexpected = sorted(given - expected.keys())
        unfit = [name for name in sorted(given & expected.keys()) if not _fits(self.tensors[name], expected[name])]
        problems = [f"missing tensor {name}" for name in missing[:3]]
        problems += [f"unexpected tensor {name}" for name in unexpected[:3]]
        for name in unfit[:3]:
            tensor = self.tensors[name]
            kind = "" if tensor.is_floating_point() else f" of {tensor.dtype}"
            problems.append(f"{name}: shape {tuple(tensor.shape)}{kind}, expected {expected[name]}")
        if problems:
            total = f"{len(missing)} missing, {len(unexpected)} unexpected, {len(unfit)} of another shape"
            hint = ""
            if not (self.bundle.folder / DESCRIPTION).exists():
                hint = "; without a bundle.json beside it, a checkpoint is taken for the published full-size model"
            raise CheckpointError(f"{self.bundle.folder}: {'; '.join(problems)} (in all: {total}{hint})")

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
            _release_pages(stored)
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
    for file in (*bundle.shards, *([adapter_weights] if adapter_weights else [])):
        prefix = "clip." if file.parent == bundle.clip else ""
        if _can_be_mapped(file):
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


def map_file(file: Path) -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, mapped into memory: pages are read at their first access.

    Files from before torch 1.6 cannot be mapped and are read whole.

    Raises:
        CheckpointError: a file that is truncated, or holds anything but tensors.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        # weights_only: a pickle that names any other code is refused
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=_can_be_mapped(file))
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise CheckpointError(f"{file}: refused, because it holds more than a dict of tensors")
        return {str(name): value for name, value in state.items()}
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file}: refused, because it holds more than tensors or is damaged") from error
    except CheckpointError:
        raise
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file}: not a readable checkpoint shard ({_one_line(error)})") from error


def _can_be_mapped(file: Path) -> bool:
    return file.suffix == ".safetensors" or zipfile.is_zipfile(file)


def _release_pages(tensor: Tensor) -> None:
    """Releases the pages of a mapped tensor, because torch keeps a file mapped as long as one of its tensors exists.

    On a system without `madvise`, pages stay until the file is closed or memory is short.
    """
    advice = getattr(mmap, "MADV_DONTNEED", None)
    begin = -(-tensor.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    end = (tensor.data_ptr() + tensor.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE
    if advice is not None and begin < end:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _fits(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    return tuple(tensor.shape) == shape and tensor.is_floating_point()


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
            "clip": CLIPModel(clip_config(model.clip)),
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
        owner, _, leaf = target[1].rpartition(".")
        module = network.get_submodule(owner)
        value = checkpoint.read(name, device, dtype)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
        else:
            module._buffers[leaf] = value


SAFETENSORS_TYPES = {torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}


def write_safetensors(
    file: Path, contents: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], read: Callable[[str], Tensor]
) -> str:
    """Writes a safetensors file one tensor at a time. The library's own writer needs all of them in memory.

    Args:
        file: the file to write.
        contents: name -> type and shape of each tensor.
        read: returns the tensor of a name, on the CPU.

    Returns:
        The file's sha256. The same contents give the same bytes.
    """
    # Wider types first, as the library does: every tensor then begins at a multiple of its own width.
    names = sorted(contents, key=lambda name: (-contents[name][0].itemsize, name))
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    begin = 0
    for name in names:
        dtype, shape = contents[name]
        end = begin + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {"dtype": SAFETENSORS_TYPES[dtype], "shape": list(shape), "data_offsets": [begin, end]}
        begin = end
    encoded = json.dumps(header, separators=(",", ":")).encode()
    encoded += b" " * (-len(encoded) % 8)
    digest = hashlib.sha256()
    with file.open("wb") as out:

        def write(data: bytes | memoryview) -> None:
            out.write(data)
            digest.update(data)

        write(len(encoded).to_bytes(8, "little"))
        write(encoded)
        for name in names:
            tensor = read(name)
            assert (tensor.dtype, tuple(tensor.shape)) == contents[name], name
            write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
            del tensor  # before the next one is read
    return digest.hexdigest()


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """A context in which networks are built without memory for parameters; computed buffers (rotary tables) are real."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(self, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]

"""Files of tensors: read without running pickled code and with one copy at the peak, compared with a model, and written.

Files are mapped into memory. Names and shapes are compared before any tensor is read. Networks are built without memory and
filled tensor by tensor, and the pages of a file are released as soon as they have been read.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import pickle
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from vrshq.operators.models.bundle import CheckpointError


def map_file(file: Path, inside: str = "") -> dict[str, Tensor]:
    """The tensors of a checkpoint file by name, mapped into memory: pages are read at their first access.

    Files from before torch 1.6 cannot be mapped and are read whole. `inside` is the key of a file of torch under which its
    tensors lie, if it has that key.

    Raises:
        CheckpointError: a file that is truncated, or holds anything but tensors.
    """
    try:
        if file.suffix == ".safetensors":
            with safe_open(file, framework="pt") as opened:
                return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
        # weights_only: a pickle that names any other code is refused
        state = torch.load(file, map_location="cpu", weights_only=True, mmap=can_be_mapped(file))
        if inside and isinstance(state, dict) and isinstance(state.get(inside), dict):
            state = state[inside]
        if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
            raise CheckpointError(f"{file}: refused, because it holds more than a dict of tensors")
        return {str(name): value for name, value in state.items()}
    except pickle.UnpicklingError as error:
        raise CheckpointError(f"{file}: refused, because it holds more than tensors or is damaged") from error
    except CheckpointError:
        raise
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
        raise CheckpointError(f"{file}: not a readable checkpoint shard ({_one_line(error)})") from error


def can_be_mapped(file: Path) -> bool:
    """Whether a file can be read page by page."""
    return file.suffix == ".safetensors" or zipfile.is_zipfile(file)


def release_pages(tensor: Tensor) -> None:
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


def check_tensors(
    folder: Path, given: Mapping[str, Tensor], expected: Mapping[str, tuple[int, ...]], hint: str = ""
) -> None:
    """Compares the tensors of a checkpoint with those that a model expects. Reads nothing.

    Args:
        folder: of the checkpoint, for the message.
        given: mapped tensors, by name.
        expected: shapes, by name.
        hint: what to add to the message.

    Raises:
        CheckpointError: tensors are missing, unexpected or of another shape; the message counts them and names the first.
    """
    missing = sorted(expected.keys() - given.keys())
    unexpected = sorted(given.keys() - expected.keys())
    unfit = [name for name in sorted(given.keys() & expected.keys()) if not _fits(given[name], expected[name])]
    problems = [f"missing tensor {name}" for name in missing[:3]]
    problems += [f"unexpected tensor {name}" for name in unexpected[:3]]
    for name in unfit[:3]:
        kind = "" if given[name].is_floating_point() else f" of {given[name].dtype}"
        problems.append(f"{name}: shape {tuple(given[name].shape)}{kind}, expected {expected[name]}")
    if problems:
        total = f"{len(missing)} missing, {len(unexpected)} unexpected, {len(unfit)} of another shape"
        raise CheckpointError(f"{folder}: {'; '.join(problems)} (in all: {total}{hint})")


def _fits(tensor: Tensor, shape: tuple[int, ...]) -> bool:
    return tuple(tensor.shape) == shape and tensor.is_floating_point()


def set_tensor(network: nn.Module, name: str, value: Tensor) -> None:
    """Puts a tensor in the place of a parameter or buffer of a network that was built without memory."""
    owner, _, leaf = name.rpartition(".")
    module = network.get_submodule(owner)
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


class _NothingDrawn(TorchFunctionMode):
    """Leaves out the drawing of initial values. On meta tensors it draws nothing, but loads torch's compiler to do so."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if getattr(func, "__module__", "") == nn.init.__name__:
            return args[0] if args else (kwargs or {})["tensor"]
        return func(*args, **(kwargs or {}))


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
        with _NothingDrawn():
            yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]

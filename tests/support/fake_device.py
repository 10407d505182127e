"""Networks at their true sizes on PyTorch's fake CUDA device: nothing is computed, and a tensor left on the CPU is an error.

A fake tensor has a shape, a type and a device, but no values. `Values` gives the values that a program reads on the host: those
of small integer tensors that come from numbers of the program (token ids, positions, grids) are carried along; any other
number that is read is 0 of its type, so the choices of an untrained network are arbitrary and its shapes are true.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar
from unittest import mock

import torch
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map
from torch.utils.weak import WeakTensorKeyDictionary

from tests.benchmarks.count_kernels import fake_gpu
from vrshq.operators.models.weights import parameters_on_meta

Network = TypeVar("Network", bound=nn.Module)

CARRIED = 1 << 16  # values in a tensor whose values are carried along, at most
TYPES = (torch.float32, torch.bfloat16)
TWO_DEVICES = r"two( different)? devices"  # what PyTorch says of tensors that do not lie together
_READS = {"item", "_local_scalar_dense", "is_nonzero"}


class WrongDevice(RuntimeError):  # noqa: N818 - reads as the sentence that it is
    """Tensors of an operator lie on several devices, or have several types where one is needed."""


class Values(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Carries the values of small integer tensors beside the fake ones. To be entered inside a `FakeTensorMode`."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.known: Any = WeakTensorKeyDictionary()
        self.on_host = 0  # numbers that the host read from the device

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name == "scaled_dot_product_attention":
            return _attention(*args, **kwargs)
        if name == "to":  # a fake tensor would copy its constant to a real GPU
            with self:
                return func.decompose(*args, **kwargs)
        if name in _READS:
            self.on_host += args[0].device.type == "cuda"
            known = self._of(args[0])
            return _really(func, known) if known is not None else 0
        if name == "equal":  # as far as is known, tensors differ
            if args[0].device != args[1].device:
                raise WrongDevice(f"equal: tensors on {args[0].device} and {args[1].device}")
            self.on_host += args[0].device.type == "cuda"
            return False
        if name == "nonzero":
            return self._nonzero(args[0])
        if name == "repeat_interleave" and len(args) > 1 and isinstance(args[1], Tensor):
            return self._repeated(*args, **kwargs)
        if name.startswith("index") and len(args) > 1 and isinstance(args[1], list):
            args = (args[0], self._places(args[1]), *args[2:])
        known = self._result(func, args, kwargs)
        result = func(*args, **kwargs)
        if known is not None:
            pairs = zip(tree_leaves(result), tree_leaves(known), strict=True)
            self.known.update({one: value for one, value in pairs if isinstance(value, Tensor)})
        elif func._schema.is_mutable and isinstance(result, Tensor):
            self.known.pop(result, None)
        return result

    def _of(self, tensor: Tensor) -> Tensor | None:
        found: Tensor | None = self.known.get(tensor)
        return found

    def _places(self, indices: list[Tensor | None]) -> list[Tensor | None]:
        """Indices with the places of what is true instead of masks, as a GPU's kernels take them."""
        places: list[Tensor | None] = []
        for index in indices:
            mask = index is not None and index.dtype == torch.bool
            places += self._nonzero(index).unbind(1) if mask and index is not None else [index]
        return places

    def _nonzero(self, tensor: Tensor) -> Tensor:
        """The places of what is true. The host reads their number, as on a GPU."""
        self.on_host += tensor.device.type == "cuda"
        known = self._of(tensor)
        places = None if known is None else _really(torch.nonzero, known)
        result = tensor.new_empty((0 if places is None else len(places), tensor.dim()), dtype=torch.int64)
        if places is not None:
            self.known[result] = places
        return result

    def _repeated(self, tensor: Tensor, repeats: Tensor, dim: int = 0, **_: Any) -> Tensor:
        """Rows, each repeated so often as a known tensor says. The host reads the sum, as on a GPU."""
        if tensor.device != repeats.device:
            raise WrongDevice(f"repeat_interleave: tensors on {tensor.device} and {repeats.device}")
        self.on_host += tensor.device.type == "cuda"
        known = self._of(repeats)
        assert known is not None
        shape = list(tensor.shape)
        shape[dim] = _really(lambda: int(known.sum()))
        result = tensor.new_empty(shape)
        if (rows := self._of(tensor)) is not None:
            self.known[result] = _really(torch.repeat_interleave, rows, known, dim)
        return result

    def _result(self, func: Any, args: Any, kwargs: Any) -> Any:
        """What the operator gives for the known values of its inputs; None where they are unknown, large or no integers."""
        inputs = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
        values = [item if type(item) is Tensor else self._of(item) for item in inputs]
        if any(value is None or value.nelement() > CARRIED or value.is_floating_point() for value in values):
            return None
        if not inputs and func.overloadpacket.__name__ not in ("arange", "zeros", "ones", "full", "scalar_tensor"):
            return None
        by_input = {id(item): value for item, value in zip(inputs, values, strict=True)}
        real_args, real_kwargs = tree_map(lambda item: by_input.get(id(item), item), (args, kwargs))
        if real_kwargs.get("device") is not None:
            real_kwargs = {**real_kwargs, "device": torch.device("cpu")}
        return _really(func, *real_args, **real_kwargs)


def _really(func: Any, *args: Any, **kwargs: Any) -> Any:
    with _disable_current_modes():
        return func(*args, **kwargs)


def _attention(query: Tensor, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    """The shape of an attention's output, with heads inside as the fused kernels write it."""
    mask = kwargs.get("attn_mask", args[0] if args else None)
    tensors = [query, key, value] if mask is None else [query, key, value, mask]
    if len({one.device for one in tensors}) > 1:
        raise WrongDevice(f"attention: tensors on {[str(one.device) for one in tensors]}")
    if len({one.dtype for one in (query, key, value)}) > 1:
        raise WrongDevice(f"attention: types {[one.dtype for one in (query, key, value)]}")
    batch, heads, length, _ = query.shape
    return query.new_empty(batch, length, heads, value.shape[-1]).transpose(1, 2)


@contextmanager
def fake_device() -> Iterator[tuple[FakeTensorMode, Values]]:
    """A context in which tensors are fake and "cuda" is a device of this machine."""
    with fake_gpu() as mode, Values() as values:
        yield mode, values


def on_fake_device(build: Callable[[], Network], mode: FakeTensorMode, dtype: torch.dtype = torch.float32) -> Network:
    """A network as its loader leaves it: weights set on the device in `dtype`, then `.to(device)` for all else.

    Tensors that no module registered stay on the CPU, as in a real network.
    """
    with _disable_current_modes(), parameters_on_meta():
        network = build().eval()
    for module in network.modules():
        for name, value in module._parameters.items():
            if value is not None:
                fake = torch.empty(value.shape, dtype=dtype, device="cuda")
                module._parameters[name] = nn.Parameter(fake, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                real = torch.empty_like(buffer, device="cpu") if buffer.is_meta else mode.from_tensor(buffer)
                module._buffers[name] = real
        if isinstance(module, RoPEAttention):
            module.freqs_cis = mode.from_tensor(module.freqs_cis)
    with mock.patch("torch.utils.swap_tensors"):  # the weights are there already, and fake tensors cannot be swapped
        return network.to("cuda")


def there(value: Any, *shape: int, dtype: torch.dtype) -> None:
    """Asserts that a tensor lies on the GPU and has this shape and type."""
    assert isinstance(value, Tensor)
    assert (value.device.type, tuple(value.shape), value.dtype) == ("cuda", shape, dtype)

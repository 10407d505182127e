"""A CPU that passes for a GPU: tensors with real values that say that they lie on "cuda", and refuse to meet others.

Fake tensors have no values, so what needs them on the host (resizing, holes, codes, the choice of keyframes) runs here, with
tiny networks. Every operator is computed on the CPU. It is an error if its tensors lie on two devices, or if the host reads
the device's memory without a copy. Numbers (tensors without dimensions) of the host may meet any device, as in PyTorch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode, _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

CUDA = torch.device("cuda:0")
# Operators that take tensors of several devices.
_BETWEEN = {"copy_", "_to_copy", "to"}


class Away(Tensor):
    """A tensor on the pretended GPU; `here` has its values."""

    here: Tensor

    @staticmethod
    def __new__(cls, here: Tensor) -> Away:
        with _disable_current_modes():
            shape = torch.empty_strided(here.shape, here.stride(), dtype=here.dtype, device="meta")
            # as PyTorch's own fake tensors: a tensor without values that dispatches as one on a GPU
            made: Away = Tensor._make_subclass(cls, shape, False, dispatch_device=True, device_for_backend_keys=CUDA)
        made.here = here
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        return computed(func, args, kwargs or {})

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(
            "can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() to copy it to the host first"
        )

    def tolist(self) -> Any:
        return self.here.tolist()

    def record_stream(self, _: Any) -> None:
        """Nothing frees memory early here."""


class PretendGpu(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Makes tensors on "cuda" pretended ones while it is active, on the thread that entered it."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return computed(func, args, kwargs or {})


@torch.inference_mode()
def computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """Computes an operator on the CPU; its results lie on its inputs' device, or on the one it asks for."""
    tensors = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
    away = [item for item in tensors if isinstance(item, Away)]
    name = func.overloadpacket.__name__
    if func is torch.ops.prim.device.default:
        return CUDA
    if name == "_has_compatible_shallow_copy_type":
        return False
    foreign = [item for item in tensors if not isinstance(item, Away) and item.dim()]
    if away and foreign and name not in _BETWEEN:
        raise RuntimeError(f"{func}: found two devices, cuda:0 and cpu, shapes {[tuple(one.shape) for one in tensors]}")
    asked = kwargs.get("device")
    if asked is None and name == "to":  # the overload with the device in its place
        asked = next((item for item in args[1:] if isinstance(item, torch.device)), None)
    target = torch.device(asked).type if asked is not None else None
    if target is None:
        first = args[0] if name == "copy_" else None
        target = "cuda" if isinstance(first, Away) or (first is None and away) else "cpu"
    args, kwargs = tree_map(_on_the_cpu, (args, kwargs))
    kwargs.pop("pin_memory", None)
    result = func(*args, **kwargs)
    if target != "cuda":
        return result
    given = {id(item.here): item for item in away}

    def there(item: Any) -> Any:
        if not isinstance(item, Tensor):
            return item
        # an operator that changes one of its tensors gives it back
        return given[id(item)] if id(item) in given else Away(item)

    return tree_map(there, result)


def _on_the_cpu(item: Any) -> Any:
    if isinstance(item, Away):
        return item.here
    return torch.device("cpu") if isinstance(item, torch.device) and item.type == "cuda" else item


@contextmanager
def pretend_gpu() -> Iterator[None]:
    """A context in which "cuda" is a device of this machine, for all threads that the program starts in it."""
    stream = mock.MagicMock()
    patched: dict[str, Any] = {
        "torch.cuda._lazy_init": lambda: None,
        "torch.cuda.is_available": lambda: True,
        "torch.cuda.is_bf16_supported": lambda *_, **__: True,
        "torch.cuda.current_stream": lambda *_: stream,
        "torch.cuda.stream": lambda *_: nullcontext(),
        "torch.cuda.empty_cache": lambda: None,
        "torch.Tensor.pin_memory": lambda tensor, *_: tensor,
        "vrshq.operators.video.prefetch.ThreadPoolExecutor": SameThread,
    }
    lifted = torch._C._only_lift_cpu_tensors()
    with ExitStack() as stack:
        for name, value in patched.items():
            stack.enter_context(mock.patch(name, value))
        torch._C._set_only_lift_cpu_tensors(True)
        torch._C._ensureCUDADeviceGuardSet()  # without a GPU, PyTorch then changes to no device before an operator
        stack.callback(torch._C._set_only_lift_cpu_tensors, lifted)
        stack.enter_context(torch.inference_mode())
        yield stack.enter_context(PretendGpu())  # type: ignore[no-untyped-call]


class SameThread:
    """Stands for a pool of threads: a mode holds for one thread, so calls are made at once on the caller's."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __enter__(self) -> SameThread:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def submit(self, call: Any, *args: Any, **kwargs: Any) -> Any:
        from concurrent.futures import Future

        future: Future[Any] = Future()
        try:
            future.set_result(call(*args, **kwargs))
        except BaseException as error:  # noqa: BLE001 - raised where the result is asked for
            future.set_exception(error)
        return future

    def shutdown(self, **_: Any) -> None:
        pass

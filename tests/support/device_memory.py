"""Bytes that live at once on a GPU, counted without one: every storage that a call makes on PyTorch's fake CUDA device."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class _Held(TorchDispatchMode):  # type: ignore[no-untyped-call]
    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak: int = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name == "scaled_dot_product_attention":  # fused on a GPU: no matrix of scores
            batch, heads, length, _ = args[0].shape
            result: Any = args[0].new_empty(batch, length, heads, args[2].shape[-1]).transpose(1, 2)
        else:
            result = 0.5 if name in ("item", "_local_scalar_dense") else func(*args, **kwargs)
        for item in tree_leaves(result):
            if isinstance(item, Tensor) and item.device.type == "cuda":
                self._hold(item.untyped_storage())
        return result

    def _hold(self, storage: Any) -> None:
        key, size = storage._cdata, storage.nbytes()
        if key not in self._seen:
            self._seen.add(key)
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, key, size)

    def _free(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def most_bytes(call: Callable[[], object]) -> int:
    """The most bytes that live at once of those that the call makes, its result included."""
    held = _Held()
    with held:
        kept = call()
    del kept
    return held.peak

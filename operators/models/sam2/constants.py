"""Tensors that depend on weights alone: position codes and tables, made once instead of at each step."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from threading import Lock
from typing import TypeVar

import torch
from torch import Tensor

Made = TypeVar("Made")

KEPT = 24  # tables of at most 8 MB; a steady state needs four, the first 16 frames of a sweep one more each


class Constants:
    """Keeps what was made of some weights, as long as the weights are the same and unchanged. Threads share it."""

    def __init__(self) -> None:
        self._kept: OrderedDict[Hashable, tuple[tuple[tuple[Tensor, int], ...], object]] = OrderedDict()
        self._lock = Lock()

    def of(self, key: Hashable, make: Callable[[], Made], *weights: Tensor) -> Made:
        """What `make` gives, from an earlier call with this key where there was one.

        Args:
            key: says what is made, its type, size and device.
            make: makes it from the weights.
            weights: all that can change. Where one of them learns, nothing is kept, because gradients flow through it.
        """
        if torch.is_grad_enabled() and any(weight.requires_grad for weight in weights):
            return make()
        with self._lock:
            return self._kept_or_made(key, make, weights)

    def _kept_or_made(self, key: Hashable, make: Callable[[], Made], weights: tuple[Tensor, ...]) -> Made:
        now = tuple((weight, _version(weight)) for weight in weights)
        if (kept := self._kept.get(key)) and all(
            old is new and before == after for (old, before), (new, after) in zip(kept[0], now, strict=True)
        ):
            self._kept.move_to_end(key)
            found: Made = kept[1]  # type: ignore[assignment]
            return found
        with torch.inference_mode(False), torch.no_grad():  # a tensor of inference cannot be part of a graph later
            made = make()
        self._kept[key] = now, made
        if len(self._kept) > KEPT:
            self._kept.popitem(last=False)
        return made


def _version(weight: Tensor) -> int:
    """Counts the changes in place. A tensor of inference has no such count; nothing trains it."""
    return -1 if weight.is_inference() else weight._version

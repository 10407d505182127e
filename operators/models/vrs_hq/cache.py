"""The keys and values of a prompt's prefix, shared by many suffixes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class SharedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values of a prefix (batch 1), for suffixes of any batch size. It stores nothing of the suffixes.

    The expanded copy that attention needs exists for one layer at a time, and the prefix can be used for any number of
    batches.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends the suffixes' keys and values to a copy of the prefix; the prefix itself is unchanged."""
        batch = key_states.shape[0]
        return (
            torch.cat([self.keys.expand(batch, -1, -1, -1), key_states], dim=-2),
            torch.cat([self.values.expand(batch, -1, -1, -1), value_states], dim=-2),
        )


def shared(cache: DynamicCache) -> DynamicCache:
    """Replaces the layers of a prefix's cache by layers that suffixes of any batch size can share."""
    for index, layer in enumerate(cache.layers):
        replacement = SharedLayer()
        replacement.lazy_initialization(layer.keys, layer.values)
        replacement.keys, replacement.values = layer.keys, layer.values
        cache.layers[index] = replacement
    return cache

"""The keys and values of the shared prefix with those of each branch: one prefix, many answers that grow."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer


class BranchedLayer(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values: the prefix once (batch 1), and those after it for each row.

    The expanded copy that attention needs exists for one layer at a time.
    """

    def __init__(self, prefix_keys: Tensor, prefix_values: Tensor) -> None:
        super().__init__()
        self._prefix = prefix_keys, prefix_values

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """Appends new keys and values (B, heads, n, width) to the rows' own; returns them behind the prefix."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
            self.keys, self.values = key_states, value_states
        else:
            self.keys = torch.cat([self.keys, key_states], dim=-2)
            self.values = torch.cat([self.values, value_states], dim=-2)
        rows = len(key_states)
        keys, values = (part.expand(rows, -1, -1, -1) for part in self._prefix)
        return torch.cat([keys, self.keys], dim=-2), torch.cat([values, self.values], dim=-2)

    def get_seq_length(self) -> int:
        """Length of the prefix and of what follows it."""
        return int(self._prefix[0].shape[-2]) + (int(self.keys.shape[-2]) if self.is_initialized else 0)


def branched(prefix: DynamicCache, config: Any) -> DynamicCache:
    """A cache for rows that continue `prefix`, which stays as it is."""
    cache = DynamicCache(config=config)
    cache.layers = [BranchedLayer(layer.keys, layer.values) for layer in prefix.layers]
    return cache

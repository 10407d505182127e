"""SAM2's memory attention for one frame and many instructions."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from sam2.modeling.memory_attention import MemoryAttention
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor

NARROW = 32  # width of memories below which PyTorch's fused attention is faster on a CPU
SCORES_AT_ONCE = 4 << 20  # attention scores (16 MB) per block, so that a block fits the processor's cache


class Rotation(NamedTuple):
    """A rotary table of N positions: `turns` (N, C/2) complex, or `cos` and `sin` (N, C), pairs repeated.

    The first `sin` of a pair is negative. The latter is the form in half precision, which rotates without a float32 copy, and
    that of compiled code, which knows no complex numbers.
    """

    turns: Tensor | None
    cos: Tensor | None = None
    sin: Tensor | None = None

    @staticmethod
    def of(network: MemoryAttention, device: torch.device, dtype: torch.dtype, *, real: bool = False) -> Rotation:
        """The table that all layers of a network share, for tokens of this type; `real`: without complex numbers."""
        turns = network.layers[0].self_attn.freqs_cis.to(device)
        if dtype == torch.float32 and not real:
            return Rotation(turns)
        signed = torch.stack([-turns.imag, turns.imag], dim=-1).flatten(1)
        return Rotation(None, turns.real.repeat_interleave(2, dim=1).to(dtype), signed.to(dtype))

    def turn_(self, tokens: Tensor) -> Tensor:
        """Rotates tokens (B, r*N, C) in place, each run of N by the same table."""
        if self.turns is not None:
            count, _, width = tokens.shape
            runs = tokens.view(count, -1, len(self.turns), width // 2, 2)
            torch.view_as_complex(runs).mul_(self.turns)
            return tokens
        assert self.cos is not None
        assert self.sin is not None
        runs = tokens.view(len(tokens), -1, *self.cos.shape)
        if torch.compiler.is_compiling():  # which writes one loop of it, and takes no `out`
            crossed = torch.stack([runs[..., 1::2], runs[..., 0::2]], dim=-1).flatten(3)
            runs.copy_(torch.addcmul(crossed * self.sin, runs, self.cos))
            return tokens
        crossed = torch.empty_like(runs)
        torch.mul(runs[..., 1::2], self.sin[:, 0::2], out=crossed[..., 0::2])
        torch.mul(runs[..., 0::2], self.sin[:, 1::2], out=crossed[..., 1::2])
        torch.addcmul(crossed, runs, self.cos, out=runs)
        return tokens


def attend_to_memory(
    network: MemoryAttention,
    image: Tensor,
    memory: Tensor,
    position: Tensor,
    num_pointer_tokens: int,
    rotation: Rotation,
) -> Tensor:
    """SAM2's memory attention in evaluation mode, without repeated work; equal to `network` within rounding.

    The work that all instructions on a frame share, up to the first attention to memories, is done once.

    Args:
        network: SAM2's memory attention.
        image: (1 or B, N, C) tokens of the frame with their position code added.
        memory: (B, L, M) memory tokens, object pointers last.
        position: (1, L, M) position codes; those of pointers are 0.
        num_pointer_tokens: number of the tokens of object pointers, which are not rotated.
        rotation: the rotary table.

    Returns:
        (B, N, C).
    """
    coded, spatial = memory + position, memory.shape[1] - num_pointer_tokens
    for layer in network.layers:
        image = image + _attend_to_itself(layer.self_attn, layer.norm1(image), rotation)
        image = image + _attend(layer.cross_attn_image, layer.norm2(image), (coded, memory), spatial, rotation)
        image = image + layer.linear2(layer.activation(layer.linear1(layer.norm3(image))))
    attended: Tensor = network.norm(image)
    return attended


def _attend_to_itself(attention: RoPEAttention, tokens: Tensor, rotation: Rotation) -> Tensor:
    queries, keys = rotation.turn_(attention.q_proj(tokens)), rotation.turn_(attention.k_proj(tokens))
    output: Tensor = attention.out_proj(_fused(queries, keys, attention.v_proj(tokens)))
    return output


def _attend(
    attention: RoPEAttention, query: Tensor, memory: tuple[Tensor, Tensor], spatial: int, rotation: Rotation
) -> Tensor:
    """Attention to memories, given with and without their position codes."""
    coded, values = memory
    queries = rotation.turn_(attention.q_proj(query)).expand(len(values), -1, -1)
    keys = attention.k_proj(coded)
    rotation.turn_(keys[:, :spatial])
    if keys.device.type == "cpu" and keys.dtype == torch.float32 and values.shape[2] >= NARROW:
        # The weights of a row sum to 1, so the projection of averaged memories equals the average of projected ones.
        # Averaging first costs less, because M is a quarter of C. For narrow memories the fused kernel is faster.
        attended = attention.v_proj(_weighted_memories(queries, keys, values))
    else:
        attended = _fused(queries, keys, attention.v_proj(values))
    output: Tensor = attention.out_proj(attended)
    return output


def _fused(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """PyTorch's fused attention with one head."""
    return F.scaled_dot_product_attention(queries[:, None], keys[:, None], values[:, None])[:, 0]


def _weighted_memories(queries: Tensor, keys: Tensor, memory: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C)) m: (B, N, M) for queries (B, N, C), keys (B, L, C), memory (B, L, M)."""
    rows = max(64, SCORES_AT_ONCE // keys.shape[1])
    scale = queries.shape[-1] ** -0.5
    parts = [
        torch.cat([((part * scale) @ key.T).softmax(-1) @ values for part in query.split(rows)])
        for query, key, values in zip(queries, keys, memory, strict=True)
    ]
    return torch.stack(parts)

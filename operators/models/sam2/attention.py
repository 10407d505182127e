"""SAM2's memory attention for one frame and many instructions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from sam2.modeling.memory_attention import MemoryAttention
from sam2.modeling.position_encoding import apply_rotary_enc
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor

NARROW = 32  # width of memories below which PyTorch's fused attention is faster on a CPU
SCORES_AT_ONCE = 4 << 20  # attention scores (16 MB) per block, so that a block fits the processor's cache


def attend_to_memory(
    network: MemoryAttention, image: Tensor, memory: Tensor, position: Tensor, num_pointer_tokens: int
) -> Tensor:
    """SAM2's memory attention in evaluation mode, without repeated work; equal to `network` within rounding.

    The work that all instructions on a frame share, up to the first attention to memories, is done once.

    Args:
        network: SAM2's memory attention.
        image: (1 or B, N, C) tokens of the frame with their position code added.
        memory: (B, L, M) memory tokens, object pointers last.
        position: (1, L - pointers, M) position codes; pointers have none.
        num_pointer_tokens: number of the tokens of object pointers.

    Returns:
        (B, N, C).
    """
    for layer in network.layers:
        image = layer._forward_sa(image, None)
        image = image + _attend(layer.cross_attn_image, layer.norm2(image), memory, position, num_pointer_tokens)
        image = image + layer.linear2(layer.activation(layer.linear1(layer.norm3(image))))
    attended: Tensor = network.norm(image)
    return attended


def _attend(
    attention: RoPEAttention, query: Tensor, memory: Tensor, position: Tensor, num_pointer_tokens: int
) -> Tensor:
    spatial = memory.shape[1] - num_pointer_tokens
    queries = attention.q_proj(query)
    keys = attention.k_proj(torch.cat([memory[:, :spatial] + position, memory[:, spatial:]], dim=1))
    if attention.freqs_cis.device != query.device:  # once, not a copy in each step
        attention.freqs_cis = attention.freqs_cis.to(query.device)
    frequencies = attention.freqs_cis
    rotated, rotated_keys = apply_rotary_enc(
        queries[:, None], keys[:, None, :spatial], freqs_cis=frequencies, repeat_freqs_k=True
    )
    queries = rotated[:, 0].to(keys.dtype).expand(len(memory), -1, -1)
    keys[:, :spatial] = rotated_keys[:, 0].to(keys.dtype)
    if keys.device.type == "cpu" and keys.dtype == torch.float32 and memory.shape[2] >= NARROW:
        # The weights of a row sum to 1, so the projection of averaged memories equals the average of projected ones.
        # Averaging first costs less, because M is a quarter of C. For narrow memories the fused kernel is faster.
        attended = attention.v_proj(_weighted_memories(queries, keys, memory))
    else:
        attended = F.scaled_dot_product_attention(queries[:, None], keys[:, None], attention.v_proj(memory)[:, None])[
            :, 0
        ]
    output: Tensor = attention.out_proj(attended)
    return output


def _weighted_memories(queries: Tensor, keys: Tensor, memory: Tensor) -> Tensor:
    """softmax(q k^T / sqrt(C)) m: (B, N, M) for queries (B, N, C), keys (B, L, C), memory (B, L, M)."""
    rows = max(64, SCORES_AT_ONCE // keys.shape[1])
    scale = queries.shape[-1] ** -0.5
    parts = [
        torch.cat([((part * scale) @ key.T).softmax(-1) @ values for part in query.split(rows)])
        for query, key, values in zip(queries, keys, memory, strict=True)
    ]
    return torch.stack(parts)

"""The LLaMA decoder: hidden states of embeddings, after a prefix whose keys and values are shared by many sequences.

Transformers has this network, too; its import takes longer than that of torch, and every actor and every `vrshq ask` starts
with it. The parts have the names of the published checkpoint. Tests hold the results against transformers.

Shape letters: B sequences, L rows, P rows of the prefix, D width, H heads, G heads of keys and values, w their width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from vrshq.operators.models.config import LanguageConfig

KeyValues = list[tuple[Tensor, Tensor]]
"""Keys and values (B, G, P, w) of each layer."""

INITIAL_STD = 0.02  # of the weights of a model from scratch


class Llama(nn.Module):
    """The decoder without its LM head.

    Attributes:
        checkpointing: whether training computes the layers' activations again in the backward pass, which saves memory.
    """

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.checkpointing = False
        self.apply(_draw)

    def forward(self, embeddings: Tensor, prefix: KeyValues | None = None, kept: KeyValues | None = None) -> Tensor:
        """The last hidden states (B, L, D), after the final norm.

        Args:
            embeddings: (B, L, D) of the rows after the prefix.
            prefix: keys and values of the rows before, of one sequence or of B. It is not changed.
            kept: a list to which each layer appends its keys and values of these rows.
        """
        begin = prefix[0][0].shape[2] if prefix else 0
        rotary = self._rotary(begin, embeddings)
        mask = None
        if begin:
            rows = torch.arange(embeddings.shape[1], device=embeddings.device) + begin
            mask = torch.arange(begin + embeddings.shape[1], device=embeddings.device) <= rows[:, None]
        states = embeddings
        for index, layer in enumerate(self.layers):
            before = prefix[index] if prefix else None
            if self.checkpointing and self.training:
                states = checkpoint(layer, states, rotary, mask, before, use_reentrant=False)
            else:
                states = layer(states, rotary, mask, before, kept)
        normed: Tensor = self.norm(states)
        return normed

    def _rotary(self, begin: int, embeddings: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and sines (L, w) of the rotary position code, in the type of the embeddings.

        The frequencies are computed on the CPU, so that they are the same numbers on every device.
        """
        width = self.config.hidden_size // self.config.num_heads
        exponents = torch.arange(0, width, 2, dtype=torch.float32, device="cpu") / width
        frequencies = (1.0 / self.config.rope_theta**exponents).to(embeddings.device, non_blocking=True)
        rows = torch.arange(embeddings.shape[1], device=embeddings.device) + begin
        angles = rows[:, None].float() * frequencies
        angles = torch.cat([angles, angles], dim=-1)
        return angles.cos().to(embeddings.dtype), angles.sin().to(embeddings.dtype)


class Layer(nn.Module):
    """One layer: attention and MLP, each after a norm and with a residual connection."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = GatedMLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        states: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        before: tuple[Tensor, Tensor] | None,
        kept: KeyValues | None = None,
    ) -> Tensor:
        """States (B, L, D) after the layer; see `Attention.forward`."""
        states = states + self.self_attn(self.input_layernorm(states), rotary, mask, before, kept)
        after: Tensor = states + self.mlp(self.post_attention_layernorm(states))
        return after


class Attention(nn.Module):
    """Causal attention with rotary position codes; several query heads can share the keys and values of one head."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.head_dim = config.hidden_size // config.num_heads
        self.groups = config.num_heads // config.num_key_value_heads
        shared = config.num_key_value_heads * self.head_dim
        self.q_proj = nn.Linear(config.hidden_size, config.num_heads * self.head_dim, bias=False)
        self.k_proj = nn.Linear(config.hidden_size, shared, bias=False)
        self.v_proj = nn.Linear(config.hidden_size, shared, bias=False)
        self.o_proj = nn.Linear(config.num_heads * self.head_dim, config.hidden_size, bias=False)

    def forward(
        self,
        states: Tensor,
        rotary: tuple[Tensor, Tensor],
        mask: Tensor | None,
        before: tuple[Tensor, Tensor] | None,
        kept: KeyValues | None = None,
    ) -> Tensor:
        """Attention of the rows to those before them.

        Args:
            states: (B, L, D).
            rotary: cosines and sines (L, w).
            mask: (L, P + L) bool, True where a row sees another; None without a prefix.
            before: keys and values (1 or B, G, P, w) of the prefix.
            kept: a list to which the keys and values of these rows are appended.
        """
        queries, keys, values = (
            projection(states).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for projection in (self.q_proj, self.k_proj, self.v_proj)
        )
        queries, keys = rotate(queries, *rotary), rotate(keys, *rotary)
        if kept is not None:
            kept.append((keys, values))
        if before is not None:
            keys, values = (
                torch.cat([old.expand(len(states), -1, -1, -1), new], dim=2)
                for old, new in zip(before, (keys, values), strict=True)
            )
        mixed = F.scaled_dot_product_attention(
            queries, keys, values, attn_mask=mask, is_causal=mask is None, enable_gqa=self.groups > 1
        )
        out: Tensor = self.o_proj(mixed.transpose(1, 2).flatten(2))
        return out


class GatedMLP(nn.Module):
    """down(silu(gate(x)) * up(x))."""

    def __init__(self, config: LanguageConfig) -> None:
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) for states (..., D)."""
        out: Tensor = self.down_proj(F.silu(self.gate_proj(states)) * self.up_proj(states))
        return out


class RMSNorm(nn.Module):
    """Division by the root mean square, computed in float32, and a weight per channel."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        """(..., D) for states (..., D), in their type."""
        wide = states.float()
        scaled = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)
        return self.weight * scaled.to(states.dtype)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns each pair of channels (i, i + w / 2) of heads (..., L, w) by the angles of a rotary position code (L, w)."""
    first, second = heads.chunk(2, dim=-1)
    return heads * cos + torch.cat([-second, first], dim=-1) * sin


def take(states: KeyValues, sequences: Sequence[int]) -> KeyValues:
    """The keys and values of some of the sequences. Those of neighbours are not copied."""
    first, last = sequences[0], sequences[-1]
    if list(sequences) == list(range(first, last + 1)):
        return [(keys[first : last + 1], values[first : last + 1]) for keys, values in states]
    chosen = list(sequences)
    return [(keys[chosen], values[chosen]) for keys, values in states]


def _draw(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=INITIAL_STD)

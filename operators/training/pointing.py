"""The pointing loss: the share of [SEG]'s and [TAK]'s attention to the frames that lies on the objects that are meant.

Colours and shapes can be read from a mean over all objects, because each token binds them to each other; a place cannot.
Without this loss, a language model from scratch answers from that mean and never learns to attend to one object.

Where an instruction names a second object ("what is nearest to the red ring?"), [SEG] and [TAK] can find that one first: the
same loss is used for it in the layer before.

Shape letters: E instructions, n frames, N patches, K tokens of a frame, H heads, w their width.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vrshq.operators.models.config import IMAGE_TOKEN
from vrshq.operators.models.llama import KeyValues, Llama, rotate
from vrshq.operators.models.preprocess import View
from vrshq.operators.models.vrs_hq.clustering import Level
from vrshq.operators.models.vrs_hq.prompt import Prompt

LAYER = -2  # of the LLaMA; the last layer can still process the values that it reads
REFERENCE_LAYER = LAYER - 1


@dataclass
class AttentionInputs:
    """Inputs of the attention of a layer in the last pass.

    Attributes:
        layer: number of the layer, counted from the last.
        states: (E, rows, D), hidden states.
        before: hidden states of the pass before it.
        cos: (rows, w), of the rotary position code.
        sin: (rows, w), of the rotary position code.
    """

    layer: int
    states: Tensor | None = None
    before: Tensor | None = None
    cos: Tensor | None = None
    sin: Tensor | None = None


@contextmanager
def record_attention(llama: Llama, layer: int) -> Iterator[AttentionInputs]:
    """Records the inputs of a layer's attention inside the `with`."""
    recorded = AttentionInputs(layer)

    def keep(_: nn.Module, args: tuple[Any, ...]) -> None:
        recorded.before = recorded.states
        recorded.states, (recorded.cos, recorded.sin), *_rest = args

    attention: Any = llama.layers[layer].self_attn
    handle = attention.register_forward_pre_hook(keep)
    try:
        yield recorded
    finally:
        handle.remove()


def meant_tokens(levels: Sequence[Level], masks: np.ndarray, view: View) -> Tensor:
    """(E, n, K) bool: the frames' tokens with more than half of their area on `masks` (E, n, H, W) bool."""
    seen = masks[..., view.top : view.top + view.height, view.left : view.left + view.width]
    share = F.interpolate(torch.from_numpy(seen).float(), size=(view.rows, view.columns), mode="area").flatten(2)
    member: Tensor | None = None
    members = []
    for level in levels:
        one = F.one_hot(level.assignment, level.tokens.shape[1]).float()
        member = one if member is None else member @ one
        members.append(member)
    joined = torch.cat(members, dim=2)  # (n, N, K), 1 where the patch is in the token
    filled = torch.einsum("enp,npk->enk", share.to(joined.device), joined)
    return filled > 0.5 * joined.sum(1)


def pointing_loss(
    llama: Llama, recorded: AttentionInputs, prefix: KeyValues, prompts: Sequence[Prompt], meant: Tensor
) -> Tensor:
    """Minus the logarithm of the share of attention on the meant objects, out of the attention to the frames.

    For [SEG], the attention to its own frame counts; for [TAK], the attention to all frames. The loss is the mean over
    heads, rows and instructions. Rows without a meant token are left out, and the loss is 0 if no row is left.

    Args:
        llama: the language model.
        recorded: inputs of the attention in the pass over the suffixes.
        prefix: keys and values of the shared prefix, which holds the frames.
        prompts: of the E instructions.
        meant: (E, n, K) bool, the tokens on the meant objects.
    """
    assert recorded.states is not None, "no pass was recorded"
    assert recorded.cos is not None, "no pass was recorded"
    assert recorded.sin is not None, "no pass was recorded"
    attention: Any = llama.layers[recorded.layer].self_attn
    width = attention.head_dim
    device = recorded.states.device
    at = torch.tensor([[*p.seg_positions, p.tak_position] for p in prompts], device=device) - prompts[0].prefix_rows
    rows = recorded.states.gather(1, at[..., None].expand(-1, -1, recorded.states.shape[2]))
    queries = attention.q_proj(rows).unflatten(-1, (-1, width)).transpose(1, 2)  # (E, H, n + 1, w)
    queries = rotate(queries, *(table[at][:, None] for table in (recorded.cos, recorded.sin)))
    keys = prefix[recorded.layer][0][0].repeat_interleave(attention.groups, dim=0)
    frames, tokens = meant.shape[1:]
    keys = keys[:, frame_rows(prompts[0], frames, tokens, device)]  # (H, n * K, w)
    logits = (torch.einsum("ehrw,hkw->ehrk", queries, keys) * width**-0.5).float().unflatten(3, (frames, tokens))
    # (E, H, n, K): each [SEG] and its own frame
    own = logits[:, :, :-1].diagonal(dim1=2, dim2=3).transpose(2, 3)
    parts = [_off_target(own, meant), _off_target(logits[:, :, -1].flatten(2)[:, :, None], meant.flatten(1)[:, None])]
    losses = torch.cat(parts)
    return losses.mean() if len(losses) else logits.sum() * 0


def _off_target(logits: Tensor, meant: Tensor) -> Tensor:
    """Minus the logarithm of the share of attention on the meant tokens, for each head and each row with a meant token.

    Args:
        logits: (E, H, R, K) attention logits of R rows.
        meant: (E, R, K) bool.
    """
    share = logits.log_softmax(-1).masked_fill(~meant[:, None], -torch.inf).logsumexp(-1)
    return -share.transpose(1, 2)[meant.any(-1)].flatten()


def frame_rows(prompt: Prompt, frames: int, tokens: int, device: torch.device) -> Tensor:
    """The rows (n * K,) of the frames' tokens in the whole prompt."""
    starts, row = [], 0
    for token in prompt.input_ids:
        if token == IMAGE_TOKEN:
            starts.append(row)
        row += tokens if token == IMAGE_TOKEN else 1
    assert len(starts) == frames, (len(starts), frames)
    return (torch.tensor(starts, device=device)[:, None] + torch.arange(tokens, device=device)).flatten()

"""Sa2VA's language side: vision tower, Qwen3 decoder, greedy answers, and the states of [SEG] in SAM2's prompt space."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from transformers import DynamicCache, Qwen3VLConfig, Qwen3VLForConditionalGeneration

from vrshq.operators.models.sa2va.cache import branched
from vrshq.operators.models.sa2va.config import Sa2vaConfig
from vrshq.operators.models.sa2va.pictures import Picture
from vrshq.operators.models.sa2va.prompt import Prefix


@dataclass(frozen=True)
class Seen:
    """The vision tower's output for the pictures of a prefix, in their order.

    Attributes:
        tokens: (N, D), one for each placeholder.
        deepstack: for the decoder's first layers, (N, D) each, added to their outputs at the placeholders.
    """

    tokens: Tensor
    deepstack: list[Tensor]

    def to(self, device: torch.device | str) -> Seen:
        """The same on a device."""
        return Seen(self.tokens.to(device), [layer.to(device) for layer in self.deepstack])

    @property
    def nbytes(self) -> int:
        """Bytes of its tensors."""
        return sum(int(one.nbytes) for one in (self.tokens, *self.deepstack))

    @staticmethod
    def concatenate(parts: Sequence[Seen]) -> Seen:
        """One object for the pictures of all parts, in order."""
        layers = zip(*(part.deepstack for part in parts), strict=True)
        return Seen(torch.cat([part.tokens for part in parts]), [torch.cat(layer) for layer in layers])


@dataclass
class Answer:
    """The answer to one instruction.

    Attributes:
        ids: generated tokens, with the end token if the answer reached one.
        embeddings: (k, d) float32, one prompt embedding of SAM2 for each [SEG], in their order.
    """

    ids: list[int] = field(default_factory=list)
    embeddings: Tensor = field(default_factory=lambda: torch.empty(0))


class Sa2vaLanguage(nn.Module):
    """Qwen3-VL and the map from a [SEG] state to an embedding that prompts SAM2.

    Shape letters: N tokens of pictures, D width of the decoder, d width of SAM2's prompts, B answers at once.

    Attributes:
        turn: held while the network is used. Its states are read by hooks, which would see those of other threads.
    """

    def __init__(self, config: Sa2vaConfig) -> None:
        super().__init__()
        self.config, self.turn = config, threading.Lock()
        sizes = {"text_config": config.language, "vision_config": config.vision, "tie_word_embeddings": False}
        self.model = Qwen3VLForConditionalGeneration(Qwen3VLConfig(image_token_id=config.image_token_id, **sizes))
        width = int(config.language["hidden_size"])
        self.text_hidden_fcs = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, config.sam2.d_model))

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.model.lm_head.weight.device  # type: ignore[no-any-return]

    @torch.inference_mode()
    def see(self, pictures: Sequence[Picture]) -> list[Seen]:
        """Runs the vision tower over pictures, which do not see each other."""
        visual = self.model.model.visual
        patches = torch.cat([one.patches for one in pictures]).to(self.device, visual.dtype)
        seen = visual(patches, grid_thw=torch.tensor([one.grid for one in pictures], device=self.device))
        sizes = [one.tokens for one in pictures]
        layers = [layer.split(sizes) for layer in seen.deepstack_features]
        return [
            Seen(tokens, [layer[place] for layer in layers])
            for place, tokens in enumerate(seen.pooler_output.split(sizes))
        ]

    @torch.inference_mode()
    def run_prefix(self, prefix: Prefix, seen: Seen) -> DynamicCache:
        """The decoder's keys and values of a prefix; they hold for every instruction on these pictures."""
        decoder = self.model.model.language_model
        ids = torch.tensor([prefix.ids], device=self.device)
        is_picture = torch.tensor([prefix.is_picture], device=self.device)
        embeddings = decoder.embed_tokens(ids)
        embeddings = embeddings.masked_scatter(is_picture[..., None], seen.tokens.to(embeddings.dtype))
        cache = DynamicCache(config=decoder.config)
        decoder(
            inputs_embeds=embeddings,
            position_ids=torch.tensor(prefix.positions, device=self.device)[:, None],
            past_key_values=cache,
            visual_pos_masks=is_picture,
            deepstack_visual_embeds=seen.deepstack,
        )
        return cache

    @torch.inference_mode()
    def answers(
        self,
        prefix: Prefix,
        cache: DynamicCache,
        suffixes: Sequence[Sequence[int]],
        *,
        seg_id: int,
        max_new_tokens: int,
    ) -> list[Answer]:
        """Greedy answers to instructions on the same pictures, in one batch.

        The state of a [SEG] is that of the position that reads it. A [SEG] in the instruction counts, too; the last generated
        token does not, as it is never read.

        Args:
            prefix: of the prompts.
            cache: keys and values of the prefix, from `run_prefix`; not changed.
            suffixes: token ids of the rest of each prompt.
            seg_id: id of [SEG].
            max_new_tokens: length at which an answer is cut, at least 1.
        """
        longest = max(map(len, suffixes))
        # Padded on the left, between prefix and suffix, so that all rows generate at the same place.
        pads = [longest - len(suffix) for suffix in suffixes]
        ids = torch.tensor([[0] * pad + list(suffix) for pad, suffix in zip(pads, suffixes, strict=True)])
        mask = torch.tensor([[1] * len(prefix.ids) + [0] * pad + [1] * (longest - pad) for pad in pads])
        places = torch.arange(longest)[None] - torch.tensor(pads)[:, None]
        positions = (prefix.next_position + places).clamp(min=0)
        ids, mask, positions = (part.to(self.device) for part in (ids, mask, positions))
        branch = branched(cache, self.model.model.language_model.config)
        rows = [Answer() for _ in suffixes]
        states: list[list[Tensor]] = [[] for _ in suffixes]
        going = set(range(len(rows)))
        for step in range(max_new_tokens):
            hidden, state = self._forward(ids, mask, positions, branch)
            for row in going:
                for place in (ids[row, pads[row] if step == 0 else 0 :] == seg_id).nonzero()[:, 0].tolist():
                    states[row].append(state[row, (pads[row] if step == 0 else 0) + place])
            chosen = self.model.lm_head(hidden[:, -1]).argmax(-1)
            for row, token in enumerate(chosen.tolist()):
                if row in going:
                    rows[row].ids.append(token)
            going -= {row for row in going if rows[row].ids[-1] == self.config.end_token_id}
            if not going:
                break
            ids, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        for answer, found in zip(rows, states, strict=True):
            width = self.config.sam2.d_model
            answer.embeddings = (
                self.text_hidden_fcs(torch.stack(found)).float().cpu() if found else torch.empty(0, width)
            )
        return rows

    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> tuple[Tensor, Tensor]:
        """Decoder states (B, L, D) after the final norm, and those that [SEG] is read from."""
        decoder = self.model.model.language_model
        kept: list[Tensor] = []
        # The library returns normalised states alone, whatever `hidden_states` promises.
        hook = decoder.norm.register_forward_pre_hook(lambda _, inputs: kept.append(inputs[0]))
        try:
            hidden: Tensor = decoder(
                inputs_embeds=decoder.embed_tokens(ids),
                attention_mask=mask,
                position_ids=positions[None].expand(3, -1, -1),
                past_key_values=cache,
            ).last_hidden_state
        finally:
            hook.remove()
        return hidden, kept[0] if self.config.state == "before_norm" else hidden

"""Chat-UniVi and the read-out of [SEG] and [TAK]: one embedding for each sampled frame, one for the video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from vrshq.operators.models.clip_network import VisionTransformer
from vrshq.operators.models.config import IMAGE_TOKEN, ModelConfig
from vrshq.operators.models.llama import KeyValues, Llama, take
from vrshq.operators.models.vrs_hq.clustering import Level, cluster
from vrshq.operators.models.vrs_hq.differences import FrameDifferences
from vrshq.operators.models.vrs_hq.prompt import Prompt


@dataclass(frozen=True)
class ReadOut:
    """The embeddings of one instruction in SAM2's prompt space: `seg` (n, d), one per sampled frame, and `tak` (d,)."""

    seg: Tensor
    tak: Tensor


class ChatUniVi(nn.Module):
    """The MLLM: CLIP vision tower, token clustering, projector, LLaMA decoder, and the map to SAM2's prompt space.

    Shape letters: n frames, N patches of the tower, K tokens per frame, C tower width, D LLaMA width, d `out_dim`, L rows.
    The names of the parts are those of the published checkpoint.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, language_width = config.tower.hidden_size, config.language.hidden_size
        self.vision_tower = VisionTransformer(config.tower)
        self.mm_projector = nn.Linear(width, language_width)
        self.frame_differences = FrameDifferences(config) if config.frame_differences else None
        self.llama = Llama(config.language)
        self.text_hidden_fcs = nn.Sequential(
            nn.Linear(language_width, language_width), nn.ReLU(), nn.Linear(language_width, config.out_dim)
        )

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self.mm_projector.weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The floating-point type of the weights."""
        return self.mm_projector.weight.dtype

    def patch_features(self, pixels: Tensor) -> Tensor:
        """The tower's patches (n, N, C) for `tower_input` pixels (n, 3, h, w): hidden state -2, class token dropped.

        The tower's last layer and final norm are weights that are never used, so they are not run.
        """
        hidden = self.vision_tower.embed(pixels.to(self.device, self.dtype))
        for layer in self.vision_tower.encoder.layers[:-1]:
            hidden = layer(hidden, causal=False)
        patches: Tensor = hidden[:, 1:]
        return patches

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """The tokens in the prompt of sampled frames in order, level after level: (n, K, D) for pixels (n, 3, h, w)."""
        return self.in_order(*self.see(pixels))

    def see(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """What is seen in each frame alone, for `in_order`.

        Args:
            pixels: (n, 3, h, w) of `tower_input`.

        Returns:
            tensors with a row for each frame: the projected tokens (n, K, D); with `frame_differences`, also the patches
            (n, N, C) and the assignment of each clustering level.
        """
        patches = self.patch_features(pixels)
        return self.project(patches, cluster(patches, self.config.clustering))

    def project(self, patches: Tensor, levels: Sequence[Level]) -> tuple[Tensor, ...]:
        """As `see`, of clustered patches."""
        tokens: Tensor = self.mm_projector(torch.cat([level.tokens for level in levels], dim=1))
        if self.frame_differences is None:
            return (tokens,)
        return tokens, patches, *(level.assignment for level in levels)

    def in_order(self, tokens: Tensor, *seen: Tensor) -> Tensor:
        """The tokens (n, K, D) of sampled frames in order, from what `see` gave for each of them."""
        if self.frame_differences is None:
            return tokens
        patches, *assignments = seen
        moving: Tensor = self.frame_differences(tokens, patches, assignments)
        return moving

    def embed(self, input_ids: Sequence[int], image_tokens: Tensor) -> Tensor:
        """Input embeddings (L, D): each `IMAGE_TOKEN` becomes the K tokens of the next of the frames (n, K, D)."""
        ids = torch.tensor(input_ids, device=self.device)
        is_image = ids == IMAGE_TOKEN
        words = self.llama.embed_tokens(ids.masked_fill(is_image, 0))
        repeats = torch.where(is_image, image_tokens.shape[1], 1)
        rows = words.repeat_interleave(repeats, dim=0)
        filled: Tensor = rows.masked_scatter(is_image.repeat_interleave(repeats)[:, None], image_tokens.to(rows.dtype))
        return filled

    def hidden_states(self, prompt: Prompt, image_tokens: Tensor) -> Tensor:
        """Last hidden states (L, D), after the final norm, of one whole prompt, without a shared prefix."""
        embeddings = self.embed(prompt.input_ids, image_tokens)
        states: Tensor = self.llama(embeddings[None])[0]
        return states

    def run_prefix(self, prompt: Prompt, *image_tokens: Tensor) -> KeyValues:
        """The LLaMA's keys and values for a prompt up to its last frame; they hold for every prompt on these frames.

        Args:
            prompt: on any of the sets of frames; up to the last frame, prompts on as many frames have the same ids.
            image_tokens: (n, K, D) tokens of the frames of each set. The keys and values have a sequence for each.
        """
        ids = prompt.input_ids[: prompt.prefix_length]
        kept: KeyValues = []
        self.llama(torch.stack([self.embed(ids, tokens) for tokens in image_tokens]), kept=kept)
        return kept

    def suffix_states(self, prefix: KeyValues, prompts: Sequence[Prompt], *, whole: bool = False) -> list[Tensor]:
        """Last hidden states of the rows after the prefix, up to the row of [TAK], for prompts that share the prefix.

        Args:
            prefix: keys and values from `run_prefix`, of one set of frames or of one for each prompt.
            prompts: of instructions on as many frames.
            whole: whether rows up to the prompt's end are run, as the cross entropy of training needs.

        Returns:
            One (rows, D) per prompt; row 0 is row `prompt.prefix_rows` of the whole prompt.
        """
        suffixes = [prompt.input_ids[prompt.prefix_length : None if whole else _end(prompt)] for prompt in prompts]
        # Padded on the right with token 0. No mask is needed: the decoder is causal, so no real row ever sees a padded one.
        longest = max(map(len, suffixes))
        ids = torch.tensor([[*suffix, *[0] * (longest - len(suffix))] for suffix in suffixes], device=self.device)
        states = self.llama(self.llama.embed_tokens(ids), prefix)
        return [rows[: len(suffix)] for rows, suffix in zip(states, suffixes, strict=True)]

    @torch.inference_mode()
    def read_out(self, prompts: Sequence[Prompt], image_tokens: Tensor, max_suffixes: int = 16) -> list[ReadOut]:
        """The embeddings of instructions on one set of frames, see `read_out_sets`."""
        return self.read_out_sets([(prompts, image_tokens)], max_suffixes)[0]

    @torch.inference_mode()
    def read_out_sets(
        self, sets: Sequence[tuple[Sequence[Prompt], Tensor]], max_suffixes: int = 16
    ) -> list[list[ReadOut]]:
        """The embeddings of instructions on several sets of as many frames each.

        The prefixes of all sets are run in one batch, each once. The rest is run for at most `max_suffixes` instructions at
        a time, those of similar length together: the instructions of a set, or one of each of several sets.

        Args:
            sets: the prompts on each set of frames, and (n, K, D) tokens of its frames.
            max_suffixes: the most instructions in one batch.

        Returns:
            float32 embeddings, in the order of the prompts of each set.
        """
        prefixes = self.run_prefix(sets[0][0][0], *(tokens for _, tokens in sets))
        results: list[dict[int, ReadOut]] = [{} for _ in sets]
        single = [number for number, (prompts, _) in enumerate(sets) if len(prompts) == 1]
        pairs = [(number, 0) for number in single]
        for begin in range(0, len(pairs), max_suffixes):
            chosen = pairs[begin : begin + max_suffixes]
            whole = len(chosen) == len(sets)
            prefix = prefixes if whole else take(prefixes, [number for number, _ in chosen])
            self._read(prefix, sets, chosen, results)
        for number, (prompts, _) in enumerate(sets):
            if number in single:
                continue
            order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].input_ids))
            prefix = take(prefixes, [number])
            for begin in range(0, len(order), max_suffixes):
                self._read(prefix, sets, [(number, index) for index in order[begin : begin + max_suffixes]], results)
        return [[found[index] for index in range(len(found))] for found in results]

    def _read(
        self,
        prefix: KeyValues,
        sets: Sequence[tuple[Sequence[Prompt], Tensor]],
        chosen: Sequence[tuple[int, int]],
        results: list[dict[int, ReadOut]],
    ) -> None:
        """Runs the prompts of (set, place) pairs after their prefix and puts their embeddings into the results."""
        prompts = [sets[number][0][index] for number, index in chosen]
        for (number, index), prompt, rows in zip(chosen, prompts, self.suffix_states(prefix, prompts), strict=True):
            positions = torch.tensor([*prompt.seg_positions, prompt.tak_position], device=self.device)
            embedded = self.text_hidden_fcs(rows[positions - prompt.prefix_rows]).float()
            results[number][index] = ReadOut(embedded[:-1], embedded[-1])


def _end(prompt: Prompt) -> int:
    """Number of input ids up to the one whose state gives [TAK], including it; later ids have no influence on the result."""
    return prompt.tak_position - prompt.extra_rows + 1

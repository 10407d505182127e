"""Chat-UniVi and the read-out of [SEG] and [TAK]: frames and instructions in, one embedding per frame and one per video out.

The answer is teacher-forced: it is part of the prompt, one forward pass is made, nothing is generated. Work is shared:
each distinct frame goes through the vision tower once, and the part of the prompt up to the last frame goes through the
LLaMA once for each distinct set of frames; its keys and values then serve every instruction on these frames.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModel, DynamicCache, LlamaConfig, LlamaModel
from transformers.cache_utils import DynamicLayer
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from vrshq.operators.batch import Batch, InputError, Unit, failure, map_units, open_instructions
from vrshq.operators.models.bundle import open_bundle, shared_network
from vrshq.operators.models.config import IMAGE_TOKEN, LanguageConfig, ModelConfig
from vrshq.operators.models.preprocess import tower_input
from vrshq.operators.models.vrs_hq.clustering import cluster
from vrshq.operators.models.vrs_hq.prompt import Prompt, normalize


@dataclass(frozen=True)
class ReadOut:
    """The embeddings of one instruction in SAM2's prompt space: `seg` (n, d), one per sampled frame, and `tak` (d,)."""

    seg: Tensor
    tak: Tensor


class ChatUniVi(nn.Module):
    """The MLLM: CLIP vision tower, token clustering, projector, LLaMA decoder, and the map to SAM2's prompt space.

    Shape letters: n frames, N patches of the tower, K tokens per frame, C tower width, D LLaMA width, d `out_dim`, L rows.
    The names of the parts are those of the published checkpoint. The tables that are computed (rotary frequencies, position
    ids) are float32 and int64 whatever the weights' type, and real even where the weights are on the meta device.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        width, language_width = config.tower.hidden_size, config.language.hidden_size
        self.vision_tower = CLIPVisionModel(CLIPVisionConfig(**config.tower.to_transformers()))
        self.mm_projector = nn.Linear(width, language_width)
        self.llama = LlamaModel(_llama_config(config.language))
        self.text_hidden_fcs = nn.Sequential(
            nn.Linear(language_width, language_width), nn.ReLU(), nn.Linear(language_width, config.out_dim)
        )
        self._compute_tables(torch.device("cpu"))

    def _compute_tables(self, device: torch.device) -> None:
        with torch.device("cpu"):
            rotary = LlamaRotaryEmbedding(config=self.llama.config)
            positions = torch.arange(self.vision_tower.embeddings.num_positions)[None]
        self.llama.rotary_emb = rotary.to(device)
        self.vision_tower.embeddings.position_ids = positions.to(device)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> ChatUniVi:
        """Behind `to`, `to_empty`, `half`, ...: none of them may round or empty the computed tables."""
        super()._apply(fn, recurse)
        device = self.mm_projector.weight.device
        if device.type != "meta":
            self._compute_tables(device)
        return self

    @property
    def device(self) -> torch.device:
        return self.mm_projector.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.mm_projector.weight.dtype

    def patch_features(self, pixels: Tensor) -> Tensor:
        """The tower's patches (n, N, C) for `tower_input` pixels (n, 3, h, w): hidden state -2, class token dropped.

        The tower's last layer and final norm are weights that are never used, so they are not run.
        """
        side = self.config.tower.image_size
        embedded = self.vision_tower.embeddings(
            pixels.to(self.device, self.dtype), interpolate_pos_encoding=pixels.shape[-2:] != (side, side)
        )
        hidden = self.vision_tower.pre_layrnorm(embedded)
        for layer in self.vision_tower.encoder.layers[:-1]:
            hidden = layer(hidden, attention_mask=None)
        return hidden[:, 1:]

    def image_tokens(self, pixels: Tensor) -> Tensor:
        """What stands for each frame in the prompt: (n, K, D) for pixels (n, 3, h, w), the levels one after the other."""
        levels = cluster(self.patch_features(pixels), self.config.clustering)
        projected: Tensor = self.mm_projector(torch.cat([level.tokens for level in levels], dim=1))
        return projected

    def embed(self, input_ids: Sequence[int], image_tokens: Tensor) -> Tensor:
        """Input embeddings (L, D): each `IMAGE_TOKEN` becomes the K tokens of the next of the frames (n, K, D)."""
        ids = torch.tensor(input_ids, device=self.device)
        is_image = ids == IMAGE_TOKEN
        words = self.llama.embed_tokens(ids.masked_fill(is_image, 0))
        repeats = torch.where(is_image, image_tokens.shape[1], 1)
        rows = words.repeat_interleave(repeats, dim=0)
        return rows.masked_scatter(is_image.repeat_interleave(repeats)[:, None], image_tokens.to(rows.dtype))

    def hidden_states(self, prompt: Prompt, image_tokens: Tensor) -> Tensor:
        """Last hidden states (L, D), after the final norm, of one whole prompt: the schedule that shares nothing."""
        embeddings = self.embed(prompt.input_ids, image_tokens)
        states: Tensor = self.llama(inputs_embeds=embeddings[None], use_cache=False).last_hidden_state[0]
        return states

    def run_prefix(self, prompt: Prompt, image_tokens: Tensor) -> DynamicCache:
        """The LLaMA's keys and values for a prompt up to its last frame; they hold for every prompt on these frames."""
        embeddings = self.embed(prompt.input_ids[: prompt.prefix_length], image_tokens)
        cache = DynamicCache(config=self.llama.config)
        self.llama(inputs_embeds=embeddings[None], past_key_values=cache, use_cache=True)
        return _shared(cache)

    def suffix_states(self, prefix: DynamicCache, prompts: Sequence[Prompt], *, whole: bool = False) -> list[Tensor]:
        """Last hidden states of what follows the prefix, up to the row of [TAK], for prompts that share it.

        Args:
            whole: go on to the prompt's end, as the cross entropy of training needs.

        Returns:
            One (rows, D) per prompt; row 0 is row `prompt.prefix_rows` of the whole prompt.
        """
        suffixes = [prompt.input_ids[prompt.prefix_length : None if whole else _end(prompt)] for prompt in prompts]
        # Padded on the right with token 0. No mask is needed: the decoder is causal, so no real row ever sees a padded one.
        longest = max(map(len, suffixes))
        ids = torch.tensor([[*suffix, *[0] * (longest - len(suffix))] for suffix in suffixes], device=self.device)
        states = self.llama(
            inputs_embeds=self.llama.embed_tokens(ids), past_key_values=prefix, use_cache=True
        ).last_hidden_state
        return [rows[: len(suffix)] for rows, suffix in zip(states, suffixes, strict=True)]

    @torch.inference_mode()
    def read_out(self, prompts: Sequence[Prompt], image_tokens: Tensor, max_suffixes: int = 8) -> list[ReadOut]:
        """The embeddings of instructions on one set of frames, given as their `image_tokens` (n, K, D).

        The common prefix is run once. The rest is run for at most `max_suffixes` instructions at a time, those of similar
        length together. Results are float32, in the order of `prompts`.
        """
        prefix = self.run_prefix(prompts[0], image_tokens)
        order = sorted(range(len(prompts)), key=lambda index: len(prompts[index].input_ids))
        results: dict[int, ReadOut] = {}
        for begin in range(0, len(order), max_suffixes):
            chosen = order[begin : begin + max_suffixes]
            states = self.suffix_states(prefix, [prompts[index] for index in chosen])
            for index, rows in zip(chosen, states, strict=True):
                prompt = prompts[index]
                positions = torch.tensor([*prompt.seg_positions, prompt.tak_position], device=self.device)
                embedded = self.text_hidden_fcs(rows[positions - prompt.prefix_rows]).float()
                results[index] = ReadOut(embedded[:-1], embedded[-1])
        return [results[index] for index in range(len(prompts))]


class _SharedLayer(DynamicLayer):
    """One layer's keys and values of a prefix (batch 1), lent to suffixes of any batch size; it keeps nothing of theirs.

    The wide copy that attention needs lives for one layer at a time, and the prefix serves any number of suffix batches.
    """

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        batch = key_states.shape[0]
        return (
            torch.cat([self.keys.expand(batch, -1, -1, -1), key_states], dim=-2),
            torch.cat([self.values.expand(batch, -1, -1, -1), value_states], dim=-2),
        )


def _shared(cache: DynamicCache) -> DynamicCache:
    for index, layer in enumerate(cache.layers):
        shared = _SharedLayer()
        shared.lazy_initialization(layer.keys, layer.values)
        shared.keys, shared.values = layer.keys, layer.values
        cache.layers[index] = shared
    return cache


def _end(prompt: Prompt) -> int:
    """Number of input ids up to and including the one whose state gives [TAK]; later ones change nothing that is read."""
    return prompt.tak_position - prompt.extra_rows + 1


def _llama_config(config: LanguageConfig) -> LlamaConfig:
    return LlamaConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_key_value_heads=config.num_key_value_heads,
        rms_norm_eps=config.rms_norm_eps,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        max_position_embeddings=config.max_positions,
        vocab_size=config.vocab_size,
        tie_word_embeddings=False,
    )


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """`frame_batch`: frames through the vision tower at once; `max_suffixes`: instructions through the LLaMA at once."""

    model: str = "tiny"
    frame_batch: int = 8
    max_suffixes: int = 8
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("frame_batch", "max_suffixes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")


class Tokens:
    """Operator. Per unit: one tower pass for each distinct sampled frame, one LLaMA prefix (the frames' 112 tokens each) for
    each distinct set of frames, and about 100 further tokens for each instruction.

    In: `video` (live), `sampled_frames` (E lists of n int), `texts`.
    Out: `seg` (E lists of n*d float32, row-major), `tak` (E lists of d float32), `d` (int); None for an instruction that
    failed. A prompt longer than the model has positions is the failure (`InputError`) of its instruction.
    """

    name = "tokens"

    def __init__(self, config: TokensConfig) -> None:
        self.config = config
        self.tokenizer = open_bundle(config.model).prompt_tokenizer()
        self.network: ChatUniVi = shared_network(config.model, "language", config.device, config.dtype)

    def __call__(self, batch: Batch) -> Batch:
        return map_units(self.name, batch, self._tokens, {"seg": [], "tak": [], "d": 0})

    def _tokens(self, unit: Unit) -> Unit:
        prompts, errors = self._prompts(unit)
        groups: dict[tuple[int, ...], list[int]] = {}
        for position in prompts:
            groups.setdefault(tuple(unit["sampled_frames"][position]), []).append(position)
        tokens = self._image_tokens(unit["video"], sorted({frame for frames in groups for frame in frames}))
        count = len(unit["texts"])
        seg: list[list[float] | None] = [None] * count
        tak: list[list[float] | None] = [None] * count
        for frames, positions in groups.items():
            image_tokens = torch.stack([tokens[frame] for frame in frames])
            read = self.network.read_out(
                [prompts[position] for position in positions], image_tokens, self.config.max_suffixes
            )
            for position, result in zip(positions, read, strict=True):
                seg[position], tak[position] = result.seg.flatten().tolist(), result.tak.tolist()
        return {"seg": seg, "tak": tak, "d": self.network.config.out_dim, "errors": errors}

    def _prompts(self, unit: Unit) -> tuple[dict[int, Prompt], list[Any]]:
        """The prompts of the open instructions by position, and the unit's errors with those that cannot be asked."""
        prompts: dict[int, Prompt] = {}
        errors = list(unit["errors"])
        limit = self.network.config.language.max_positions
        for position in open_instructions(unit):
            try:
                text = normalize(unit["texts"][position])
                prompt = self.tokenizer.encode(text, len(unit["sampled_frames"][position]))
                if prompt.length > limit:
                    raise InputError(
                        f"instruction too long: its prompt has {prompt.length} tokens; the model takes {limit}"
                    )
                prompts[position] = prompt
            except InputError as error:
                errors[position] = failure(self.name, error)
        return prompts, errors

    @torch.inference_mode()
    def _image_tokens(self, video: Any, frames: list[int]) -> dict[int, Tensor]:
        """The tokens (K, D) of each of the given distinct frames."""
        tokens: dict[int, Tensor] = {}
        for begin in range(0, len(frames), self.config.frame_batch):
            chosen = frames[begin : begin + self.config.frame_batch]
            # frame by frame, so that one full-size frame is in memory at a time
            pixels = torch.cat([tower_input(video.frames([frame]), self.network.config.tower) for frame in chosen])
            tokens |= zip(chosen, self.network.image_tokens(pixels), strict=True)
        return tokens

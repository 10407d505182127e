"""Chat-UniVi and the read-out of [SEG] and [TAK]: frames and instructions in, one embedding per frame and one per video out.

The answer is teacher-forced: it is part of the prompt, one forward pass is made, nothing is generated. Work is shared:
each distinct frame goes through the vision tower once, and the part of the prompt up to the last frame goes through the
LLaMA once for each distinct set of frames; its keys and values then serve every instruction on these frames.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from vrshq.operators.batch import Batch, InputError, Unit, failure, map_units, open_instructions
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.load import shared_network
from vrshq.operators.models.preprocess import tower_input
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.vrs_hq.prompt import Prompt, Questions, normalize
from vrshq.operators.video.pixel_aspect import pixel_aspect_of

FRAME_BATCH = 8  # frames through the vision tower at once


@dataclass(frozen=True, kw_only=True)
class TokensConfig:
    """How [SEG] and [TAK] are read out.

    Attributes:
        model: name or folder of the bundle.
        questions: which instructions are asked as they are, see `vrs_hq.prompt.is_question`.
        max_suffixes: instructions through the LLaMA at once.
        device: torch's name of the device.
        dtype: torch's name of the type of weights and activations.
    """

    model: str = "tiny"
    questions: Questions = "reference"
    max_suffixes: int = 16
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.max_suffixes < 1:
            raise ValueError(f"max_suffixes {self.max_suffixes}: expected at least 1")


class Tokens:
    """Operator: the MLLM's [SEG] and [TAK] embeddings.

    Cost per unit: one tower pass for each distinct sampled frame, one LLaMA prefix (the frames' 112 tokens each) for
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
        """Runs the stage on every unit of the batch; errors of a unit become its error entry."""
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
                frames = len(unit["sampled_frames"][position])
                prompt = self.tokenizer.encode(text, frames, rule=self.config.questions)
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
        tower, pixel_aspect = self.network.config.tower, pixel_aspect_of(video)
        for begin in range(0, len(frames), FRAME_BATCH):
            chosen = frames[begin : begin + FRAME_BATCH]
            # frame by frame, so that one full-size frame is in memory at a time
            pixels = torch.cat([tower_input(video.frames([frame]), tower, pixel_aspect) for frame in chosen])
            tokens |= zip(chosen, self.network.image_tokens(pixels), strict=True)
        return tokens

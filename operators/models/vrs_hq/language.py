"""VRS-HQ's language side: frames and instructions in, one [SEG] embedding per frame and one [TAK] per video out.

The answer is teacher-forced: it is part of the prompt, one forward pass is made, nothing is generated. Work is shared:
each distinct frame goes through the vision tower once, and the part of the prompt up to the last frame goes through the
LLaMA once for each distinct set of frames; its keys and values then serve every instruction on these frames.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from vrshq.operators.batch import InputError
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.family import Frames, Question, ReadConfig, Reading, keep_some
from vrshq.operators.models.preprocess import Pixels, tower_pixels
from vrshq.operators.models.shared import shared_network
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.vrs_hq.prompt import Prompt, normalize
from vrshq.operators.video.pixel_aspect import pixel_aspect_of
from vrshq.operators.video.prefetch import ahead

Seen = tuple[Tensor, ...]  # one frame's row of each tensor of `ChatUniVi.see`
FRAME_BATCH = 8  # frames through the vision tower at once
GPU_PREFIXES = (
    2  # sets of frames through the LLaMA at once on a GPU, each with its keys and values; a CPU gains nothing
)


class VrsHqLanguage:
    """Chat-UniVi and the read-out of [SEG] and [TAK].

    Cost per video: one tower pass for each distinct sampled frame, one LLaMA prefix (the frames' 112 tokens each) for
    each distinct set of frames, and about 100 further tokens for each instruction.
    """

    def __init__(self, config: ReadConfig) -> None:
        self.config = config
        self.tokenizer = open_bundle(config.model).prompt_tokenizer()
        self.network: ChatUniVi = shared_network(config.model, "language", config.device, config.dtype)

    def read(
        self, video: Frames, questions: Mapping[int, Question], kept: dict[int, Any]
    ) -> dict[int, Reading | InputError]:
        """As `Language.read`. A prompt longer than the model has positions is an `InputError`."""
        result: dict[int, Reading | InputError] = {}
        groups: dict[tuple[int, ...], dict[int, Prompt]] = {}
        for key, question in questions.items():
            try:
                groups.setdefault(question.frames, {})[key] = self._prompt(question)
            except InputError as error:
                result[key] = error
        groups = {frames: prompts for frames, prompts in groups.items() if prompts}
        wanted = sorted({frame for frames in groups for frame in frames})
        seen = {frame: _moved(kept[frame], self.network.device) for frame in wanted if frame in kept}
        made = self._see(video, [frame for frame in wanted if frame not in kept])
        seen |= made
        keep_some(kept, {frame: _moved(one, "cpu") for frame, one in made.items()}, _nbytes)
        at_once = GPU_PREFIXES if self.network.device.type == "cuda" else 1
        for _, of_length in itertools.groupby(sorted(groups, key=len), key=len):
            alike = list(of_length)
            for begin in range(0, len(alike), at_once):
                some = alike[begin : begin + at_once]
                sets = [
                    (list(groups[frames].values()), self._tokens([seen[frame] for frame in frames])) for frames in some
                ]
                for frames, read in zip(some, self.network.read_out_sets(sets, self.config.max_suffixes), strict=True):
                    result |= {key: Reading(one.seg, one.tak) for key, one in zip(groups[frames], read, strict=True)}
        return result

    def _prompt(self, question: Question) -> Prompt:
        limit = self.network.config.language.max_positions
        text = normalize(question.text)
        prompt = self.tokenizer.encode(text, len(question.frames), rule=self.config.questions)
        if prompt.length > limit:
            raise InputError(f"instruction too long: its prompt has {prompt.length} tokens; the model takes {limit}")
        return prompt

    @torch.inference_mode()
    def _tokens(self, seen: Sequence[Seen]) -> Tensor:
        """The tokens (n, K, D) of sampled frames in order."""
        return self.network.in_order(*(torch.stack(parts) for parts in zip(*seen, strict=True)))

    @torch.inference_mode()
    def _see(self, video: Frames, frames: list[int]) -> dict[int, Seen]:
        """What is seen in each of the given distinct frames. One batch is read while another is encoded."""
        seen: dict[int, Seen] = {}
        network, tower, pixel_aspect = self.network, self.network.config.tower, pixel_aspect_of(video)

        def read(chosen: list[int]) -> Pixels:
            # frame by frame, so that one full-size frame is in memory at a time
            parts = [tower_pixels(video.frames([frame]), tower, pixel_aspect, network.device) for frame in chosen]
            return Pixels.concatenate(parts).staged(network.device)

        batches = [frames[begin : begin + FRAME_BATCH] for begin in range(0, len(frames), FRAME_BATCH)]
        for chosen, pixels in zip(batches, ahead(read, batches), strict=True):
            parts = network.see(pixels.on(network.device, network.dtype))
            seen |= zip(chosen, zip(*parts, strict=True), strict=True)
        return seen


def _moved(seen: Seen, device: torch.device | str) -> Seen:
    return tuple(part.to(device) for part in seen)


def _nbytes(seen: Seen) -> int:
    return sum(int(part.nbytes) for part in seen)

"""Sa2VA's language side: frames and instructions in, a generated answer and one embedding for each of its [SEG] out.

Work is shared: each distinct frame goes through the vision tower once, the pictures of each distinct set of frames through the
decoder once, and the instructions on these frames are answered in batches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from vrshq.operators.batch import InputError, check_text
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.family import Frames, Question, ReadConfig, Reading, keep_some
from vrshq.operators.models.sa2va.config import Sa2vaConfig
from vrshq.operators.models.sa2va.network import Answer, Sa2vaLanguage, Seen
from vrshq.operators.models.sa2va.pictures import Picture, picture
from vrshq.operators.models.sa2va.prompt import Conversation, benchmark_text
from vrshq.operators.models.shared import shared_network
from vrshq.operators.video.pixel_aspect import pixel_aspect_of

FRAME_BATCH = 4  # frames through the vision tower at once


class LanguageSide:
    """Qwen3-VL with greedy answers.

    Cost per video: one vision pass for each distinct sampled frame (a 480p frame has 390 tokens, a 1080p one 1,530), one
    decoder pass over these tokens for each distinct set of frames, and one step of the decoder for each generated token.
    """

    def __init__(self, config: ReadConfig) -> None:
        self.config = config
        bundle = open_bundle(config.model)
        self.network: Sa2vaLanguage = shared_network(config.model, "language", config.device, config.dtype)
        self.sizes: Sa2vaConfig = self.network.config
        tokenizer = bundle.folder / "tokenizer.json"
        bundle.verify([tokenizer])
        self.conversation = Conversation(tokenizer)

    def read(
        self, video: Frames, questions: Mapping[int, Question], kept: dict[int, Any]
    ) -> dict[int, Reading | InputError]:
        """As `Language.read`. A prompt longer than the model has positions is an `InputError`."""
        result: dict[int, Reading | InputError] = {}
        groups: dict[tuple[int, ...], dict[int, list[int]]] = {}
        for key, question in questions.items():
            try:
                groups.setdefault(question.frames, {})[key] = self._suffix(question.text)
            except InputError as error:
                result[key] = error
        groups = {frames: suffixes for frames, suffixes in groups.items() if suffixes}
        with self.network.turn:
            wanted = sorted({frame for frames in groups for frame in frames})
            made = self._see(video, [frame for frame in wanted if frame not in kept])
            device = self.network.device
            seen = {frame: (kept[frame][0], kept[frame][1].to(device)) for frame in wanted if frame in kept} | made
            away = {frame: (shown, one.to("cpu")) for frame, (shown, one) in made.items()}
            keep_some(kept, away, lambda pair: int(pair[0].patches.nbytes) + pair[1].nbytes)
            for frames, suffixes in groups.items():
                given = [seen[frame][0] for frame in frames], [seen[frame][1] for frame in frames]
                result |= self._answers(*given, suffixes)
        return result

    def _suffix(self, text: str) -> list[int]:
        check_text(text)
        return self.conversation.suffix(benchmark_text(text) if self.config.wording == "benchmark" else text)

    def _see(self, video: Frames, frames: list[int]) -> dict[int, tuple[Picture, Seen]]:
        pictures: dict[int, Picture] = {}
        seen: dict[int, Seen] = {}
        aspect, sizes = pixel_aspect_of(video), self.sizes
        for begin in range(0, len(frames), FRAME_BATCH):
            chosen = frames[begin : begin + FRAME_BATCH]
            for frame in chosen:  # one full-size frame is in memory at a time
                (pixels,) = video.frames([frame])
                patch = int(sizes.vision["patch_size"])
                pictures[frame] = picture(
                    pixels, patch=patch, least=sizes.min_pixels, most=sizes.max_pixels, pixel_aspect=aspect
                )
            seen |= zip(chosen, self.network.see([pictures[frame] for frame in chosen]), strict=True)
        return {frame: (pictures[frame], seen[frame]) for frame in frames}

    def _answers(
        self, pictures: list[Picture], seen: list[Seen], suffixes: Mapping[int, list[int]]
    ) -> dict[int, Reading | InputError]:
        prefix = self.conversation.prefix(pictures)
        limit = int(self.sizes.language["max_position_embeddings"])
        result: dict[int, Reading | InputError] = {}
        fitting: dict[int, list[int]] = {}
        for key, suffix in suffixes.items():
            longest = len(prefix.ids) + len(suffix) + self.config.max_new_tokens
            if longest > limit:
                result[key] = InputError(
                    f"instruction too long: with {len(prefix.ids)} tokens of frames and an answer of up to "
                    f"{self.config.max_new_tokens} it has {longest} tokens; the model takes {limit}"
                )
            else:
                fitting[key] = suffix
        if fitting:
            cache = self.network.run_prefix(prefix, Seen.concatenate(seen))
            for batch in _batches(sorted(fitting, key=lambda key: len(fitting[key])), self.config.max_suffixes):
                answers = self.network.answers(
                    prefix,
                    cache,
                    [fitting[key] for key in batch],
                    seg_id=self.conversation.seg_id,
                    max_new_tokens=self.config.max_new_tokens,
                )
                result |= {key: self._reading(answer) for key, answer in zip(batch, answers, strict=True)}
        return result

    def _reading(self, answer: Answer) -> Reading:
        ended = answer.ids[-1:] == [self.sizes.end_token_id]
        return Reading(answer.embeddings, answer=self.conversation.answer(answer.ids[:-1] if ended else answer.ids))


def _batches(keys: Iterable[int], size: int) -> list[list[int]]:
    listed = list(keys)
    return [listed[begin : begin + size] for begin in range(0, len(listed), size)]

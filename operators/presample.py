"""Pre-sampling: a sampler picks the MLLM's frames, by how well they fit the instruction in CLIP's opinion, or by number."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from safetensors.torch import load, save
from torch import Tensor

from vrshq.operators.batch import Batch, Failure, InputError, Unit, failure, map_units, once, open_instructions
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.clip import image_embeddings, image_text_logits, text_embeddings
from vrshq.operators.models.requests import value_at
from vrshq.operators.models.shared import shared_network
from vrshq.operators.models.vrs_hq.prompt import normalize
from vrshq.operators.video.sampling import BY_NUMBER, SAMPLERS, SHOTS, WITHOUT_CLIP, generator
from vrshq.operators.video.shots import frames_of_shots, histograms, shot_starts


@dataclass(frozen=True, kw_only=True)
class PreSampleConfig:
    """How frames are chosen for the MLLM.

    `sampler`: one of `sampling.SAMPLERS`, given `max_image_token` frames (`true_n` gives exactly so many, `grid`, as in the
    reference, at most one less). Those of `WITHOUT_CLIP` need no CLIP. `overlong_text`: what happens to a text beyond CLIP's 77
    tokens; the MLLM always reads the whole of it. `clip_every`: CLIP sees frames 0, n, 2n, ... alone, and the sampler chooses
    among them; 1 is the reference. `batch_size`: frames, or texts, through CLIP at once.
    """

    model: str = "tiny"
    sampler: str = "grid"
    max_image_token: int = 12
    seed: int = 0
    overlong_text: Literal["truncate", "refuse"] = "truncate"
    clip_every: int = 1
    batch_size: int = 16
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        if self.sampler not in SAMPLERS and self.sampler not in WITHOUT_CLIP:
            raise ValueError(f"sampler {self.sampler!r}: expected one of {', '.join((*SAMPLERS, *BY_NUMBER, SHOTS))}")
        if self.overlong_text not in ("truncate", "refuse"):
            raise ValueError(f"overlong_text {self.overlong_text!r}: expected truncate or refuse")
        for name in ("max_image_token", "clip_every", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")


class PreSample:
    """Operator. Per unit: one CLIP image encoding of each frame (or `clip_every`-th), one text encoding of each instruction.

    The samplers `WITHOUT_CLIP` load no CLIP: those that go by the frames' numbers cost nothing, `shots` a decode of all frames.

    In: `video` (live), `kept` and `windows` (live, may be missing: the frames' embeddings stay there), `texts`; `clip_probs`
    and `notes` of an earlier run, where an ablation has them: the sampler then chooses by these, and CLIP sees nothing.
    Out: `clip_probs` (E lists of T float32, a softmax over the frames that CLIP saw, 0 for others; None without CLIP),
    `sampled_frames` (E lists of int, ascending), `notes` (E strings or None: what was done to the text). All None for an
    instruction that failed: one whose text is empty or not Unicode, or, where `overlong_text` is "refuse", too long for CLIP
    (`InputError`).
    """

    name = "presample"

    def __init__(self, config: PreSampleConfig) -> None:
        self.config = config
        if config.sampler in WITHOUT_CLIP:
            return
        self.tokenizer = open_bundle(config.model).clip_tokenizer()
        self.clip: Any = shared_network(config.model, "clip", config.device, config.dtype)

    def __call__(self, batch: Batch) -> Batch:
        """Runs the stage on every unit of the batch; errors of a unit become its error entry."""
        return map_units(self.name, batch, self._sample, {"clip_probs": [], "sampled_frames": [], "notes": []})

    @torch.inference_mode()
    def _sample(self, unit: Unit) -> Unit:
        if self.config.sampler in WITHOUT_CLIP:
            return self._without_clip(unit)
        count = len(unit["texts"])
        notes: list[str | None] = [None] * count
        probabilities: list[list[float] | None] = [None] * count
        sampled: list[list[int] | None] = [None] * count
        errors: list[Failure | None] = list(unit["errors"])
        token_ids: dict[int, list[int]] = {}
        for position in open_instructions(unit):
            known = value_at(unit, "clip_probs", position)
            if known is not None:
                row = np.asarray(known, np.float32)[:: self.config.clip_every]
                probabilities[position], notes[position] = known, value_at(unit, "notes", position)
                sampled[position] = self._choose(row, unit["video_id"], unit["instruction_ids"][position])
                continue
            try:
                token_ids[position], notes[position] = self._tokenize(unit["texts"][position])
            except InputError as error:
                errors[position] = failure(self.name, error)
        if token_ids:
            every, total = self.config.clip_every, unit["video"].num_frames
            images = once(unit, "clip_images", lambda: self._embeddings(unit))
            texts = text_embeddings(self.clip, list(token_ids.values()), self.config.batch_size)
            rows = image_text_logits(self.clip, images, texts).softmax(1).cpu().numpy()
            for position, row in zip(token_ids, rows, strict=True):
                sampled[position] = self._choose(row, unit["video_id"], unit["instruction_ids"][position])
                of_frames = np.zeros(total, row.dtype)
                of_frames[::every] = row
                probabilities[position] = of_frames.tolist()
        return {"clip_probs": probabilities, "sampled_frames": sampled, "notes": notes, "errors": errors}

    def _embeddings(self, unit: Unit) -> Tensor:
        """Embeddings (n, C) of the frames that CLIP sees; those of a long unit are kept window by window."""
        video, windows, size = unit["video"], unit.get("windows"), self.config.batch_size
        chosen = range(0, video.num_frames, self.config.clip_every)
        if windows is None:
            return image_embeddings(self.clip, video, size, chosen)
        images: Tensor | None = None
        for number, first in enumerate(range(0, len(chosen), windows.length)):
            name, content = f"clip-{number:05}", windows.load(f"clip-{number:05}")
            if content is None:
                part = image_embeddings(self.clip, video, size, chosen[first : first + windows.length])
                windows.save(name, save({"images": part.cpu()}))
            else:
                part = load(content)["images"].to(self.clip.device)
            if images is None:
                images = part.new_empty(len(chosen), part.shape[1])
            images[first : first + len(part)] = part
            windows.reached()
        assert images is not None
        return images

    def _without_clip(self, unit: Unit) -> Unit:
        count, frames, most = len(unit["texts"]), unit["video"].num_frames, self.config.max_image_token
        sampled: list[list[int] | None] = [None] * count
        of_shots: list[int] | None = None
        if self.config.sampler == SHOTS:
            starts = once(unit, "shots", lambda: shot_starts(histograms(unit["video"].stream(0, frames))))
            of_shots = frames_of_shots(starts, frames, most)
        for position in open_instructions(unit):
            random = generator(self.config.seed, unit["video_id"], unit["instruction_ids"][position])
            sampled[position] = of_shots or BY_NUMBER[self.config.sampler](frames, most, random)
        return {"clip_probs": [None] * count, "sampled_frames": sampled, "notes": [None] * count}

    def _choose(self, probabilities: np.ndarray, video_id: str, instruction_id: str) -> list[int]:
        random = generator(self.config.seed, video_id, instruction_id)
        chosen = SAMPLERS[self.config.sampler](probabilities, self.config.max_image_token, random)
        return [self.config.clip_every * place for place in chosen]

    def _tokenize(self, text: str) -> tuple[list[int], str | None]:
        """CLIP's token ids of a text, begin and end token included, and the note where it was cut to what CLIP takes."""
        limit = self.clip.config.text.max_positions
        ids = self.tokenizer.ids(normalize(text))
        if len(ids) <= limit:
            return ids, None
        if self.config.overlong_text == "refuse":
            raise InputError(f"instruction too long for CLIP: {len(ids)} tokens; expected at most {limit}")
        return [*ids[: limit - 1], ids[-1]], f"CLIP text truncated from {len(ids)} to {limit} tokens"

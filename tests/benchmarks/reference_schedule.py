"""The published code's schedule, one instruction at a time, built from our operators: what sharing is measured against.

For each instruction it does again what the published code does again: CLIP over all frames, the vision tower over the
sampled ones, the whole prompt through the LLaMA, one SAM2 encoding of each sampled frame for TKS, one of the keyframe, one
of each tracked frame, and the keyframe's mask entered anew after each reset of the state. The answers are those of the
shared schedule. In one respect it is kinder than the published code: frames are read from the same open video.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tests.support.array_video import unit_batch
from vrshq.operators.batch import Batch, Operator
from vrshq.operators.fuse import Fuse, FuseConfig, fuse, similarities
from vrshq.operators.keyframe import KeyframeConfig, SelectKeyframe, choose
from vrshq.operators.masks import rle
from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.family import Frames, ReadConfig
from vrshq.operators.models.preprocess import tower_input
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.prompting import decode_candidates
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.tracking import condition_all, propagate_all
from vrshq.operators.models.shared import shared_network
from vrshq.operators.models.vrs_hq.language import VrsHqLanguage
from vrshq.operators.models.vrs_hq.prompt import normalize
from vrshq.operators.presample import PreSample, PreSampleConfig
from vrshq.operators.propagate import Propagate, PropagateConfig
from vrshq.operators.tokens import Tokens, TokensConfig

HOLE_AREA, ALPHA = 8, 0.1


def shared_schedule(
    model: str, *, feature_cache_bytes: int = 2 << 30, encode_batch: int = 4, method: str = "tks"
) -> list[Operator]:
    """The operators from an open video to mask columns, as a for-loop runs them."""
    sam2: dict[str, Any] = {
        "model": model,
        "hole_area": HOLE_AREA,
        "feature_cache_bytes": feature_cache_bytes,
        "encode_batch": encode_batch,
    }
    return [
        PreSample(PreSampleConfig(model=model)),
        Tokens(TokensConfig(model=model)),
        Fuse(FuseConfig(alpha=ALPHA)),
        SelectKeyframe(KeyframeConfig(method=method, **sam2)),
        Propagate(PropagateConfig(**sam2)),
    ]


def first_unit(batch: Batch) -> dict[str, Any]:
    """The columns of a batch's first unit, none of whose instructions may have failed."""
    unit = {column: values[0] for column, values in batch.items()}
    assert not any(unit["errors"]), unit["errors"]
    return unit


@dataclass(frozen=True)
class Answer:
    """One instruction's decisions and masks; `low_res` (T, l, l) are the logits behind `masks`, holes filled."""

    clip_probs: list[float]
    sampled_frames: list[int]
    seg: Tensor  # (n, d)
    tak: Tensor  # (d,)
    fused: Tensor  # (d,)
    similarities: Tensor  # (n,)
    object_scores: Tensor  # (n,)
    keyframe: int
    low_res: Tensor
    frame_scores: list[float]
    masks: list[rle.EncodedMask]
    resized_hw: tuple[int, int]


class Part:
    """Frames start..stop-1 of a video, as if they were the whole of it."""

    def __init__(self, video: Frames, start: int, stop: int) -> None:
        self.video, self.start = video, start
        self.num_frames, self.height, self.width = stop - start, video.height, video.width

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self.video.frames([self.start + index for index in indices])


class ReferenceSchedule:
    """Answers one instruction after the other; nothing is kept from one to the next."""

    def __init__(self, model: str) -> None:
        self.presample = PreSample(PreSampleConfig(model=model))
        self.language = VrsHqLanguage(ReadConfig(model=model))
        self.segmenter: Segmenter = shared_network(model, "segmenter", "cpu", "float32")

    @torch.inference_mode()
    def answer(self, video: Any, text: str) -> Answer:
        unit = first_unit(self.presample(unit_batch(video, [text])))
        frames: list[int] = unit["sampled_frames"][0]
        seg, tak = self._read_out(video, text, frames)
        cosines, fused = similarities(seg, tak), fuse(seg, tak, ALPHA)
        candidates = [self._candidate(self._state(video), frame, fused) for frame in frames]
        scores = torch.tensor([score for score, _ in candidates])
        chosen = choose(
            "tks",
            object_scores=scores,
            similarities=cosines,
            clip_probs=torch.tensor([unit["clip_probs"][0][frame] for frame in frames]),
            random=np.random.default_rng(0),
        )
        rows, resized = self._masks(video, frames[chosen], fused)
        low_res = torch.stack([rows[frame][0] for frame in range(video.num_frames)])
        frame_scores = [rows[frame][1] for frame in range(video.num_frames)]
        masks = []
        for row in low_res:
            full = to_frame_size(row[None], self.segmenter.image_size, resized, (video.height, video.width))
            masks += rle.encode((full > 0).numpy())
        return Answer(
            clip_probs=unit["clip_probs"][0],
            sampled_frames=frames,
            seg=seg,
            tak=tak,
            fused=fused,
            similarities=cosines,
            object_scores=scores,
            keyframe=frames[chosen],
            low_res=low_res,
            frame_scores=frame_scores,
            masks=masks,
            resized_hw=resized,
        )

    def _read_out(self, video: Any, text: str, frames: list[int]) -> tuple[Tensor, Tensor]:
        """[SEG] (n, d) and [TAK] (d,) by one pass over the whole prompt, its frames through the tower."""
        network, tokenizer = self.language.network, self.language.tokenizer
        prompt = tokenizer.encode(normalize(text), len(frames))
        pixels = tower_input(video.frames(frames), network.config.tower)
        states = network.hidden_states(prompt, network.image_tokens(pixels))
        embedded = network.text_hidden_fcs(states[[*prompt.seg_positions, prompt.tak_position]])
        return embedded[:-1], embedded[-1]

    def _state(self, video: Frames) -> VideoFeatures:
        """A fresh state: it remembers the features of the last frame it saw, and of no other, as SAM2's predictor does."""
        return VideoFeatures(self.segmenter, video, budget_bytes=1, batch_size=1)

    def _candidate(self, state: VideoFeatures, frame: int, fused: Tensor) -> tuple[float, Tensor]:
        decoded = decode_candidates(self.segmenter, state, [(frame, 0)], [fused], 1, HOLE_AREA)
        return decoded[frame, 0]

    def _masks(
        self, video: Frames, keyframe: int, fused: Tensor
    ) -> tuple[dict[int, tuple[Tensor, float]], tuple[int, int]]:
        """Per frame the low-resolution logits and the object logit, and the frame's size inside the model's square."""
        total = video.num_frames
        # Each stretch is swept from the keyframe on in a state of its own. It is at least as long as its longest history,
        # so the limit on object pointers, min(T, 16), is the same as for the whole video.
        ends = keyframe in (0, total - 1)
        stretches = [(0, total)] if ends else [(keyframe, total), (0, keyframe + 1)]
        rows: dict[int, tuple[Tensor, float]] = {}
        mask: Tensor | None = None
        for start, stop in stretches:
            state, key = self._state(Part(video, start, stop)), keyframe - start
            if mask is None:
                score, mask = self._candidate(state, key, fused)
            # in the second stretch this is the first entry after a reset: the keyframe is encoded again
            low_res, memory = condition_all(self.segmenter, state, {0: key}, {0: mask}, HOLE_AREA)[0]
            rows[keyframe] = low_res, score
            for step in propagate_all(self.segmenter, state, {0: {key: memory}}, stop - start, 1):
                for item in step:
                    filled = fill_holes(item.low_res[None], HOLE_AREA)[0]
                    rows[start + item.frame] = filled, item.object_logit
        assert mask is not None
        if not ends:  # the published code resets and enters the mask once more, without any effect
            condition_all(self.segmenter, state, {0: key}, {0: mask}, HOLE_AREA)
        return rows, state.resized_hw


def expected_encoder_calls(num_sampled: int, num_frames: int, keyframe: int) -> int:
    """The published code's SAM2 image encodings for one instruction.

    n sampled frames, the keyframe, T - 1 tracked frames; and, where there are two directions, the keyframe again for the
    mask's entry after each of two resets. The first entry finds the keyframe still in the state.
    """
    return num_sampled + 1 + (num_frames - 1) + (2 if 0 < keyframe < num_frames - 1 else 0)


@dataclass
class Calls:
    """Images, or passes, through each network so far."""

    sam2: int = 0
    clip: int = 0
    tower: int = 0
    prefixes: int = 0  # LLaMA passes that start from nothing
    suffixes: int = 0  # rows of passes that go on from a prefix


@contextmanager
def counted_calls(model: str) -> Iterator[Calls]:
    """Counts by hooks on the networks that all operators of this process share."""
    calls = Calls()
    language = shared_network(model, "language", "cpu", "float32")
    clip = shared_network(model, "clip", "cpu", "float32")
    segmenter = shared_network(model, "segmenter", "cpu", "float32")

    def images(name: str) -> Any:
        def count(_: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            pixels = next(value for value in (*arguments, *named.values()) if isinstance(value, Tensor))
            setattr(calls, name, getattr(calls, name) + len(pixels))

        return count

    def passes(_: nn.Module, arguments: tuple[Any, ...], __: dict[str, Any]) -> None:
        embeddings, *prefix = arguments
        if prefix:
            calls.suffixes += len(embeddings)
        else:
            calls.prefixes += 1

    with ExitStack() as hooks:
        for module, hook in (
            (segmenter.image_encoder.trunk, images("sam2")),
            (clip.vision_model.embeddings, images("clip")),
            (language.vision_tower.embeddings, images("tower")),
            (language.llama, passes),
        ):
            hooks.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield calls

"""Sa2VA through the stages: the reference's answer and masks, work that is shared, and each other way of tracking."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from tests.support.array_video import ArrayVideo, unit_batch
from tests.support.sa2va_tiny import ANSWERS, MODEL, QUESTIONS, case, case_video, counted_calls, stages
from vrshq.operators.batch import Unit, run_operators
from vrshq.operators.masks import rle
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Memory, Segmenter, to_frame_size
from vrshq.operators.models.shared import shared_network
from vrshq.operators.video.sampling import spread

MASK_MARGIN = 0.005  # masks may differ where the own logit is this near to 0 (section 8 of the kit's README)


def answered(video: ArrayVideo, texts: list[str], **settings: Any) -> Unit:
    """The unit's columns after all stages; no instruction may have failed."""
    batch = run_operators(stages(**settings), unit_batch(video, texts))
    unit = {column: values[0] for column, values in batch.items()}
    assert not any(unit["errors"]), unit["errors"]
    return unit


def test_sa2va_distilled_case_parity() -> None:
    """The stages give the answer, the embeddings and the masks of the reference."""
    found, frames = case("q3"), len(case("q3")["frames"])
    unit = answered(case_video("q3"), [QUESTIONS["q3"]])
    assert unit["answers"] == [ANSWERS["q3"]]
    assert unit["num_objects"] == [2]
    assert unit["sampled_frames"] == [[0, 1, 2, 3, 4]]
    assert unit["tak"] == [[]]
    assert unit["similarities"] == [[]]
    assert unit["keyframes"] == [None]
    assert np.abs(np.array(unit["seg"][0]).reshape(2, -1) - found["seg_embed"]).max() <= 1e-4
    height, width = found["orig_hw"].tolist()
    for number in range(2):
        bits = np.unpackbits(found[f"seg{number}/final_masks_packed"], axis=1)[:, : height * width]
        masks = np.stack([rle.decode(code, height, width) for code in unit["rles"][0][number]])
        assert masks.shape == (frames, height, width)
        assert (masks.reshape(frames, -1) != bits).sum() <= 20
        assert masks.any()
    assert [len(scores) for scores in unit["object_scores"][0]] == [5, 5]
    assert unit["presence"][0] == pytest.approx(1 / (1 + np.exp(-np.max(unit["object_scores"][0]))))


@pytest.mark.parametrize("count", [1, 5, 20])
def test_sa2va_work_is_shared_by_all_instructions_and_objects(count: int) -> None:
    """The reference encodes each frame for each [SEG], and runs vision tower and prefix for each instruction."""
    total, prompted = 40, 5
    texts = [f"number {number} " + "[SEG] " * (1 + number % 3) for number in range(count)]
    with counted_calls() as calls:
        unit = answered(ArrayVideo(total), texts, prompt={"wording": "as_is", "max_new_tokens": 4})
    objects = sum(unit["num_objects"])
    assert objects >= sum(1 + number % 3 for number in range(count))
    assert (calls.sam2, calls.vision, calls.prefixes) == (total, prompted, 1)
    assert unit["features"].encoder_calls == total
    reference = {"sam2": objects * (prompted + total), "vision": count * prompted, "prefixes": count}
    print(f"E = {count}, {objects} objects: {calls}; the reference: {reference}")
    assert all(len(row) == total and all(row) for masks in unit["rles"] for row in masks)


def test_sa2va_answer_without_seg_has_no_object_and_empty_masks_parity() -> None:
    video = case_video("q2")
    with counted_calls() as calls:
        unit = answered(video, [QUESTIONS["q2"]])
    assert unit["answers"] == [ANSWERS["q2"]]
    assert unit["num_objects"] == [0]
    assert unit["presence"] == [None]
    assert unit["object_scores"] == [[]]
    assert calls.sam2 == 0
    assert unit["areas"] == [[[0] * 3]]
    assert all(not rle.decode(code, video.height, video.width).any() for code in unit["rles"][0][0])


def test_sa2va_instructions_do_not_change_each_other() -> None:
    texts = ["a [SEG]", "the other [SEG] and [SEG]", "the ball"]
    video = ArrayVideo(9)
    together = answered(video, texts)
    for position, text in enumerate(texts):
        alone = answered(video, [text])
        assert alone["answers"] == [together["answers"][position]]
        for one, other in zip(alone["rles"][0], together["rles"][position], strict=True):
            masks = [np.stack([rle.decode(code, 40, 64) for code in codes]) for codes in (one, other)]
            assert (masks[0] != masks[1]).mean() < 1e-3


def test_sa2va_refused_texts_cost_their_own_instruction() -> None:
    batch = run_operators(stages(), unit_batch(ArrayVideo(3), [" ", "\ud800", "the ball"]))
    messages = [error and error["message"] for error in batch["errors"][0]]
    assert messages[0].startswith("empty instruction text")
    assert messages[1].startswith("instruction text is not valid Unicode")
    assert messages[2] is None
    batch = run_operators(stages(prompt={"max_new_tokens": 300_000}), unit_batch(ArrayVideo(3), ["the ball"]))
    assert "the model takes 262144" in batch["errors"][0][0]["message"]


class PlainLoop:
    """One object through a video, by SAM2's own rules: memories are looked up by frame number at each step."""

    def __init__(self, video: ArrayVideo, prompt: list[float]) -> None:
        self.network: Segmenter = shared_network(MODEL, "segmenter", "cpu", "float32")
        self.features = VideoFeatures(self.network, video, budget_bytes=1 << 30, batch_size=1)
        self.prompt, self.total = torch.tensor([prompt]), video.num_frames
        self.size = (video.height, video.width)
        self.logits: dict[int, torch.Tensor] = {}
        self.scores: dict[int, float] = {}

    @torch.inference_mode()
    def prompted(self, frame: int) -> Memory:
        decoded, memory = self.network.decode_prompted(self.features.get([frame]), self.prompt)
        self.logits[frame], self.scores[frame] = decoded.low_res, float(decoded.object_logit)
        return memory

    @torch.inference_mode()
    def track(self, prompted: dict[int, Memory], order: list[int]) -> None:
        step = 1 if order == sorted(order) else -1
        known: dict[int, Memory] = {}
        for frame in order:
            near = [(age, known.get(frame - step * age)) for age in range(1, min(self.total, 16))]
            past = [one for one in prompted if step * (frame - one) > 0]
            ahead = [one for one in prompted if one not in past]
            recent = [(age, memory.features) for age, memory in near[: self.network.num_maskmem - 1] if memory]
            decoded, known[frame] = self.network.track(
                self.features.get([frame]),
                [prompted[one] for one in (*past, *ahead)],
                [features for _, features in recent],
                [memory.pointer for _, memory in near if memory],
                ages=[age for age, _ in recent],
                ahead=len(ahead),
            )
            self.logits[frame] = decoded.low_res

    def compare(self, codes: list[bytes]) -> None:
        for frame, code in enumerate(codes):
            mask = rle.decode(code, *self.size).astype(bool)
            if frame not in self.logits:
                assert not mask.any()
                continue
            resized = (self.network.image_size, self.network.image_size)
            full = to_frame_size(self.logits[frame], self.network.image_size, resized, self.size)[0].numpy()
            assert (np.abs(full[mask != (full > 0)]) < MASK_MARGIN).all()
        assert any(codes)


TOTAL = 23
TWO = ["[SEG] and [SEG]"]
SHORT = {"wording": "as_is", "max_new_tokens": 2}


def test_sa2va_frames_spread_over_the_video_equal_a_plain_loop() -> None:
    """All prompted frames are seen from every other one, those ahead without their pointers."""
    video = ArrayVideo(TOTAL)
    unit = answered(video, TWO, sampling={"sampler": "spread"}, prompt=SHORT)
    assert unit["sampled_frames"] == [[0, 5, 11, 16, 22]] == [spread(TOTAL, 5)]
    for number, prompt in enumerate(unit["prompts"][0]):
        loop = PlainLoop(video, prompt)
        prompted = {frame: loop.prompted(frame) for frame in spread(TOTAL, 5)}
        loop.track(prompted, [frame for frame in range(1, TOTAL) if frame not in prompted])
        loop.compare(unit["rles"][0][number])


@pytest.mark.parametrize("directions", ["forward", "both"])
def test_sa2va_keyframes_by_object_score_equal_a_plain_loop(directions: str) -> None:
    """TKS over the [SEG] candidates: there is no [TAK], so the object score alone decides."""
    video = ArrayVideo(TOTAL)
    tracking = {"start": "keyframe", "directions": directions}
    unit = answered(video, TWO, sampling={"sampler": "spread"}, tracking=tracking, prompt=SHORT)
    for number, prompt in enumerate(unit["prompts"][0]):
        loop = PlainLoop(video, prompt)
        for frame in spread(TOTAL, 5):
            loop.prompted(frame)
        keyframe = max(loop.scores, key=lambda frame: loop.scores[frame])
        assert unit["keyframes"][0][number] == keyframe
        loop.logits.clear()
        memory = {keyframe: loop.prompted(keyframe)}
        loop.track(memory, list(range(keyframe + 1, TOTAL)))
        if directions == "both":
            loop.track(memory, list(range(keyframe - 1, -1, -1)))
        loop.compare(unit["rles"][0][number])
        assert len(loop.logits) == (TOTAL if directions == "both" else TOTAL - keyframe)

"""Work is shared: how often each network runs for E instructions of a video, and that sharing changes no answer."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.benchmarks.reference_schedule import (
    HOLE_AREA,
    Answer,
    Calls,
    ReferenceSchedule,
    counted_calls,
    expected_encoder_calls,
    first_unit,
    shared_schedule,
)
from tests.support.array_video import ArrayVideo, unit_batch
from tests.support.clips import h264
from tests.support.parity import (
    KIT,
    MASK_MARGIN,
    NO_OBJECT,
    TOLERANCES,
    Case,
    each_case,
    load_case,
    model_config,
    needs_kit,
)
from vrshq.operators.batch import Unit, close_videos, new_batch, run_operators
from vrshq.operators.decode import Decode
from vrshq.operators.masks import rle
from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.bundle import FORMAT
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.tracking import condition_all, propagate_all

TINY = "untrained-tiny"
TEXTS = ["the red circle", "which dog reacts first?", "something that is not there", "a ball", "who is it?"]


def instructions(count: int) -> list[str]:
    return [f"{TEXTS[number % len(TEXTS)]} {number}" for number in range(count)]


@pytest.fixture(scope="module")
def clip_of_40(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return h264(tmp_path_factory.mktemp("clips") / "forty.mp4", frames=40)


@pytest.fixture(scope="module")
def kit_bundle(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The kit's weights and tokenizers as a bundle."""
    folder = tmp_path_factory.mktemp("kit")
    description = {"format": FORMAT, "name": "kit", "model": model_config().to_dict()}
    (folder / "bundle.json").write_text(json.dumps(description))
    for name, source in {
        "model.safetensors": KIT / "model_safetensors" / "model.safetensors",
        "tokenizer.model": KIT / "model" / "tokenizer.model",
        "clip": KIT / "clip",
    }.items():
        (folder / name).symlink_to(source)
    return str(folder)


@cache
def reference(model: str) -> ReferenceSchedule:
    return ReferenceSchedule(model)


def decode_and_run(clip: Path, texts: list[str], **settings: Any) -> tuple[Unit, Calls]:
    """The for-loop over a video file: the unit's columns, and the calls it took."""
    unit = {"unit_id": "u", "video_id": "v", "video_uri": str(clip), "instruction_ids": texts, "texts": texts}
    operators = [Decode(), *shared_schedule(TINY, **settings)]
    with counted_calls(TINY) as calls:
        batch = run_operators(operators, new_batch([unit]))
    done = first_unit(batch)
    done["decode_passes"] = done["video"].decode_passes
    close_videos(batch)
    return done, calls


@pytest.mark.parametrize(("count", "method"), [(1, "tks"), (7, "tks"), (5, "random")])
def test_each_network_sees_each_frame_at_most_once(clip_of_40: Path, count: int, method: str) -> None:
    # "random" spreads the keyframes over the video, so that all instructions are tracked in both directions
    unit, calls = decode_and_run(clip_of_40, instructions(count), method=method)
    sampled = [tuple(frames) for frames in unit["sampled_frames"]]
    assert unit["num_frames"] == 40
    assert calls.sam2 <= 40
    assert calls.sam2 == unit["features"].encoder_calls
    assert calls.clip <= 40
    assert calls.tower <= len({frame for frames in sampled for frame in frames})
    assert calls.prefixes <= len(set(sampled))
    assert calls.suffixes <= count
    assert unit["decode_passes"] == 1
    assert all(len(masks) == 40 and all(masks) for (masks,) in unit["rles"])


def test_a_small_feature_budget_costs_counted_recomputation_and_changes_no_mask(tmp_path: Path) -> None:
    clip, texts = h264(tmp_path / "twenty.mp4", frames=20), instructions(2)
    # one frame at a time: the batch an image is encoded in may change its features in the last bits
    roomy, few = decode_and_run(clip, texts, method="random", encode_batch=1)
    segmenter = roomy["features"].segmenter
    kept = segmenter.encode(torch.zeros(1, 3, segmenter.image_size, segmenter.image_size)).nbytes
    tight, many = decode_and_run(clip, texts, method="random", encode_batch=1, feature_cache_bytes=4 * kept)
    assert few.sam2 == 20 < many.sam2
    assert many.sam2 == tight["features"].encoder_calls
    for column in ("keyframes", "rles", "frame_scores", "object_scores"):
        assert tight[column] == roomy[column]


def test_instructions_with_the_same_keyframe_and_mask_are_tracked_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clip, rows, conditioned = h264(tmp_path / "ten.mp4", frames=10), [], []
    track, condition = Segmenter.track, Segmenter.condition

    def tracked(self: Segmenter, features: Any, memories: Any, *rest: Any, **named: Any) -> Any:
        rows.append(len(memories[0].pointer))
        return track(self, features, memories, *rest, **named)

    def prompted(self: Segmenter, features: Any, masks: Any, hole_area: int) -> Any:
        conditioned.append(len(masks))
        return condition(self, features, masks, hole_area)

    monkeypatch.setattr(Segmenter, "track", tracked)
    monkeypatch.setattr(Segmenter, "condition", prompted)
    # "random" draws by the instruction's id, which is the text here
    alone, _ = decode_and_run(clip, [TEXTS[0]], method="random")
    rows.clear()
    conditioned.clear()
    unit, _ = decode_and_run(clip, [TEXTS[0], TEXTS[0], TEXTS[3], TEXTS[0]], method="random")
    assert (sum(conditioned), sum(rows)) == (2, 2 * 9)
    assert unit["rles"][0] == unit["rles"][1] == unit["rles"][3] != unit["rles"][2]
    assert unit["rles"][0] == alone["rles"][0]
    assert unit["frame_scores"][0] == unit["frame_scores"][1] == unit["frame_scores"][3]


def shared_low_res(unit: Unit, total: int) -> dict[int, dict[int, torch.Tensor]]:
    """Low-resolution logits by instruction position and frame, all instructions tracked together."""
    features = unit["features"]
    keyframes = {position: keyframe for position, (keyframe,) in enumerate(unit["keyframes"])}
    masks = {position: logits for position, (logits,) in enumerate(unit["keyframe_logits"])}
    conditioned = condition_all(features.segmenter, features, keyframes, masks, HOLE_AREA)
    rows = {position: {keyframes[position]: low_res} for position, (low_res, _) in conditioned.items()}
    memories = {position: {keyframes[position]: memory} for position, (_, memory) in conditioned.items()}
    for step in propagate_all(features.segmenter, features, memories, total, 16):
        for item in step:
            rows[item.position][item.frame] = fill_holes(item.low_res[None], HOLE_AREA)[0]
    return rows


def assert_equal_answers(model: str, video: ArrayVideo, texts: list[str]) -> list[tuple[Answer, int]]:
    """Runs both schedules and compares everything they give.

    Returns:
        The reference schedule's answers, each with the SAM2 image encodings counted for it.
    """
    shared = first_unit(run_operators(shared_schedule(model), unit_batch(video, texts)))
    low_res = shared_low_res(shared, video.num_frames)
    answers = []
    for position, text in enumerate(texts):
        with counted_calls(model) as calls:
            answer = reference(model).answer(video, text)
        answers.append((answer, calls.sam2))
        count = len(answer.sampled_frames)
        assert calls.sam2 == expected_encoder_calls(count, video.num_frames, answer.keyframe)
        assert (calls.clip, calls.tower, calls.prefixes) == (video.num_frames, count, 1)

        assert shared["sampled_frames"][position] == answer.sampled_frames
        assert shared["keyframes"][position] == [answer.keyframe]
        got = torch.stack([low_res[position][frame] for frame in range(video.num_frames)])
        pairs = {
            "clip_probs": (shared["clip_probs"][position], answer.clip_probs),
            "seg_embed": (torch.tensor(shared["seg"][position]).view(count, -1), answer.seg),
            "tak_embed": (shared["tak"][position], answer.tak),
            "fused": (shared["prompts"][position][0], answer.fused),
            "similarity_cos": (shared["similarities"][position], answer.similarities),
            "tks_object_logit": (shared["object_scores"][position][0], answer.object_scores),
            "track_object_logit": (shared["frame_scores"][position][0], answer.frame_scores),
            "track_low_res_logits": (got, answer.low_res),
        }
        for key, (mine, theirs) in pairs.items():
            difference = np.abs(np.asarray(mine) - np.asarray(theirs)).max()
            assert difference <= TOLERANCES[key], f"{key} of {text!r}: {difference:.3g}"
        assert torch.equal(got == NO_OBJECT, answer.low_res == NO_OBJECT)
        assert_equal_masks(model, video, shared["rles"][position][0], answer)
    return answers


def assert_equal_masks(model: str, video: ArrayVideo, codes: list[bytes], answer: Answer) -> None:
    size = (video.height, video.width)
    logits = to_frame_size(answer.low_res, reference(model).segmenter.image_size, answer.resized_hw, size)
    for code, mask, row in zip(codes, answer.masks, logits.numpy(), strict=True):
        differs = rle.decode(code, *size) != rle.decode(mask.rle, *size)
        assert (np.abs(row[differs]) < MASK_MARGIN).all()


@pytest.mark.parametrize("total", [1, 9])
def test_shared_schedule_equals_one_instruction_at_a_time(total: int) -> None:
    answers = assert_equal_answers(TINY, ArrayVideo(total), TEXTS[:3])
    assert any(0 < mask.area < 40 * 64 for answer, _ in answers for mask in answer.masks)


@needs_kit
@each_case
def test_shared_schedule_equals_one_instruction_at_a_time_parity(case_id: str, kit_bundle: str) -> None:
    case: Case = load_case(case_id)
    frames = case["frames"]
    video = ArrayVideo(*frames.shape[:3])
    video.array = frames
    answers = assert_equal_answers(kit_bundle, video, [case.info["expression_raw"], "what blocks the disc twice?"])
    answer, calls = answers[0]
    assert answer.sampled_frames == case["frame_ids"].tolist()
    assert answer.keyframe == int(case["key_frame"])
    assert calls == case.info["reference_image_encoder_calls"]

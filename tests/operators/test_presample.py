from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch

from tests.support.array_video import ArrayVideo, unit_batch
from tests.support.transformers_networks import hf_clip
from vrshq.operators.models.preprocess import clip_input
from vrshq.operators.presample import PreSample, PreSampleConfig
from vrshq.operators.video.sampling import grid

TEXTS = ["The red  circle", "which dog runs?", "something that is not there"]


@cache
def presample(**settings: object) -> PreSample:
    return PreSample(PreSampleConfig(model="untrained-tiny", **settings))  # type: ignore[arg-type]


@pytest.mark.parametrize("count", [1, 5, 20])
def test_each_frame_is_clip_encoded_once_for_all_instructions(count: int) -> None:
    operator, video = presample(), ArrayVideo(40)
    frames = texts = 0

    def count_frames(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        nonlocal frames
        frames += len(arguments[0])

    def count_texts(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        nonlocal texts
        texts += len(arguments[0])

    hooks = [
        operator.clip.vision_model.embeddings.patch_embedding.register_forward_pre_hook(count_frames),
        operator.clip.text_projection.register_forward_pre_hook(count_texts),
    ]
    batch = operator(unit_batch(video, [f"the {number} th thing" for number in range(count)]))
    for hook in hooks:
        hook.remove()
    assert batch["errors"] == [[None] * count]
    assert (frames, texts) == (40, count)
    assert video.read == list(range(40))


def test_columns() -> None:
    batch = presample()(unit_batch(ArrayVideo(25), TEXTS))
    assert [len(row) for row in batch["clip_probs"][0]] == [25] * 3
    for row, frames in zip(batch["clip_probs"][0], batch["sampled_frames"][0], strict=True):
        assert sum(row) == pytest.approx(1)
        assert int(np.argmax(row)) in frames
        assert frames == list(range(frames[0], 25, 3))
    assert batch["notes"] == [[None] * 3]


def test_probabilities_equal_transformers_own_forward() -> None:
    operator, video = presample(), ArrayVideo(5)
    row = operator(unit_batch(video, [TEXTS[0]]))["clip_probs"][0][0]
    reference = hf_clip(operator.clip.config).eval()
    reference.load_state_dict(operator.clip.state_dict())
    with torch.inference_mode():
        output = reference(
            input_ids=torch.tensor([operator.tokenizer.ids("the red circle")]),
            pixel_values=clip_input(video.array, 112),
        )
    np.testing.assert_allclose(row, output.logits_per_image.softmax(0)[:, 0], atol=1e-6)


def test_a_failed_instruction_leaves_the_others_alone() -> None:
    operator, video = presample(), ArrayVideo(9)
    alone = operator(unit_batch(video, TEXTS[:1]))
    batch = operator(unit_batch(video, [" \n ", TEXTS[0], "bad \ud800"]))
    first, middle, last = batch["errors"][0]
    assert (first["stage"], first["error_type"], middle) == ("presample", "InputError", None)
    assert first["message"].startswith("empty instruction text; expected")
    assert "not valid Unicode" in last["message"]
    assert batch["sampled_frames"][0][1] == alone["sampled_frames"][0][0]
    assert batch["clip_probs"][0][0] is batch["sampled_frames"][0][2] is None


def test_a_unit_without_usable_text_does_not_read_its_video() -> None:
    video = ArrayVideo(9)
    batch = presample()(unit_batch(video, [""]))
    assert batch["errors"][0][0] is not None
    assert video.read == []


def test_overlong_text_is_truncated_with_a_note() -> None:
    batch = presample()(unit_batch(ArrayVideo(3), ["red " * 200, "red"]))
    assert batch["notes"] == [["CLIP text truncated from 202 to 77 tokens", None]]
    assert batch["errors"] == [[None, None]]


def test_overlong_text_is_refused_if_so_configured() -> None:
    batch = presample(overlong_text="refuse")(unit_batch(ArrayVideo(3), ["red " * 200, "red"]))
    failed, other = batch["errors"][0]
    assert failed["message"] == "instruction too long for CLIP: 202 tokens; expected at most 77"
    assert other is None


def test_text_that_spells_clips_end_token_is_not_read_as_it() -> None:
    operator = presample()
    ids, _ = operator._tokenize("the red <|endoftext|> car <|startoftext|>")
    begin, end = operator.tokenizer.ids("")
    assert (ids.count(begin), ids.count(end)) == (1, 1)


@pytest.mark.parametrize("sampler", ["uniform", "local_global"])
def test_random_samplers_do_not_depend_on_order_or_company(sampler: str) -> None:
    operator, video = presample(sampler=sampler, max_image_token=6), ArrayVideo(40)
    together = operator(unit_batch(video, TEXTS))["sampled_frames"][0]
    backwards = operator(unit_batch(video, TEXTS[::-1]))["sampled_frames"][0][::-1]
    alone = [operator(unit_batch(video, [text]))["sampled_frames"][0][0] for text in TEXTS]
    assert together == backwards == alone
    assert len({tuple(frames) for frames in together}) == 3


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "best"}, "sampler 'best': expected one of grid, uniform"),
        ({"max_image_token": 0}, "max_image_token 0: expected at least 1"),
        ({"overlong_text": "cut"}, "expected truncate or refuse"),
    ],
)
def test_wrong_settings_are_named(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PreSampleConfig(**settings)  # type: ignore[arg-type]


def test_clip_sees_every_nth_frame_and_the_sampler_chooses_among_those() -> None:
    video = ArrayVideo(50)
    batch = presample(clip_every=4)(unit_batch(video, TEXTS))
    assert video.read == list(range(0, 50, 4))
    seen = presample()(unit_batch(ArrayVideo(50), TEXTS))
    for row, whole, frames in zip(
        batch["clip_probs"][0], seen["clip_probs"][0], batch["sampled_frames"][0], strict=True
    ):
        strided = np.array(whole)[::4]
        np.testing.assert_allclose(np.array(row)[::4], strided / strided.sum(), rtol=1e-5)
        assert np.count_nonzero(row) == 13
        assert frames == [4 * place for place in grid(strided, 12, np.random.default_rng())]

"""Motion features of the frames' tokens: differences of neighbouring sampled frames."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.array_video import ArrayVideo
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.family import Question, ReadConfig
from vrshq.operators.models.preprocess import tower_input
from vrshq.operators.models.vrs_hq.clustering import cluster
from vrshq.operators.models.vrs_hq.differences import FrameDifferences
from vrshq.operators.models.vrs_hq.language import VrsHqLanguage

MODEL = replace(open_bundle("untrained-tiny").model, frame_differences=True)


@settings(max_examples=20, deadline=None)
@given(st.integers(1, 5), st.integers(0, 2**32 - 1))
def test_a_token_gets_the_mean_difference_of_its_patches_to_the_frames_beside_its_own(frames: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    network = FrameDifferences(MODEL)
    patches = torch.randn(frames, 256, MODEL.tower.hidden_size, generator=random)
    levels = cluster(patches, MODEL.clustering)
    tokens = torch.randn(frames, 112, MODEL.language.hidden_size, generator=random)
    with torch.no_grad():
        found = network(tokens, patches, [level.assignment for level in levels]) - tokens
        # The patches of a token, level after level; a level's token is the mean of the means that it was merged from.
        for frame in range(frames):
            shares, place = torch.eye(256), 0
            for level in levels:
                member = torch.nn.functional.one_hot(level.assignment[frame], level.tokens.shape[1]).T.float()
                shares = member / member.sum(1, keepdim=True) @ shares
                for share in shares:
                    before = share @ (patches[frame] - patches[max(frame - 1, 0)])
                    after = share @ (patches[min(frame + 1, frames - 1)] - patches[frame])
                    expected = network.project.weight @ torch.cat([before, after])
                    torch.testing.assert_close(found[frame, place], expected, rtol=1e-3, atol=1e-4)
                    place += 1


@pytest.fixture(scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A copy of the untrained model that has the differences."""
    folder = tmp_path_factory.mktemp("moving") / "moving"
    shutil.copytree(open_bundle("untrained-tiny").folder, folder)
    about: dict[str, Any] = json.loads((folder / "bundle.json").read_text())
    about["model"]["frame_differences"] = True
    (folder / "bundle.json").write_text(json.dumps(about))
    return str(folder)


def test_a_frame_that_several_instructions_sample_has_the_neighbours_of_each(moving: str) -> None:
    video, sampled = ArrayVideo(12), [(0, 2, 4), (2, 3, 5), (2,), (0, 2, 4)]
    language = VrsHqLanguage(ReadConfig(model=moving))
    questions = {number: Question("the red circle", frames) for number, frames in enumerate(sampled)}
    kept: dict[int, Any] = {}
    found = language.read(video, {0: questions[0]}, kept) | language.read(video, questions, kept)
    seen: list[int] = []
    hook = language.network.vision_tower.embeddings.register_forward_hook(lambda *_: seen.append(1))
    again = language.read(video, questions, kept)
    hook.remove()
    assert not seen  # all frames were kept
    network = language.network
    for number, frames in enumerate(sampled):
        pixels = tower_input(video.frames(list(frames)), network.config.tower)
        with torch.inference_mode():
            tokens = network.image_tokens(pixels)
        prompt = language.tokenizer.encode("the red circle", len(frames))
        (alone,) = network.read_out([prompt], tokens)
        for read in (found[number], again[number]):
            assert not isinstance(read, Exception)
            assert read.tak is not None
            torch.testing.assert_close(read.seg, alone.seg, rtol=0, atol=1e-5)
            torch.testing.assert_close(read.tak, alone.tak, rtol=0, atol=1e-5)


def test_the_order_of_the_frames_is_in_the_tokens_of_a_model_with_differences_alone(moving: str) -> None:
    pixels = tower_input(ArrayVideo(6).frames([0, 2, 4]), MODEL.tower)
    for name, differs in (("untrained-tiny", False), (moving, True)):
        network = VrsHqLanguage(ReadConfig(model=name)).network
        with torch.inference_mode():
            forth, back = network.image_tokens(pixels), network.image_tokens(pixels.flip(0)).flip(0)
        assert torch.allclose(forth, back, atol=1e-6) is not differs

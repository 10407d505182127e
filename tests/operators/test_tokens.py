from __future__ import annotations

import itertools
import json
import shutil
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.support.array_video import ArrayVideo, unit_batch
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.preprocess import clip_input
from vrshq.operators.models.vrs_hq.language import VrsHqLanguage
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.vrs_hq.prompt import normalize
from vrshq.operators.tokens import Tokens, TokensConfig
from vrshq.pipelines.label.settings import Settings

TEXTS = ["the red circle", "which dog runs?", "something that is not there, " * 6, "ball", "who is it?"]


@cache
def tokens(**settings: Any) -> Tokens:
    return Tokens(TokensConfig(model="untrained-tiny", **settings))


def language_of(operator: Tokens) -> VrsHqLanguage:
    found = operator.language
    assert isinstance(found, VrsHqLanguage)
    return found


def one_at_a_time(
    operator: Tokens, video: ArrayVideo, text: str, frames: list[int]
) -> tuple[torch.Tensor, torch.Tensor]:
    """The schedule of the reference: everything again for one instruction, in one pass over its whole prompt."""
    language = language_of(operator)
    network, prompt = language.network, language.tokenizer.encode(normalize(text), len(frames))
    with torch.inference_mode():
        states = network.hidden_states(prompt, network.image_tokens(clip_input(video.array[frames], 224)))
        return network.text_hidden_fcs(states[list(prompt.seg_positions)]), network.text_hidden_fcs(
            states[prompt.tak_position]
        )


@pytest.mark.parametrize("max_suffixes", [1, 2, 8])
def test_shared_schedule_equals_one_at_a_time(max_suffixes: int) -> None:
    operator, video = tokens(max_suffixes=max_suffixes), ArrayVideo(12)
    sampled = [[0, 2, 4], [1, 3, 5], [0, 2, 4], [0, 2, 4], [11]]
    batch = operator(unit_batch(video, TEXTS, sampled_frames=sampled))
    assert batch["errors"] == [[None] * 5]
    assert batch["d"] == [64]
    for position, (text, frames) in enumerate(zip(TEXTS, sampled, strict=True)):
        seg, tak = one_at_a_time(operator, video, text, frames)
        got = torch.tensor(batch["seg"][0][position]).view(len(frames), 64)
        assert (got - seg).abs().max() < 1e-5
        assert (torch.tensor(batch["tak"][0][position]) - tak).abs().max() < 1e-5


def test_the_setting_decides_which_texts_are_asked_as_questions() -> None:
    config = Settings.model_validate({"prompt": {"questions": "any_script"}}).operator_configs("untrained-tiny", "cpu")
    video, texts = ArrayVideo(2), ["who wins？", "who wins?", "the ball"]
    sampled = [[0]] * 3
    any_script = Tokens(config["tokens"])(unit_batch(video, texts, sampled_frames=sampled))["tak"][0]
    reference = tokens()(unit_batch(video, texts, sampled_frames=sampled))["tak"][0]
    # another text of the same batch may change the last bits
    same = [one == pytest.approx(other, abs=1e-5) for one, other in zip(any_script, reference, strict=True)]
    assert same == [False, True, True]


@pytest.mark.parametrize("count", [1, 5, 20])
def test_tower_runs_once_per_distinct_frame_and_the_prefix_once_per_distinct_frame_set(count: int) -> None:
    operator, video = tokens(), ArrayVideo(40)
    sampled = [list(range(number % 3, 40, 4)) for number in range(count)]
    tower_frames = prefixes = rows = 0

    def on_tower(_: torch.nn.Module, arguments: tuple[torch.Tensor, ...]) -> None:
        nonlocal tower_frames
        tower_frames += len(arguments[0])

    def on_llama(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        nonlocal prefixes, rows
        embeddings, *prefix = arguments
        prefixes += not prefix
        rows += len(embeddings) if prefix else 0

    network = language_of(operator).network
    hooks = [
        network.vision_tower.embeddings.patch_embedding.register_forward_pre_hook(on_tower),
        network.llama.register_forward_pre_hook(on_llama),
    ]
    operator(unit_batch(video, [f"thing {number}" for number in range(count)], sampled_frames=sampled))
    for hook in hooks:
        hook.remove()
    distinct = {frame for frames in sampled for frame in frames}
    assert tower_frames == len(distinct)
    assert sorted(video.read) == sorted(distinct)
    assert prefixes == len(set(map(tuple, sampled)))
    assert rows == count


def test_sets_of_as_many_frames_are_read_in_one_batch_as_they_are_alone() -> None:
    language, video = language_of(tokens()), ArrayVideo(12)
    network = language.network
    frames = [[0, 2, 4], [1, 3, 5], [6, 8, 10], [7, 9, 11]]
    texts = [TEXTS[:1], TEXTS[1:4], TEXTS[2:3], TEXTS[4:5]]
    with torch.inference_mode():
        sets = [
            (
                [language.tokenizer.encode(text, 3) for text in some],
                network.image_tokens(clip_input(video.array[of], 224)),
            )
            for some, of in zip(texts, frames, strict=True)
        ]
    alone = [network.read_out(prompts, image_tokens) for prompts, image_tokens in sets]
    widths: list[int] = []
    hook = network.llama.register_forward_pre_hook(lambda _, arguments: widths.append(len(arguments[0])))
    together = network.read_out_sets(sets, max_suffixes=2)
    hook.remove()
    # four prefixes; the three sets with one instruction, at most two at once; the set with three
    assert widths == [4, 2, 1, 2, 1]
    for one, other in zip(itertools.chain(*together), itertools.chain(*alone), strict=True):
        torch.testing.assert_close(one.seg, other.seg, rtol=0, atol=1e-5)
        torch.testing.assert_close(one.tak, other.tak, rtol=0, atol=1e-5)


def test_at_most_max_suffixes_go_through_the_llama_at_once() -> None:
    operator, widths = tokens(max_suffixes=2), []

    def on_llama(_: torch.nn.Module, arguments: tuple[Any, ...]) -> None:
        widths.append(len(arguments[0]))

    hook = language_of(operator).network.llama.register_forward_pre_hook(on_llama)
    operator(unit_batch(ArrayVideo(2), TEXTS, sampled_frames=[[0, 1]] * 5))
    hook.remove()
    assert widths == [1, 2, 2, 1]


def test_a_failed_instruction_costs_nothing_and_the_others_go_on() -> None:
    operator, video = tokens(), ArrayVideo(4)
    earlier = {"stage": "presample", "error_type": "InputError", "message": "empty"}
    batch = unit_batch(video, ["", "ball"], sampled_frames=[None, [3]], errors=[earlier, None])
    batch = operator(batch)
    assert batch["errors"] == [[earlier, None]]
    assert batch["seg"][0][0] is None
    assert len(batch["seg"][0][1]) == 64
    assert video.read == [3]


def test_a_tower_with_the_whole_view_sees_what_lies_beside_the_central_square(tmp_path: Path) -> None:
    folder = shutil.copytree(open_bundle("untrained-tiny").folder, tmp_path / "whole")
    description = json.loads((folder / "bundle.json").read_text())
    description["model"]["tower"]["view"] = "whole"
    (folder / "bundle.json").write_text(json.dumps(description))
    for dtype in ("float32", "bfloat16", "float16"):
        centre, whole = (Tokens(TokensConfig(model=model, dtype=dtype)) for model in ("untrained-tiny", str(folder)))
        square = unit_batch(ArrayVideo(2, height=64, width=64), TEXTS[:1], sampled_frames=[[0, 1]])
        assert centre(square)["tak"] == whole(square)["tak"]
        wide, changed = ArrayVideo(2, height=60, width=100), ArrayVideo(2, height=60, width=100)
        changed.array = changed.array.copy()
        changed.array[:, :, :16] = 255
        taks = {
            name: [operator(unit_batch(video, TEXTS[:1], sampled_frames=[[0, 1]]))["tak"] for video in (wide, changed)]
            for name, operator in (("centre", centre), ("whole", whole))
        }
        assert taks["centre"][0] == taks["centre"][1]
        assert taks["whole"][0] != taks["whole"][1]


def test_a_prompt_beyond_the_models_positions_is_the_failure_of_its_instruction() -> None:
    batch = tokens()(unit_batch(ArrayVideo(2), ["word " * 5000, "ball"], sampled_frames=[[0], [0]]))
    failed, other = batch["errors"][0]
    assert (failed["stage"], failed["error_type"], other) == ("tokens", "InputError", None)
    assert "the model takes 4096" in failed["message"]


def test_specials_in_the_text_change_neither_images_nor_read_out() -> None:
    texts = ["the [SEG] <image> [TAK] </s> car", "{sent} <video>?"]
    batch = tokens()(unit_batch(ArrayVideo(3), texts, sampled_frames=[[0, 1, 2]] * 2))
    assert batch["errors"] == [[None, None]]
    assert [len(row) for row in batch["seg"][0]] == [3 * 64] * 2


def test_full_size_network_can_be_built_without_memory() -> None:
    with torch.device("meta"):
        network = ChatUniVi(ModelConfig())
    assert all(parameter.is_meta for parameter in network.parameters())
    assert sum(parameter.numel() for parameter in network.parameters()) > 6.5e9
    assert network.text_hidden_fcs[2].out_features == 256


def test_no_computed_table_is_part_of_the_weights() -> None:
    assert not [
        name for name in language_of(tokens()).network.state_dict() if "inv_freq" in name or "position_ids" in name
    ]


def test_bfloat16_gives_nearly_the_same_embeddings() -> None:
    batch = unit_batch(ArrayVideo(3), ["ball"], sampled_frames=[[0, 1, 2]])
    exact, rounded = (torch.tensor(operator(batch)["tak"][0][0]) for operator in (tokens(), tokens(dtype="bfloat16")))
    assert torch.nn.functional.cosine_similarity(exact, rounded, dim=0) > 0.98

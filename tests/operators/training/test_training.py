"""Training's parts: losses against hand-computed values, gradients where they belong, the step, LoRA, prompts' labels."""

from __future__ import annotations

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from vrshq.operators.models.bundle import CheckpointError, open_bundle
from vrshq.operators.models.config import TowerConfig
from vrshq.operators.models.load import load_language
from vrshq.operators.models.preprocess import View, tower_view
from vrshq.operators.models.vrs_hq.clustering import Level
from vrshq.operators.synth import SynthConfig, make_video
from vrshq.operators.synth.judging import MAYBE, NO, YES
from vrshq.operators.training.auxiliary import Auxiliary
from vrshq.operators.training.clip import (
    COLOUR_NAMES,
    DEEDS,
    SHAPE_NAMES,
    Clip,
    Objects,
    choose_frames,
    from_synth,
    judge_deeds,
)
from vrshq.operators.training.dialogue import answer_labels, encode_dialogue
from vrshq.operators.training.forward import ForwardConfig, TrainingModel
from vrshq.operators.training.losses import IGNORED, LossWeights, answer_loss, bce_loss, dice_loss, presence_loss
from vrshq.operators.training.places import DenseLabels, dense_labels, paces, padded_view, seen_places
from vrshq.operators.training.pointing import meant_tokens
from vrshq.operators.training.queries import UNKNOWN, draw_queries, meant_queries, simplest
from vrshq.operators.training.schedule import (
    PAPER_PARTS,
    LoraConfig,
    OptimiserConfig,
    choose_trained,
    lora_layers,
    rate_factor,
)
from vrshq.operators.training.segmentation import SegmentConfig, window_around
from vrshq.operators.training.start import StartConfig, build, write_adapter, write_bundle
from vrshq.operators.training.step import StageConfig, StageTrainer

SMALL = SynthConfig(short_sides=(64,), aspects=(1.0,), frames=(4, 6), objects=(2, 3))


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


def clip_of(index: int = 0, frames: tuple[int, int] = (4, 4), expressions: int = 2) -> Clip:
    return from_synth(make_video(0, index, "train", SMALL), np.random.default_rng(index), frames, expressions)


def model_of(**changes: Any) -> TrainingModel:
    return build(StartConfig(**{"bundle": "untrained-tiny", **changes}), "untrained-tiny", 0, "cpu")


# ---- losses -----------------------------------------------------------------------------------------------------------


def test_cross_entropy_is_the_mean_over_labels_that_count() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [5.0, 1.0]])
    labels = torch.tensor([1, 0, IGNORED])
    # -log(1/2) and -log(3/4)
    assert answer_loss(logits, labels).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2, abs=1e-6)


def test_cross_entropy_of_no_label_is_zero() -> None:
    assert answer_loss(torch.zeros(2, 3), torch.tensor([IGNORED, IGNORED])).item() == 0


def test_bce_averages_each_mask_and_then_the_masks() -> None:
    # mask 1: p = 1/2 everywhere: log 2. mask 2: p = 3/4, half right, half wrong: (log 4/3 + log 4) / 2
    logits = torch.tensor([[[0.0, 0.0]], [[math.log(3), math.log(3)]]])
    truth = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    expected = (math.log(2) + (math.log(4 / 3) + math.log(4)) / 2) / 2
    assert bce_loss(logits, truth).item() == pytest.approx(expected, abs=1e-6)
    assert bce_loss(logits, truth, num_masks=4).item() == pytest.approx(expected / 2, abs=1e-6)


def test_dice_of_a_hand_computed_mask() -> None:
    # p = 3/4, 3/4, 1/4, 1/4; t = 1, 0, 1, 0: overlap 2 * 1, total 2 + 2
    x = math.log(3)
    logits, truth = torch.tensor([[[x, x], [-x, -x]]]), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    expected = 1 - (2 * 1.0 / 1000 + 1e-6) / (4 / 1000 + 1e-6)
    assert dice_loss(logits, truth).item() == pytest.approx(expected, abs=1e-6)


def test_dice_of_an_empty_truth_is_near_one_unless_nothing_is_predicted() -> None:
    truth = torch.zeros(1, 2, 2)
    assert dice_loss(torch.zeros(1, 2, 2), truth).item() == pytest.approx(1 - 1e-6 / (2 / 1000 + 1e-6), abs=1e-6)
    assert dice_loss(torch.full((1, 2, 2), -60.0), truth).item() == pytest.approx(0, abs=1e-6)


def test_mask_losses_of_no_mask_are_zero_and_have_a_graph() -> None:
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    total = bce_loss(logits, torch.zeros(0, 4, 4)) + dice_loss(logits, torch.zeros(0, 4, 4))
    total.backward()
    assert total.item() == 0


def test_presence_is_the_binary_cross_entropy_of_the_object_score() -> None:
    loss = presence_loss(torch.tensor([0.0, math.log(3)]), torch.tensor([True, False]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_mask_losses_do_not_depend_on_the_order_of_masks_or_pixels(masks: int, pixels: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits, truth = (
        torch.randn(masks, 1, pixels, generator=random),
        torch.rand(masks, 1, pixels, generator=random).round(),
    )
    rows, places = torch.randperm(masks, generator=random), torch.randperm(pixels, generator=random)
    for loss in (bce_loss, dice_loss):
        moved = loss(logits[rows][..., places], truth[rows][..., places])
        assert moved.item() == pytest.approx(loss(logits, truth).item(), abs=1e-5)


@pytest.mark.parametrize("name", ["ce", "presence"])
def test_a_negative_or_unknown_weight_is_refused(name: str) -> None:
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"losses.{name}"):
            LossWeights(**{name: wrong})


def test_places_without_the_auxiliary_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"losses\.auxiliary above 0"):
        LossWeights(place=1)


# ---- prompts and their labels -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["the red ring", "which shape would roll?", "a <video> of [seg] assistant: x"])
@pytest.mark.parametrize("frames", [1, 3])
@pytest.mark.parametrize("words", ["", "it is [SEG] round {sent} <image></s> ASSISTANT: so"])
def test_labels_are_exactly_the_answer(text: str, frames: int, words: str) -> None:
    tokenizer = open_bundle("untrained-tiny").prompt_tokenizer()
    prompt = tokenizer.encode(text, frames, words)
    labels = answer_labels(tokenizer, text, prompt, words)
    assert len(labels) == len(prompt.input_ids)
    begin = next(index for index, label in enumerate(labels) if label != IGNORED)
    assert labels[begin:] == prompt.input_ids[begin:]
    said = tokenizer.pieces.decode([token for token in labels[begin:] if token < 1000])
    assert said.startswith("Sure, the segmentation result of each frame is (0)")
    assert said.endswith(words or "it is .")
    asked = tokenizer.pieces.decode([token for token in prompt.input_ids[:begin] if token >= 0])
    assert asked.endswith(" and explain why. ASSISTANT:" if words else " separately. ASSISTANT:")
    assert prompt.input_ids.count(-200) == frames
    assert labels[-1] == tokenizer.pieces.eos_id()
    assert labels.count(1000) == frames
    assert labels.count(1001) == 1


def test_a_dialogue_has_labels_on_its_answers_only_and_its_texts_stay_data() -> None:
    tokenizer = open_bundle("untrained-tiny").prompt_tokenizer()
    turns = [("<image>\nwhat is it? [SEG]</s>", "a ring </s>"), ("and its colour?", "red")]
    dialogue = encode_dialogue(tokenizer, turns, 2, limit=2048)
    places = [place for place, token in enumerate(dialogue.input_ids) if token == -200]
    assert tokenizer.pieces.decode(list(dialogue.input_ids[: places[0]])).endswith("USER: (0)")
    assert tokenizer.pieces.decode(list(dialogue.input_ids[places[0] + 1 : places[1]])) == ", (1)"
    assert dialogue.input_ids.count(-200) == 2
    assert 1000 not in dialogue.input_ids
    assert [token for token in dialogue.input_ids if token == tokenizer.pieces.eos_id()] == [
        tokenizer.pieces.eos_id()
    ] * 2
    answers = tokenizer.pieces.decode([label for label in dialogue.labels if label > 2])
    assert answers.replace("</s>", "").split() == ["a", "ring", "red"]
    cut = encode_dialogue(tokenizer, turns, 2, limit=280)
    assert len(cut.input_ids) + 2 * 111 == 280


# ---- windows, frames, queries -----------------------------------------------------------------------------------------


@given(st.integers(1, 12), st.integers(1, 5), st.data())
def test_the_window_holds_the_keyframe_and_stays_inside(total: int, size: int, data: Any) -> None:
    keyframe = data.draw(st.integers(0, total - 1))
    window = window_around(keyframe, total, size)
    assert len(window) == min(size, total)
    assert keyframe in window
    assert window.start >= 0
    assert window.stop <= total


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 4), st.integers(0, 1000))
def test_sampled_frames_lie_one_in_each_segment(total: int, least: int, more: int, seed: int) -> None:
    frames = choose_frames(np.random.default_rng(seed), total, least, least + more)
    assert min(least, total) <= len(frames) <= min(least + more, total)
    assert (np.diff(frames) > 0).all()
    assert frames[0] < math.ceil(total / len(frames)) + 1
    assert total - 1 - frames[-1] < math.ceil(total / len(frames)) + 1


def test_oracle_queries_are_answered_by_the_objects_that_fit() -> None:
    for index in range(20):
        objects = clip_of(index).objects
        assert objects is not None
        queries, masks = draw_queries(objects, np.random.default_rng(index))
        for row in range(len(queries.nothing)):
            colour, shape = queries.colours[row], queries.shapes[row]
            fits = [
                (colour in (UNKNOWN, objects.colours[item])) and (shape in (UNKNOWN, objects.shapes[item]))
                for item in range(len(objects.colours))
            ]
            if queries.placed[row]:
                fits = [place == row for place in range(len(fits))]
            expected = objects.masks[fits].any(0) if row < len(fits) else np.zeros_like(masks[row])
            assert np.array_equal(masks[row], expected)


def test_the_simplest_query_still_tells_its_object_from_the_others() -> None:
    said = []
    for index in range(20):
        objects = clip_of(index).objects
        assert objects is not None
        full, single = meant_queries(objects)
        short = simplest(full, objects)
        for row in np.flatnonzero(single & ~full.nothing):
            assert short.colours[row] == full.colours[row]
            alone = list(objects.colours).count(full.colours[row]) == 1
            assert (short.shapes[row], short.placed[row]) == ((UNKNOWN, False) if alone else (full.shapes[row], True))
            said.append(alone)
    assert 0 < sum(said) < len(said)


def test_the_place_loss_counts_objects_as_much_as_the_background() -> None:
    """A head that is right on the background alone has half its loss left, however few patches an object has."""
    auxiliary = Auxiliary(8, 3, 8, 8, torch.zeros(2, 4))
    view = View(left=0, top=0, width=4, height=4, rows=4, columns=4)
    steps = (torch.arange(4) + 0.5) / 4
    centres = torch.stack([steps.repeat(4), steps.repeat_interleave(4), torch.full((16,), 0.2)], dim=1)[None]
    with torch.no_grad():
        auxiliary.place_on_tower.weight.copy_(torch.eye(3))
        auxiliary.place_on_tower.bias.zero_()
    radius = torch.zeros(16)
    radius[:2] = 0.2  # an object on two of the patches
    nowhere = torch.zeros(16, dtype=torch.int64)
    labels = DenseLabels(nowhere, nowhere, radius, radius, torch.zeros(16, 2))
    assert auxiliary.place_loss(centres, labels, view).item() == pytest.approx(0)
    wrong_object, wrong_background = centres.clone(), centres.clone()
    wrong_object[0, :2, 0] += 0.3
    wrong_background[0, 2:, 0] += 0.3
    # smooth L1, beta 0.1: 0.3 - 0.05, of which x is one of two numbers, times 4
    assert auxiliary.place_loss(wrong_object, labels, view).item() == pytest.approx(0.5)
    assert auxiliary.place_loss(wrong_background, labels, view).item() == pytest.approx(0.5)
    wrong_radius = centres.clone()
    wrong_radius[0, :, 2] += 0.3  # of which the background has none
    assert auxiliary.place_loss(wrong_radius, labels, view).item() == pytest.approx(1.0)
    flat = View(left=0, top=0, width=8, height=2, rows=2, columns=8)
    along = (torch.arange(8) + 0.5) / 8
    centres[0, :, :2] = torch.stack([along.repeat(2), torch.tensor([0.25, 0.75]).repeat_interleave(8)], dim=1)
    assert auxiliary.place_loss(centres, labels, flat).item() == pytest.approx(0)


def test_the_centre_loss_is_of_the_patches_on_objects_alone() -> None:
    auxiliary = Auxiliary(8, 2, 8, 8, torch.zeros(2, 4))
    with torch.no_grad():
        auxiliary.centre_on_tower.weight.copy_(torch.eye(2))
        auxiliary.centre_on_tower.bias.zero_()
    radius = torch.zeros(16)
    radius[:4] = 0.2
    nowhere = torch.zeros(16, dtype=torch.int64)
    labels = DenseLabels(nowhere, nowhere, radius, radius, torch.rand(16, 2))
    said = labels.centre[None].clone()
    said[0, 4:] = 9
    assert auxiliary.centre_loss(said, labels).item() == pytest.approx(0)
    said[0, 0, 1] += 0.3  # smooth L1, beta 0.02: 0.3 - 0.01, one of eight numbers, times 8
    assert auxiliary.centre_loss(said, labels).item() == pytest.approx(0.29, abs=1e-5)
    nothing = replace(labels, radius=torch.zeros(16))
    assert auxiliary.centre_loss(said, nothing).item() == 0


def view_of(objects: Objects, view: str = "centre", side: int = 8) -> View:
    return tower_view(*objects.masks.shape[2:], TowerConfig(image_size=side, patch_size=1, view=view))


@pytest.mark.parametrize("seen", ["centre", "whole", "padded"])
def test_a_patch_knows_the_centre_of_its_object_in_what_is_seen(seen: str) -> None:
    wide = replace(SMALL, aspects=(1.5,))
    clip = from_synth(make_video(0, 1, "train", wide), np.random.default_rng(0), (1, 1), 1)
    objects = clip.objects
    assert objects is not None
    height, width = clip.frames.shape[1:3]
    assert width > height
    view = padded_view(height, width, 8) if seen == "padded" else view_of(objects, seen)
    assert (view.rows, view.columns) == ((7, 9) if seen == "whole" else (8, 8))
    labels = dense_labels(objects, view)
    filled = labels.radius > 0
    assert filled.any()
    centres = objects.places[:, 0, :2] * (width, height)  # pixels
    within = {
        "centre": (centres - ((width - height) // 2, 0)) / height,
        "whole": centres / (width, height),
        "padded": centres / width,
    }[seen]
    far = np.linalg.norm(labels.centre[filled].numpy()[:, None] - within, axis=2)
    assert far.min(1).max() < 1e-5
    # and it is the one on that patch: no further from the patch than the object reaches
    rows, columns = np.indices((view.rows, view.columns))
    patches = np.stack([(columns + 0.5) / view.columns, (rows + 0.5) / view.rows], axis=-1).reshape(-1, 2)[
        filled.numpy()
    ]
    reach = 2 * objects.places[:, 0, 2][far.argmin(1)] * (height / width if seen == "padded" else 1) + 0.1
    assert (np.linalg.norm(labels.centre[filled].numpy() - patches, axis=1) < reach).all()


def test_dense_labels_name_the_colour_of_what_fills_a_place_and_the_shape_of_what_touches_it() -> None:
    clip = clip_of(3)
    objects = clip.objects
    assert objects is not None
    labels = dense_labels(objects, view_of(objects))
    colour, shape, weight, radius = (
        part.view(4, 8, 8) for part in (labels.colour, labels.shape, labels.weight, labels.radius)
    )
    shares = objects.masks.reshape(len(objects.colours), 4, 8, 8, 8, 8).mean((3, 5))
    first = shares.argmax(0)
    for place in np.ndindex(4, 8, 8):
        best = first[place]
        share = shares[(best, *place)]
        assert colour[place] == (objects.colours[best] if share >= 0.5 else len(COLOUR_NAMES))
        assert shape[place] == (objects.shapes[best] if share >= 0.1 else len(SHAPE_NAMES))
        assert (weight[place] > 0) == (share >= 0.1)
        assert radius[place] == (objects.places[best, place[0], 2] if share >= 0.5 else 0)
    for frame in range(4):  # each object counts as much as any other
        touched = {int(one) for one in first[frame][shares.max(0)[frame] >= 0.1]}
        assert float(weight[frame].sum()) == pytest.approx(len(touched), abs=1e-5)


# ---- forward and step -------------------------------------------------------------------------------------------------


def one_step(model: TrainingModel, config: StageConfig, clips: list[Clip]) -> tuple[dict[str, float], set[str]]:
    """The losses of a step, and the names of the parameters that it changed."""
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    losses = StageTrainer(model, config, 0).run_step(clips)
    return losses, {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}


def test_the_recipe_trains_its_parts_and_nothing_else() -> None:
    model = model_of()
    for layer in lora_layers(model.language.llama).values():
        nn.init.normal_(layer.lora_b, std=0.02)  # at zero, A has no gradient yet
    config = StageConfig(steps=1, batch=2, trained=PAPER_PARTS, optimiser=OptimiserConfig(warmup=0))
    losses, changed = one_step(model, config, [clip_of(0), clip_of(1)])
    assert all(math.isfinite(losses[name]) for name in ("loss", "ce", "bce", "dice", "gradient"))
    expected = 1.0 * losses["ce"] + 2.0 * losses["bce"] + 0.5 * losses["dice"]
    assert losses["loss"] == pytest.approx(expected, rel=1e-5)
    assert all(name.startswith(PAPER_PARTS[:-1]) or ".lora_" in name for name in changed)
    named = [
        "language.llama.embed_tokens.weight",
        "lm_head.weight",
        "language.text_hidden_fcs.0.weight",
        "language.text_hidden_fcs.2.bias",
        "segmenter.sam_mask_decoder.transformer.layers.0.self_attn.q_proj.weight",
        "segmenter.sam_mask_decoder.output_hypernetworks_mlps.0.layers.0.weight",
        "segmenter.sam_mask_decoder.conv_s0.weight",
    ]
    for name in lora_layers(model.language.llama):
        named += [f"language.llama.{name}.lora_a", f"language.llama.{name}.lora_b"]
    assert set(named) <= changed
    # no loss of the recipe touches SAM2's object score
    assert not any("pred_obj_score_head" in name for name in changed)


def test_presence_supervision_reaches_the_object_score() -> None:
    config = StageConfig(
        steps=1, trained=PAPER_PARTS, losses=LossWeights(presence=1), optimiser=OptimiserConfig(warmup=0)
    )
    _, changed = one_step(model_of(), config, [clip_of()])
    assert any("pred_obj_score_head" in name for name in changed)


def test_oracle_stage_trains_sam2_with_its_memory_and_leaves_the_language_model() -> None:
    model = model_of(auxiliary=True)
    config = StageConfig(
        steps=1,
        trained=("segmenter", "auxiliary"),
        forward=ForwardConfig(
            prompts="oracle", segment=SegmentConfig(window=3, memory="mask", truth_in_memory=0.5, mask_size="low")
        ),
        losses=LossWeights(ce=0, presence=1, auxiliary=1),
        optimiser=OptimiserConfig(warmup=0),
    )
    _, changed = one_step(model, config, [clip_of()])
    assert not any(name.startswith(("language", "lm_head")) for name in changed)
    for part in ("image_encoder.trunk", "memory_attention", "memory_encoder", "sam_mask_decoder"):
        assert any(name.startswith(f"segmenter.{part}") for name in changed), part


def test_blind_reading_learns_from_words_alone() -> None:
    model = model_of(auxiliary=True)
    weights = LossWeights(ce=1, bce=0, dice=0, auxiliary=1, oracle=1)
    config = StageConfig(
        steps=1,
        trained=("language", "auxiliary.on_tak", "auxiliary.on_seg"),
        forward=ForwardConfig(prompts="none", blind=True),
        losses=weights,
        optimiser=OptimiserConfig(warmup=0),
    )
    clip = clip_of()
    other = replace(clip, frames=255 - clip.frames)
    first, second = (model(item, 0, config.forward, weights) for item in (clip, other))
    assert {name: float(value) for name, value in first.items()} == {
        name: float(value) for name, value in second.items()
    }
    seeing = model(clip, 0, replace(config.forward, blind=False), weights)
    assert float(seeing["oracle"]) != float(first["oracle"])
    _, changed = one_step(model, config, [clip])
    assert any(name.startswith("language.llama.layers") for name in changed)
    assert not any(name.startswith(("language.vision_tower", "language.mm_projector")) for name in changed)


def test_with_nothing_asked_both_encoders_learn_and_nothing_else() -> None:
    model = model_of(auxiliary=True)
    config = StageConfig(
        steps=12,
        trained=("segmenter.image_encoder", "language.vision_tower", "auxiliary.on_tower", "auxiliary.on_image"),
        forward=ForwardConfig(prompts="nothing asked"),
        losses=LossWeights(ce=0, bce=0, dice=0, auxiliary=1),
        optimiser=OptimiserConfig(rate=3e-3, warmup=0, decay="none"),
    )
    clip = clip_of()
    before = {name: value.detach().clone() for name, value in model.named_parameters()}
    trainer = StageTrainer(model, config, 0)
    curve = [trainer.run_step([clip]) for _ in range(config.steps)]
    assert set(curve[0]) == {"loss", "auxiliary", "shapes_on_tower", "shapes_on_image", "gradient", "rate"}
    assert curve[-1]["auxiliary"] < 0.9 * curve[0]["auxiliary"]
    assert all(0 <= losses[name] <= 1 for losses in curve for name in ("shapes_on_tower", "shapes_on_image"))
    changed = {name for name, value in model.named_parameters() if not torch.equal(value, before[name])}
    assert all(name.startswith(config.trained) for name in changed)
    for part in ("segmenter.image_encoder.trunk.blocks.0", "language.vision_tower", "auxiliary.on_tower"):
        assert any(name.startswith(part) for name in changed), part
    located = replace(
        config, losses=replace(config.losses, place=1), trained=(*config.trained, "auxiliary.place_on_tower")
    )
    trainer = StageTrainer(model, located, 0)
    curve = [trainer.run_step([clip]) for _ in range(config.steps)]
    assert curve[-1]["place"] < 0.7 * curve[0]["place"]
    alone = replace(located, trained=("segmenter.image_encoder", "auxiliary.on_image"))
    assert "shapes_on_tower" not in StageTrainer(model, alone, 0).run_step([clip])
    neither = replace(config, trained=("auxiliary.on_image",))
    with pytest.raises(ValueError, match="vision tower or SAM2's image encoder"):
        StageTrainer(model, neither, 0).run_step([clip])


def test_muon_turns_matrices_evenly_and_leaves_the_rest_to_adamw() -> None:
    after, before = {}, {}
    for muon in (0.0, 2e-3):
        model = model_of(lora=LoraConfig(rank=0))
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        parts = ("language.llama", "lm_head", "segmenter.sam_mask_decoder")
        config = StageConfig(steps=1, trained=parts, optimiser=OptimiserConfig(muon=muon, warmup=0))
        StageTrainer(model, config, 0).run_step([clip_of()])
        after[muon] = {name: value.detach() for name, value in model.named_parameters()}
    moved = {name for name in before if not torch.equal(after[2e-3][name], after[0.0][name])}
    assert "language.llama.layers.0.self_attn.q_proj.weight" in moved
    assert all(name.endswith(".weight") and before[name].ndim == 2 for name in moved)
    assert not {"lm_head.weight", "language.llama.embed_tokens.weight"} & moved
    # AdamW's first update is a matrix of signs; Muon's has singular values that hardly differ, up to the gradient's rank
    name = "language.llama.layers.0.mlp.down_proj.weight"
    by_adamw, by_muon = (torch.linalg.svdvals(after[key][name] - before[name]) for key in (0.0, 2e-3))
    assert by_muon[0] / by_muon[7] < 1.5 < 2 < by_adamw[0] / by_adamw[7]
    assert by_muon[:8].mean() == pytest.approx(2e-3 * 0.2 * max(before[name].shape) ** 0.5, rel=0.3)


def test_sharing_the_prefix_changes_no_loss() -> None:
    model = model_of().eval()
    choose_trained(model, PAPER_PARTS)
    clip = clip_of()
    shared, whole = (model(clip, 0, ForwardConfig(share_prefix=share), LossWeights()) for share in (True, False))
    for name in ("ce", "bce", "dice"):
        assert shared[name].item() == pytest.approx(whole[name].item(), abs=1e-5)


def test_words_after_the_masks_enter_the_cross_entropy_alone() -> None:
    model = model_of(lora=LoraConfig(rank=0)).eval()
    clip = clip_of()
    plain = model(clip, 0, ForwardConfig(), LossWeights())
    texts = [model.tokenizer.encode(text, len(clip.frames)) for text in clip.texts]
    explained = replace(clip, words=("it is round", ""))
    for share in (True, False):
        losses = model(explained, 0, ForwardConfig(share_prefix=share), LossWeights())
        assert losses["ce"].item() != pytest.approx(plain["ce"].item(), abs=1e-4)
    with_words = model.tokenizer.encode(clip.texts[0], len(clip.frames), "it is round")
    assert with_words.prefix_length == texts[0].prefix_length
    # nothing after [TAK] reaches the masks: other words, same masks
    other = model(replace(clip, words=("it is square", "")), 0, ForwardConfig(), LossWeights())
    assert other["ce"].item() != losses["ce"].item()
    assert other["bce"].item() == pytest.approx(losses["bce"].item(), abs=1e-6)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    clip, gradients = clip_of(), []
    for checkpointing in (False, True):
        model = model_of(gradient_checkpointing=checkpointing, lora=LoraConfig(dropout=0.0))
        trained = choose_trained(model, PAPER_PARTS)
        model(clip, 0, ForwardConfig(share_prefix=False), LossWeights())["loss"].backward()
        gradients.append({name: value.grad for name, value in trained.items() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][name], atol=1e-6), name


def test_bf16_gives_nearly_the_same_losses_and_float32_weights() -> None:
    losses = []
    for bf16 in (False, True):
        model = model_of(lora=LoraConfig(dropout=0.0))
        trainer = StageTrainer(model, StageConfig(steps=1, trained=PAPER_PARTS, bf16=bf16), 0)
        losses.append(trainer.run_step([clip_of()]))
        assert {value.dtype for value in trainer.trained.values()} == {torch.float32}
    assert losses[1]["ce"] != losses[0]["ce"]
    assert losses[1]["ce"] == pytest.approx(losses[0]["ce"], rel=0.02)


def test_accumulated_samples_are_the_mean_of_their_gradients() -> None:
    clips, gradients = [clip_of(0), clip_of(1)], []
    model = model_of(lora=LoraConfig(rank=0))
    parts = PAPER_PARTS[:-1]
    config = StageConfig(steps=1, batch=2, trained=parts, optimiser=OptimiserConfig(clip=1e9))
    for clip in clips:
        trained = choose_trained(model, parts)
        model.zero_grad()
        model(clip, 0, config.forward, config.losses)["loss"].backward()
        gradients.append({name: value.grad.clone() for name, value in trained.items() if value.grad is not None})
    model.zero_grad()
    trainer = StageTrainer(model, config, 0)
    seen: dict[str, Tensor] = {}

    def look(*_: object) -> None:
        seen.update({name: value.grad.clone() for name, value in trainer.trained.items() if value.grad is not None})

    trainer.optimisers[0].register_step_pre_hook(look)
    trainer.run_step(clips)
    assert seen
    for name, value in seen.items():
        mean = sum(item[name] for item in gradients if name in item) / 2
        assert torch.allclose(value, mean, atol=1e-6), name


@pytest.mark.parametrize("muon", [0.0, 1e-3])
def test_a_resumed_trainer_goes_on_as_if_nothing_had_happened(muon: float) -> None:
    config = StageConfig(steps=4, trained=PAPER_PARTS, optimiser=OptimiserConfig(muon=muon, average=0.9, warmup=2))
    clips = [clip_of(index) for index in range(4)]
    whole = StageTrainer(model_of(), config, 0)
    curve = [whole.run_step([clip])["loss"] for clip in clips]
    first = StageTrainer(model_of(), config, 0)
    for clip in clips[:2]:
        first.run_step([clip])
    state = first.state()
    second = StageTrainer(model_of(), config, 0)
    second.load_state(state)
    assert list(second.sample_numbers()) == [2, 3]
    assert [second.run_step([clip])["loss"] for clip in clips[2:]] == curve[2:]
    assert second.state()["sampler"] == whole.state()["sampler"]
    for name, value in whole.trained.items():
        assert torch.equal(value, second.trained[name])
        assert whole.average is not None
        assert second.average is not None
        assert torch.equal(whole.average.values[name], second.average.values[name])


def test_ranks_share_a_batch_without_gap_or_overlap() -> None:
    config = StageConfig(steps=3, batch=4, trained=("lm_head",))
    numbers = [list(StageTrainer(model_of(), config, 0, rank=rank, world=2).sample_numbers()) for rank in range(2)]
    assert sorted(numbers[0] + numbers[1]) == list(range(12))
    with pytest.raises(ValueError, match="not shared evenly by 3 workers"):
        StageTrainer(model_of(), config, 0, world=3)


# ---- schedule ---------------------------------------------------------------------------------------------------------


def test_the_rate_warms_up_and_falls_linearly_to_zero() -> None:
    config = OptimiserConfig(warmup=100)
    assert rate_factor(0, 7500, config) == pytest.approx(0.01)
    assert rate_factor(99, 7500, config) == 1
    assert rate_factor(100, 7500, config) == 1
    assert rate_factor(3800, 7500, config) == pytest.approx(0.5)
    assert rate_factor(7499, 7500, config) == pytest.approx(1 / 7400)


@given(st.integers(0, 500), st.sampled_from(["linear", "cosine", "none"]), st.floats(0, 1))
def test_the_rate_stays_between_its_ends(step: int, decay: Any, final: float) -> None:
    factor = rate_factor(step, 400, OptimiserConfig(warmup=50, decay=decay, final=final))
    assert 0 < factor <= 1 or (step >= 400 and factor >= 0)


def test_the_pointing_loss_is_that_of_the_attention_weights_of_a_whole_pass() -> None:
    """From LLaMA's own weights, asked for with the plain attention: those of each head, on tokens that show what is meant."""
    model, clip = model_of(), clip_of(expressions=3)
    weights = LossWeights(ce=0, bce=0, dice=0, pointing=1)
    got = model(clip, 1, ForwardConfig(prompts="none"), weights)["pointing"]
    assert got.requires_grad
    language, frames = model.language, len(clip.frames)
    language.llama.set_attn_implementation("eager")
    expected = []
    with torch.no_grad():
        tokens, _, levels = model._image_tokens(clip.frames)
        meant = meant_tokens(levels, clip.masks, model._view(clip.frames))
        assert meant.any(-1).sum() > frames
        for number, text in enumerate(clip.texts):
            prompt = model.tokenizer.encode(text, frames)
            embedded = language.embed(prompt.input_ids, tokens)
            found = language.llama(inputs_embeds=embedded[None], output_attentions=True).attentions[-2][0]
            width = tokens.shape[1]
            firsts = [place for place, token in enumerate(prompt.input_ids) if token == -200]
            rows = torch.stack([torch.arange(width) + place + (width - 1) * k for k, place in enumerate(firsts)])
            for head in found:
                for frame, place in enumerate(prompt.seg_positions):
                    seen = head[place, rows[frame]]
                    if meant[number, frame].any():
                        expected.append(-(seen[meant[number, frame]].sum() / seen.sum()).log())
                seen = head[prompt.tak_position, rows.flatten()]
                if meant[number].any():
                    expected.append(-(seen[meant[number].flatten()].sum() / seen.sum()).log())
    assert got.item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-4)


@pytest.mark.parametrize("loss", ["pointing", "travel", "pace", "deeds"])
@pytest.mark.parametrize("forward", [ForwardConfig(share_prefix=False), ForwardConfig(blind=True)])
def test_losses_of_frames_without_a_shared_prefix_are_refused(forward: ForwardConfig, loss: str) -> None:
    with pytest.raises(ValueError, match=rf"losses\.{loss} = 1: expected forward\.share_prefix true"):
        StageConfig(steps=1, trained=("language",), forward=forward, losses=LossWeights(**{loss: 1}))


def test_meant_tokens_are_those_that_lie_mostly_on_what_is_meant() -> None:
    tokens = torch.zeros(1, 2, 3)
    fine = Level(
        tokens, torch.zeros(1, 2, dtype=torch.int64), (torch.arange(16) >= 4).long()[None]
    )  # the top row is token 0
    coarse = Level(tokens[:, :1], torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64))
    masks = np.zeros((2, 1, 8, 12), bool)  # the tower sees columns 2 to 9
    masks[0, 0, :2] = True
    masks[1, 0, :, :6] = True
    found = meant_tokens([fine, coarse], masks, View(left=2, top=0, width=8, height=8, rows=4, columns=4))
    assert found.tolist() == [[[True, False, False]], [[False, False, False]]]


@pytest.mark.parametrize("view", ["centre", "whole"])
def test_what_lies_beside_the_central_square_is_looked_for_where_the_tower_sees_it(view: str, tmp_path: Path) -> None:
    folder = shutil.copytree(open_bundle("untrained-tiny").folder, tmp_path / "bundle")
    description = json.loads((folder / "bundle.json").read_text())
    description["model"]["tower"]["view"] = view
    (folder / "bundle.json").write_text(json.dumps(description))
    model = build(StartConfig(bundle=str(folder), auxiliary=True), str(folder), 0, "cpu")
    wide = replace(SMALL, aspects=(2.0,))
    clip = from_synth(make_video(0, 1, "train", wide), np.random.default_rng(0), (2, 2), 2)
    beside = np.zeros_like(clip.masks)
    beside[..., :24] = True  # of 128 columns, of which the square has those from 32 on
    weights = LossWeights(
        ce=0, bce=0, dice=0, auxiliary=1, place=1, centre=1, tak_place=1, pointing=1, travel=1, pace=1, deeds=1
    )
    losses = model(replace(clip, masks=beside), 1, ForwardConfig(prompts="none"), weights)
    assert all(torch.isfinite(value) for name, value in losses.items() if hasattr(weights, name))
    assert (losses["pointing"] > 0) == (view == "whole")
    losses["loss"].backward()
    assert model.language.vision_tower.embeddings.position_embedding.weight.grad.any()


def test_a_part_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"language\.nothing"):
        choose_trained(model_of(), ["language.nothing"])
    with pytest.raises(ValueError, match="no linear layer x_proj"):
        model_of(lora=LoraConfig(targets=("x_proj",)))


# ---- export -----------------------------------------------------------------------------------------------------------


def test_merged_bundle_and_adapter_give_the_outputs_of_the_trained_model(tmp_path: Path) -> None:
    model = model_of()
    for layer in lora_layers(model.language.llama).values():
        nn.init.normal_(layer.lora_b, std=0.1)
    model.eval()
    prompt = model.tokenizer.encode("the red ring", 2)
    frames = clip_of().frames[:2]
    with torch.no_grad():
        tokens, _, _ = model._image_tokens(frames)
        expected = model.language.hidden_states(prompt, tokens)
    write_bundle(model, "untrained-tiny", tmp_path / "bundle", name="x", dtype=torch.float32, extras=("lm_head",))
    merged = load_language(open_bundle(str(tmp_path / "bundle")))
    with torch.no_grad():
        assert torch.allclose(merged.hidden_states(prompt, tokens), expected, atol=1e-4)
    # the same from weights without the adapter, and the adapter beside them
    for layer in lora_layers(model.language.llama).values():
        layer.scale = layer.scale * 0.0
    write_bundle(model, "untrained-tiny", tmp_path / "base", name="x", dtype=torch.float32)
    for layer in lora_layers(model.language.llama).values():
        layer.scale = 2.0
    write_adapter(model, tmp_path / "base" / "adapter")
    adapted = load_language(open_bundle(str(tmp_path / "base")))
    with torch.no_grad():
        assert torch.allclose(adapted.hidden_states(prompt, tokens), expected, atol=1e-4)
    assert json.loads((tmp_path / "base" / "adapter" / "adapter_config.json").read_text())["lora_alpha"] == 16


def test_training_goes_on_with_the_heads_of_a_bundle_that_has_them(tmp_path: Path) -> None:
    model = model_of(auxiliary=True)
    write_bundle(model, "untrained-tiny", tmp_path / "bare", name="x")
    write_bundle(model, "untrained-tiny", tmp_path / "whole", name="x", extras=("heads",))
    heads = dict(model.auxiliary.named_parameters())
    for name, same in (("bare", False), ("whole", True)):
        config = StartConfig(bundle=str(tmp_path / name), auxiliary=True)
        again = dict(build(config, config.bundle, 1, "cpu").auxiliary.named_parameters())
        assert all(torch.equal(value, again[key]) for key, value in heads.items()) == same
    # weights alone make a bundle what it is
    assert open_bundle(str(tmp_path / "bare")).fingerprint == open_bundle(str(tmp_path / "whole")).fingerprint
    # a bundle of before a head was thought of lacks it; one with a head that nobody knows is another model's
    file = tmp_path / "whole" / "heads.safetensors"
    fewer = {name: value for name, value in load_file(file).items() if not name.startswith("on_deeds")}
    save_file(fewer, file)
    again = dict(build(config, config.bundle, 1, "cpu").auxiliary.named_parameters())
    assert [name for name, value in heads.items() if not torch.equal(value, again[name])] == [
        "on_deeds.weight",
        "on_deeds.bias",
    ]
    save_file(fewer | {"on_smell.weight": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"heads\.safetensors: not the heads of this model .*on_smell"):
        build(config, config.bundle, 1, "cpu")
    file.write_bytes(b"no heads")
    with pytest.raises(CheckpointError, match=r"heads\.safetensors: not the heads of this model"):
        build(config, config.bundle, 1, "cpu")


def test_the_same_weights_give_the_same_bundle_and_it_starts_training_again(tmp_path: Path) -> None:
    model = model_of()
    folders = [tmp_path / name for name in ("one", "two")]
    for folder in folders:
        write_bundle(model, "untrained-tiny", folder, name="x", dtype=torch.float32, extras=("lm_head",))
    assert (folders[0] / "model.safetensors").read_bytes() == (folders[1] / "model.safetensors").read_bytes()
    config = replace(StartConfig(bundle="untrained-tiny"), bundle=str(folders[0]))
    again = build(config, str(folders[0]), 1, "cpu")
    values = dict(again.named_parameters())
    for name, value in model.named_parameters():
        if "lora_" not in name:
            assert torch.equal(value, values[name]), name


def test_tak_is_asked_for_the_place_in_whichever_frame_it_says() -> None:
    """The prompt is [TAK] for the most part: where it says a visible frame's place, the place costs nothing."""
    clip = clip_of(expressions=3)
    objects = clip.objects
    auxiliary = Auxiliary(prompt=8, tower=8, image=8, text=8, waves=torch.randn(2, 4))
    with torch.no_grad():
        auxiliary.on_seg.weight.copy_(torch.eye(4, 8))
        auxiliary.on_seg.bias.zero_()
    queries, single = meant_queries(objects)
    first = objects.meant.argmax(1)
    shown = objects.masks[first].any((2, 3)) & (single & ~queries.nothing)[:, None]
    assert shown.any()
    places = objects.places[first]

    def loss(tak: np.ndarray) -> float:
        tokens = torch.zeros(len(first), 8)
        tokens[:, :2] = torch.from_numpy(tak)
        return auxiliary.tak_place_loss(tokens, objects, view_of(objects)).item()

    last = shown.shape[1] - 1 - shown[:, ::-1].argmax(1)
    on_first, on_last = (places[range(len(first)), frame, :2] for frame in (shown.argmax(1), last))
    assert loss(on_first) == pytest.approx(0, abs=1e-6)
    assert loss(on_last) == pytest.approx(0, abs=1e-6)
    # smooth L1 beyond beta is linear: 10 less half of beta, or a little less from a nearer frame
    assert 4 * 9 < loss(on_first + 10) < 4 * 10
    model = model_of(auxiliary=True)
    losses = model(clip, 1, ForwardConfig(prompts="none"), LossWeights(ce=0, bce=0, dice=0, tak_place=0.5))
    assert losses["loss"].item() == pytest.approx(0.5 * losses["tak_place"].item())
    losses["loss"].backward()
    assert model.language.text_hidden_fcs[0].weight.grad.any()


def test_tak_is_asked_whether_anything_is_meant_by_those_that_do_and_do_not_alike() -> None:
    """Of three instructions that mean something and one that does not, the one weighs as much as the three."""
    objects = replace(clip_of(expressions=3).objects, meant=np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool))
    auxiliary = Auxiliary(prompt=8, tower=8, image=8, text=8, waves=torch.randn(2, 4))
    with torch.no_grad():
        auxiliary.on_tak.weight.zero_()
        auxiliary.on_tak.weight[-1, 0] = 1
        auxiliary.on_tak.bias.zero_()

    def loss(*logits: float) -> float:
        tokens = torch.zeros(len(logits), 8)
        tokens[:, 0] = torch.tensor(logits)
        return auxiliary.tak_presence_loss(tokens, objects).item()

    assert loss(0, 0, 0, 0) == pytest.approx(np.log(2))
    assert loss(20, 20, 20, 0) == pytest.approx(np.log(2) / 2, abs=1e-6)
    assert loss(0, 20, 20, -20) == pytest.approx(np.log(2) / 6, abs=1e-6)
    model = model_of(auxiliary=True)
    losses = model(
        clip_of(expressions=3), 1, ForwardConfig(prompts="none"), LossWeights(ce=0, bce=0, dice=0, tak_presence=0.5)
    )
    assert losses["loss"].item() == pytest.approx(0.5 * losses["tak_presence"].item())
    losses["loss"].backward()
    assert model.language.text_hidden_fcs[0].weight.grad.any()


def objects_that_come_and_go() -> Objects:
    objects = clip_of(expressions=1).objects
    masks = objects.masks.copy()
    masks[0, 1] = False  # away in one frame
    masks[1, 0] = False  # comes late
    return replace(objects, masks=masks)


def one_token_each(shown: np.ndarray) -> Tensor:
    """(O, n, O) bool for `shown` (O, n): each object that shows on a frame has a token there."""
    return torch.from_numpy(np.eye(len(shown), dtype=bool)[:, None] & shown[..., None])


def test_the_travel_loss_is_nothing_where_every_token_knows_its_objects_way() -> None:
    objects = objects_that_come_and_go()
    masks, view = objects.masks, view_of(objects)
    count, frames = masks.shape[:2]
    auxiliary = Auxiliary(prompt=8, tower=8, image=8, text=4, waves=torch.zeros(2, 4))
    with torch.no_grad():
        auxiliary.on_frames.weight.copy_(torch.eye(4))
        auxiliary.on_frames.bias.zero_()
    shown = masks.any((2, 3))
    own = one_token_each(shown)
    knows = torch.full((frames, count, 4), 9.0)
    for number, frame in np.argwhere(shown):
        place = objects.places[number, frame, :2]
        knows[frame, number, :2] = torch.from_numpy(place)
        before = objects.places[number, :frame, :2][shown[number, :frame]]
        if len(before):  # where nothing was seen of it before, anything may be said
            knows[frame, number, 2:] = torch.from_numpy(place - before.mean(0))
    assert auxiliary.travel_loss(knows, own, objects, view).item() == pytest.approx(0, abs=1e-6)
    # beyond beta, smooth L1 is linear: 5 times a way of 1 on both axes, less half of beta
    wrong = knows + torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert auxiliary.travel_loss(wrong, own, objects, view).item() == pytest.approx(5 - 0.25, abs=1e-4)
    assert auxiliary.travel_loss(knows, torch.zeros_like(own), objects, view).item() == 0


def test_the_pace_loss_is_nothing_where_every_token_knows_how_its_object_fares() -> None:
    objects = objects_that_come_and_go()
    masks, view = objects.masks, view_of(objects)
    count, frames = masks.shape[:2]
    auxiliary = Auxiliary(prompt=8, tower=8, image=8, text=4, waves=torch.zeros(2, 4))
    with torch.no_grad():
        auxiliary.on_pace.weight.copy_(torch.eye(4))
        auxiliary.on_pace.bias.zero_()
    shown = masks.any((2, 3))
    own = one_token_each(shown)
    knows = torch.full((frames, count, 4), 9.0)
    for number, frame in np.argwhere(shown):
        places = objects.places[number, : frame + 1, :2][shown[number, : frame + 1]]
        if len(places) > 1:  # one that is seen for the first time has no step: anything may be said
            diagonal = np.hypot(*(places.max(0) - places.min(0)))
            knows[frame, number, :2] = torch.tensor([diagonal, np.hypot(*(places[-1] - places[-2]))])
        knows[frame, number, 2] = 4 * float(objects.places[number, frame, 2])
        whole = (masks[number].sum((1, 2)) / objects.places[number, :, 2] ** 2).max()
        knows[frame, number, 3] = float(masks[number, frame].sum() / objects.places[number, frame, 2] ** 2 / whole)
    assert auxiliary.pace_loss(knows, own, objects, view).item() == pytest.approx(0, abs=1e-6)
    for part in range(4):
        wrong = knows.clone()
        wrong[..., part] += 1  # beyond beta, smooth L1 is linear: twice 1, less half of beta
        assert auxiliary.pace_loss(wrong, own, objects, view).item() == pytest.approx(2 - 0.1, abs=1e-4)
    assert auxiliary.pace_loss(knows, torch.zeros_like(own), objects, view).item() == 0
    assert not paces(objects, view)[1][:, 0].any()  # on the first frame there is none before


def test_places_are_those_in_what_the_tower_sees() -> None:
    wide = from_synth(
        make_video(0, 1, "train", replace(SMALL, aspects=(1.5,))), np.random.default_rng(0), (2, 2), 1
    ).objects
    height, width = wide.masks.shape[2:]
    pixels = wide.places[..., :2] * (width, height)
    assert np.allclose(seen_places(wide, view_of(wide, "whole")), wide.places[..., :2], atol=1e-6)
    assert np.allclose(seen_places(wide, view_of(wide)), (pixels - ((width - height) / 2, 0)) / height, atol=1e-6)
    square = clip_of().objects
    assert np.allclose(seen_places(square, view_of(square)), square.places[..., :2], atol=1e-6)


def test_paces_in_a_wide_frame_are_the_same_along_both_sides() -> None:
    objects = objects_that_come_and_go()
    count, frames = objects.masks.shape[:2]
    places, masks = objects.places.copy(), np.ones((count, frames, 32, 128), bool)
    places[..., :2] = 0.5
    places[0, 1:, 0] += 16 / 128  # 16 pixels along, and across
    places[1, 1:, 1] += 16 / 32
    wide = replace(objects, places=places, masks=masks)
    found = paces(wide, view_of(wide, "whole"))[0]
    assert found[:2, 1, :2] == pytest.approx(16 / 64, abs=1e-6)  # 32 x 128 is as large as 64 x 64


def test_what_is_told_is_the_object_of_that_colour_shape_and_place() -> None:
    objects = clip_of().objects
    count, names = len(objects.colours), len(COLOUR_NAMES) + len(SHAPE_NAMES) + 1
    auxiliary = Auxiliary(prompt=names + 4, tower=8, image=8, text=8, waves=torch.zeros(2, (names + 4) // 2))
    with torch.no_grad():
        for head, first in ((auxiliary.on_tak, 0), (auxiliary.on_seg, names)):
            head.weight.zero_()
            head.weight[:, first : first + len(head.weight)].copy_(torch.eye(len(head.weight)))
            head.bias.zero_()
    view = view_of(objects)
    alike = replace(objects, colours=np.full(count, 1), shapes=np.full(count, 2))
    for frame in range(objects.masks.shape[1]):
        told = torch.zeros(count, names + 4)
        told[:, names : names + 2] = torch.from_numpy(objects.places[:, frame, :2])
        shown = objects.masks[:, frame].any((1, 2))
        assert (auxiliary.told(told, alike, view) == np.arange(count))[shown].all()  # by the place alone
    unlike = replace(objects, colours=np.arange(count))
    told = torch.zeros(count, names + 4)
    told[:, : len(COLOUR_NAMES)] = 100 * torch.eye(count, len(COLOUR_NAMES))
    assert (auxiliary.told(told, unlike, view) == np.arange(count)).all()  # by the colour alone
    away = objects.masks.copy()
    away[0] = False
    assert 0 not in auxiliary.told(told, replace(unlike, masks=away), view)  # what does not show is not told


def test_sam2_is_asked_for_what_is_told_where_one_object_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip = model_of(auxiliary=True), clip_of(expressions=6)
    objects = clip.objects
    several = objects.meant.copy()
    several[0] = True
    several[1] = False
    clip = replace(
        clip,
        objects=replace(objects, meant=several),
        masks=np.stack(
            [objects.masks[row].any(0) if row.any() else np.zeros_like(objects.masks[0]) for row in several]
        ),
    )
    other = (several.argmax(1) + 1) % len(objects.colours)
    monkeypatch.setattr(Auxiliary, "told", lambda *_: other)
    asked: list[np.ndarray] = []
    plain = TrainingModel._segment
    monkeypatch.setattr(
        TrainingModel,
        "_segment",
        lambda self, clip, masks, *rest: (asked.append(masks), plain(self, clip, masks, *rest)),
    )
    segment = SegmentConfig(window=1, mask_size="low")
    for truth in ("meant", "told"):
        model(clip, 1, ForwardConfig(truth=truth, segment=segment), LossWeights(ce=0))
    meant, told = asked
    assert np.array_equal(meant, clip.masks)
    single = several.sum(1) == 1
    assert single.any()
    assert np.array_equal(told[~single], clip.masks[~single])
    assert np.array_equal(told[single], objects.masks[other[single]])


def test_what_no_language_model_tells_is_refused() -> None:
    with pytest.raises(ValueError, match="truth = told, prompts = oracle: expected prompts language"):
        ForwardConfig(truth="told", prompts="oracle")


@pytest.mark.parametrize(("empty", "bce", "dice"), [("all", True, True), ("bce", True, False), ("none", False, False)])
def test_losses_of_empty_masks_are_taken_where_they_are_asked_for(empty: Any, bce: bool, dice: bool) -> None:
    model, clip = model_of(), clip_of(expressions=2)
    nothing = replace(clip, masks=np.zeros_like(clip.masks))
    config = ForwardConfig(segment=SegmentConfig(window=1, mask_size="low", empty_masks=empty))
    losses = model(nothing, 1, config, LossWeights(ce=0, presence=1))
    assert (losses["bce"] > 0) == bce
    assert (losses["dice"] > 0) == dice
    assert losses["presence"] > 0
    losses["loss"].backward()
    assert model.segmenter.sam_mask_decoder.pred_obj_score_head.layers[0].weight.grad.any()


def test_the_deeds_loss_weighs_each_deed_the_same_and_leaves_out_what_is_arguable() -> None:
    objects = clip_of(expressions=1).objects
    count, frames = objects.masks.shape[:2]
    deeds = np.full((count, len(DEEDS)), MAYBE, np.int8)
    deeds[:, 0] = NO
    deeds[0, 0] = YES
    deeds[0, 1] = YES  # of this one nothing is known but that
    objects = replace(objects, deeds=deeds)
    auxiliary = Auxiliary(prompt=8, tower=8, image=8, text=len(DEEDS), waves=torch.zeros(2, 4))
    with torch.no_grad():
        auxiliary.on_deeds.weight.copy_(torch.eye(len(DEEDS)))
        auxiliary.on_deeds.bias.zero_()
    own = torch.zeros(count, frames, count + 1, dtype=torch.bool)  # a token for each object, and one of the background
    own[:, :, :count] = torch.eye(count, dtype=torch.bool)[:, None]
    knows = torch.full((frames, count + 1, len(DEEDS)), -30.0)
    knows[:, 0, :2] = 30.0
    assert auxiliary.deeds_loss(knows, own, objects).item() == pytest.approx(0, abs=1e-6)
    wrong = knows.clone()
    wrong[:, 0, 1] = -30.0  # all that is known of the second deed, and the mean is over two
    assert auxiliary.deeds_loss(wrong, own, objects).item() == pytest.approx(4 * 30 / 2, abs=1e-4)
    wrong = knows.clone()
    wrong[0, 0, 0] = -30.0  # in one frame, of one object
    assert auxiliary.deeds_loss(wrong, own, objects).item() == pytest.approx(4 * 30 / frames / count / 2, abs=1e-4)
    wrong = knows.clone()
    wrong[0, 1, 0] = 30.0  # one that does not do it counts less than one that does
    assert auxiliary.deeds_loss(wrong, own, objects).item() == pytest.approx(30 / frames / count / 2, abs=1e-4)
    wrong = knows.clone()
    wrong[:, :, 2:] = 30.0
    wrong[:, count] = 7.0
    assert auxiliary.deeds_loss(wrong, own, objects).item() == pytest.approx(0, abs=1e-6)
    assert auxiliary.deeds_loss(knows, torch.zeros_like(own), objects).item() == 0


def test_deeds_are_what_instructions_without_a_name_are_true_by() -> None:
    same = {"fastest": "fastest", "slowest": "slowest", "still": "still", "hidden": "hidden", "hiding": "hiding"}
    same |= {"enters": "entering", "leaves": "leaving", "grows": "growing", "shrinks": "shrinking", "turns": "turning"}
    same |= {
        "enters_last": "entering last",
        "leaves_first": "leaving first",
        "largest": "largest",
        "smallest": "smallest",
    }
    checked: Counter[str] = Counter()
    for index in range(40):
        video = make_video(0, index, "train", replace(SMALL, expressions=6))
        deeds = judge_deeds(video)
        for expression in video.expressions:
            deed = same.get(expression.subtype)
            if expression.subtype in ("heading", "outermost"):
                deed = f"{'heading' if expression.subtype == 'heading' else 'furthest'} {expression.names['heading']}"
            if deed and expression.kind != "absent" and not expression.names.keys() & {"colour", "shape"}:
                verdicts = deeds[:, list(DEEDS).index(deed)]
                assert tuple(np.flatnonzero(verdicts == YES)) == expression.object_ids
                assert MAYBE not in verdicts
                checked[deed] += 1
    assert len(checked) >= 12
    assert sum(checked.values()) >= 60


def test_travel_reads_the_states_of_the_frames_in_a_whole_pass() -> None:
    """What the head is given in training is what LLaMA's layer gives where the prompt is run whole."""
    model, clip = model_of(auxiliary=True), clip_of(expressions=2)
    given: list[Tensor] = []
    model.auxiliary.on_frames.register_forward_pre_hook(lambda _, args: given.append(args[0].detach()))
    model.auxiliary.on_deeds.register_forward_pre_hook(lambda _, args: given.append(args[0].detach()))
    losses = model(clip, 1, ForwardConfig(prompts="none"), LossWeights(ce=0, bce=0, dice=0, travel=1, deeds=1))
    assert torch.equal(*given)
    losses["travel"].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.language.llama.layers[0].parameters())
    with torch.no_grad():
        tokens, _, _ = model._image_tokens(clip.frames)
        prompt = model.tokenizer.encode(clip.texts[1], len(clip.frames))
        seen: list[Tensor] = []
        attention = model.language.llama.layers[-2].self_attn
        attention.register_forward_pre_hook(
            lambda _, __, kwargs: seen.append(kwargs["hidden_states"]), with_kwargs=True
        )
        model.language.llama(inputs_embeds=model.language.embed(prompt.input_ids, tokens)[None])
    width = tokens.shape[1]
    firsts = [place + (width - 1) * k for k, place in enumerate(np.flatnonzero(np.array(prompt.input_ids) == -200))]
    for frame, first in enumerate(firsts):
        torch.testing.assert_close(given[0][frame], seen[0][0, first : first + width], atol=1e-5, rtol=1e-4)

"""The parts that each kind of stage trains."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from tests.operators.training.helpers import (
    clip_of,
    model_of,
    one_step,
)
from vrshq.operators.training.config import (
    ForwardConfig,
    LoraConfig,
    LossWeights,
    OptimiserConfig,
    SegmentConfig,
    StageConfig,
)
from vrshq.operators.training.schedule import PAPER_PARTS, choose_trained, lora_layers
from vrshq.operators.training.step import StageTrainer


def test_the_recipe_trains_its_parts_and_nothing_else() -> None:
    model = model_of()
    for layer in lora_layers(model.language.llama).values():
        nn.init.normal_(layer.lora_b, std=0.02)  # while B is zero, A has no gradient
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


def test_with_prompts_nothing_asked_only_the_two_image_encoders_and_their_heads_learn() -> None:
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


def test_a_part_that_does_not_exist_is_named() -> None:
    with pytest.raises(ValueError, match=r"language\.nothing"):
        choose_trained(model_of(), ["language.nothing"])
    with pytest.raises(ValueError, match="no linear layer x_proj"):
        model_of(lora=LoraConfig(targets=("x_proj",)))

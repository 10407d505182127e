"""A language model that gets more layers between two stages."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operators.training.helpers import clip_of, model_of, one_step
from vrshq.operators.training.config import ForwardConfig, LoraConfig, LossWeights, OptimiserConfig, StageConfig
from vrshq.operators.training.forward import TrainingModel
from vrshq.operators.training.growth import add_differences, deepen

NO_ADAPTERS = LoraConfig(rank=0)


def with_layers(number: int) -> TrainingModel:
    """The small model with `number` layers, all with weights that are not zero."""
    model = model_of(lora=NO_ADAPTERS, auxiliary=True)
    deepen(model.language, number)
    with torch.no_grad():
        for name, weight in model.language.llama.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):
                weight.normal_(std=0.1)
    return model


@settings(max_examples=10, deadline=None)
@given(st.integers(2, 5), st.integers(0, 3))
def test_new_layers_change_no_answer_until_they_are_trained(before: int, more: int) -> None:
    model, clip = with_layers(before), clip_of()
    read = (ForwardConfig(prompts="none"), LossWeights(ce=0, bce=0, dice=0, auxiliary=1, pointing=1, travel=1))
    old = model(clip, 1, *read)
    pointing = model.language.llama.layers[-2]
    deepen(model.language, before + more)
    new = model(clip, 1, *read)
    assert {name: value.item() for name, value in new.items()} == {name: value.item() for name, value in old.items()}
    assert len(model.language.llama.layers) == model.language.config.language.num_layers == before + more
    assert model.language.llama.layers[-2] is pointing  # the layer that points stays last but one


def test_new_layers_learn() -> None:
    model = with_layers(2)
    deepen(model.language, 3)
    stage = StageConfig(
        steps=2,
        trained=("language.llama.layers.0",),
        forward=ForwardConfig(prompts="none"),
        losses=LossWeights(ce=0, bce=0, dice=0, auxiliary=1),
        optimiser=OptimiserConfig(warmup=0),
    )
    _, first = one_step(model, stage, [clip_of()])
    assert first == {f"language.llama.layers.0.{name}.weight" for name in ("self_attn.o_proj", "mlp.down_proj")}
    _, second = one_step(model, replace(stage, steps=3), [clip_of()])
    assert second == {name for name, _ in model.named_parameters() if name.startswith("language.llama.layers.0.")}


def test_a_model_is_not_made_shallower() -> None:
    with pytest.raises(ValueError, match="language_layers = 2: expected at least 3"):
        deepen(with_layers(3).language, 2)


def test_frame_differences_change_no_answer_until_they_are_trained() -> None:
    model, clip = model_of(lora=NO_ADAPTERS, auxiliary=True), clip_of()
    read = (ForwardConfig(prompts="none"), LossWeights(ce=0, bce=0, dice=0, auxiliary=1, pointing=1, travel=1))
    old = model(clip, 1, *read)
    add_differences(model.language)
    new = model(clip, 1, *read)
    assert {name: value.item() for name, value in new.items()} == {name: value.item() for name, value in old.items()}
    stage = StageConfig(steps=1, trained=("language.frame_differences",), forward=read[0], losses=read[1])
    _, changed = one_step(model, stage, [clip])
    assert changed == {"language.frame_differences.project.weight"}
    trained = model.language.frame_differences
    add_differences(model.language)  # of a later stage
    assert model.language.frame_differences is trained
    assert model(clip, 1, *read)["loss"].item() != old["loss"].item()

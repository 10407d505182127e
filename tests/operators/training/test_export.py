"""Export of a trained model as a bundle and as an adapter."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from tests.operators.training.helpers import (
    clip_of,
    heads_of,
    model_of,
)
from vrshq.operators.models.bundle import CheckpointError, open_bundle
from vrshq.operators.models.vrs_hq.load import load_language
from vrshq.operators.training.config import StartConfig
from vrshq.operators.training.schedule import (
    lora_layers,
)
from vrshq.operators.training.start import build, write_adapter, write_bundle


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
    merged = load_language(open_bundle(str(tmp_path / "bundle")), "cpu", torch.float32)
    with torch.no_grad():
        assert torch.allclose(merged.hidden_states(prompt, tokens), expected, atol=1e-4)
    # the base weights, with the adapter beside them, give the same
    for layer in lora_layers(model.language.llama).values():
        layer.scale = layer.scale * 0.0
    write_bundle(model, "untrained-tiny", tmp_path / "base", name="x", dtype=torch.float32)
    for layer in lora_layers(model.language.llama).values():
        layer.scale = 2.0
    write_adapter(model, tmp_path / "base" / "adapter")
    adapted = load_language(open_bundle(str(tmp_path / "base")), "cpu", torch.float32)
    with torch.no_grad():
        assert torch.allclose(adapted.hidden_states(prompt, tokens), expected, atol=1e-4)
    assert json.loads((tmp_path / "base" / "adapter" / "adapter_config.json").read_text())["lora_alpha"] == 16


def test_training_continues_with_the_heads_of_its_bundle(tmp_path: Path) -> None:
    model = model_of(auxiliary=True)
    write_bundle(model, "untrained-tiny", tmp_path / "bare", name="x")
    write_bundle(model, "untrained-tiny", tmp_path / "whole", name="x", extras=("heads",))
    heads = dict(heads_of(model).named_parameters())
    for name, same in (("bare", False), ("whole", True)):
        folder = str(tmp_path / name)
        config = StartConfig(bundle=folder, auxiliary=True)
        again = dict(heads_of(build(config, folder, 1, "cpu")).named_parameters())
        assert all(torch.equal(value, again[key]) for key, value in heads.items()) == same
    # the fingerprint covers the weights, not the heads
    assert open_bundle(str(tmp_path / "bare")).fingerprint == open_bundle(str(tmp_path / "whole")).fingerprint
    # heads that an older bundle lacks stay fresh; an unknown head is an error
    file = tmp_path / "whole" / "heads.safetensors"
    fewer = {name: value for name, value in load_file(file).items() if not name.startswith("on_deeds")}
    save_file(fewer, file)
    again = dict(heads_of(build(config, folder, 1, "cpu")).named_parameters())
    assert [name for name, value in heads.items() if not torch.equal(value, again[name])] == [
        "on_deeds.weight",
        "on_deeds.bias",
    ]
    save_file(fewer | {"on_smell.weight": torch.zeros(2)}, file)
    with pytest.raises(CheckpointError, match=r"heads\.safetensors: not the heads of this model .*on_smell"):
        build(config, folder, 1, "cpu")
    file.write_bytes(b"no heads")
    with pytest.raises(CheckpointError, match=r"heads\.safetensors: not the heads of this model"):
        build(config, folder, 1, "cpu")


def test_the_same_weights_give_the_same_bundle_and_training_can_start_from_it(tmp_path: Path) -> None:
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

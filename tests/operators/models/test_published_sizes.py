"""Without a bundle.json, the language model's sizes are those of the checkpoint's own config.json."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from vrshq.operators.models.bundle import CheckpointError, open_bundle
from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.vrs_hq.checkpoint import layout

# config.json of a LLaMA of 13 billion parameters, with the names that transformers gives
CONFIG = {
    "architectures": ["VrshqForCausalLM"],
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
    "rms_norm_eps": 1e-05,
    "max_position_embeddings": 4096,
    "vocab_size": 32004,
}


def folder_of(path: Path, config: dict[str, Any], added: dict[str, int] | None = None) -> str:
    """A folder in the published layout, whose weights are empty files."""
    (path / "clip").mkdir()
    (path / "config.json").write_text(json.dumps(config))
    if added is not None:
        (path / "added_tokens.json").write_text(json.dumps(added))
    for name in ("pytorch_model.bin", "clip/model.safetensors"):
        (path / name).touch()
    return str(path)


def test_a_published_13b_opens_with_the_sizes_of_its_own_config(tmp_path: Path) -> None:
    model = open_bundle(folder_of(tmp_path, CONFIG, {"[SEG]": 32002, "[TAK]": 32003, "<pad>": 32000})).model
    language = model.language
    assert (language.hidden_size, language.intermediate_size, language.num_layers) == (5120, 13824, 40)
    assert (language.num_heads, language.num_key_value_heads, language.rms_norm_eps) == (40, 40, 1e-05)
    assert (language.vocab_size, language.seg_token_id, language.tak_token_id) == (32004, 32002, 32003)
    assert (model.sam2, model.tower, model.clip) == (ModelConfig().sam2, ModelConfig().tower, ModelConfig().clip)
    shapes = layout(model)
    assert shapes["model.layers.39.mlp.gate_proj.weight"] == (13824, 5120)
    assert shapes["model.text_hidden_fcs.0.2.weight"][1] == shapes["model.mm_projector.weight"][0] == 5120


def test_what_the_config_does_not_say_has_the_published_value(tmp_path: Path) -> None:
    assert open_bundle(folder_of(tmp_path, {"architectures": ["VrshqForCausalLM"]})).model == ModelConfig()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": "5120"}, "hidden_size '5120', expected a whole number"),
        ({"num_hidden_layers": 0}, "num_hidden_layers 0, expected a whole number"),
        ({"rms_norm_eps": -1}, "rms_norm_eps -1, expected a number above 0"),
        ({"num_attention_heads": 39}, "hidden_size 5120, expected a multiple of the 39 heads"),
        ({"rope_scaling": {"type": "linear"}}, "rope_scaling is not supported; expected null"),
    ],
)
def test_a_config_that_cannot_be_used_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CheckpointError) as refused:
        open_bundle(folder_of(tmp_path, CONFIG | change))
    assert str(refused.value) == f"{tmp_path / 'config.json'}: {reason}"

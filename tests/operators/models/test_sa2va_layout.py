"""The published layout of Sa2VA: every tensor has a place, what does not fit is named, and a folder's code is not run."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.sa2va_parity import KIT, language, model_config, needs_kit, segmenter
from vrshq.operators.models.bundle import CheckpointError
from vrshq.operators.models.sa2va.config import Sa2vaConfig
from vrshq.operators.models.sa2va.layout import layout, load_language, place_of, published_name, read_config

SCALE = "grounding_encoder.sam2_model.memory_encoder.fuser.layers.0.g_weight"
LAST = "model-00002-of-00002.safetensors"


@needs_kit
def test_every_published_tensor_of_the_full_size_model_has_its_place() -> None:
    published = json.loads((KIT / "full_size_layout.json").read_text())
    sizes = {key: published[key] for key in ("text_config", "vision_config")}
    shapes = {name: tuple(shape) for name, shape in published["tensors"].items()}
    config = Sa2vaConfig(language=sizes["text_config"], vision=sizes["vision_config"], image_token_id=151655)
    expected = layout(config)
    assert len(expected) == len(shapes) == 1618
    assert dict(expected) == shapes
    assert all(published_name(*place_of(name)) == name for name in shapes)
    assert place_of(SCALE) == ("segmenter", "memory_encoder.fuser.layers.0.gamma")


@needs_kit
def test_each_tensor_of_a_checkpoint_lies_in_the_networks_as_it_was_stored() -> None:
    parts: dict[str, dict[str, Any]] = {"language": language().state_dict(), "segmenter": segmenter().state_dict()}
    seen = 0
    for file in (KIT / "model").glob("*.safetensors"):
        for name, stored in load_file(file).items():
            part, inside = place_of(name)
            assert torch.equal(parts[part][inside], stored.float()), name
            seen += 1
    assert seen == sum(map(len, parts.values())) == 482


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the kit's checkpoint, to break."""
    for file in (KIT / "model").iterdir():
        shutil.copyfile(file, tmp_path / file.name)
    return tmp_path


def break_shard(folder: Path, change: Any) -> None:
    tensors = load_file(folder / LAST)
    change(tensors)
    save_file(tensors, folder / LAST)


@needs_kit
@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda tensors: tensors.pop(SCALE),
            rf"missing tensor {SCALE} \(in all: 1 missing, 0 unexpected, 0 of another",
        ),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), r"unexpected tensor extra \(in all: 0 missing, 1 unexp"),
        (
            lambda tensors: tensors.update({SCALE: torch.zeros(3)}),
            rf"{SCALE}: shape \(3,\), expected \(64,\) \(in all: 0 missing, 0 unexpected, 1 of another shape\)",
        ),
        (
            lambda tensors: tensors.update({SCALE: tensors[SCALE].long()}),
            rf"{SCALE}: shape \(64,\) of torch.int64, expected",
        ),
    ],
    ids=["missing", "unexpected", "another shape", "no numbers"],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(change: Any, said: str, folder: Path) -> None:
    break_shard(folder, change)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_language(folder, model_config(), "cpu", torch.float32)
    assert "\n" not in str(caught.value)


@needs_kit
def test_a_cut_shard_and_an_absent_one_are_refused_by_name(folder: Path) -> None:
    whole = (folder / LAST).read_bytes()
    (folder / LAST).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=rf"{LAST}: not a readable checkpoint shard"):
        load_language(folder, model_config(), "cpu", torch.float32)
    (folder / LAST).unlink()
    with pytest.raises(CheckpointError, match=rf"index\.json lists {LAST}; fetch the folder again"):
        load_language(folder, model_config(), "cpu", torch.float32)


@needs_kit
def test_code_beside_the_weights_is_not_run(folder: Path) -> None:
    for name in ("configuration_sa2va_chat.py", "modeling_sa2va_qwen.py"):
        (folder / name).write_text(f"open({str(folder / 'ran')!r}, 'w').close()\n")
    assert read_config(folder).end_token_id == 602
    load_language(folder, model_config(), "cpu", torch.bfloat16)
    assert not (folder / "ran").exists()


def test_the_config_of_another_model_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["LlamaForCausalLM"]}))
    with pytest.raises(CheckpointError, match=r"architectures \['LlamaForCausalLM'\], expected Sa2VAChatModelQwen$"):
        read_config(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({"architectures": ["Sa2VAChatModelQwen"], "text_config": {}}))
    with pytest.raises(CheckpointError, match=r"config\.json: KeyError: 'vision_config'; expected that of Sa2VA"):
        read_config(tmp_path)

"""Loading weights: the published layout, bundles, and what is said of checkpoints that do not fit."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from operators.bundle import CheckpointError, open_bundle
from operators.checkpoint import clip_config, parameters_on_meta, place
from operators.model_config import ModelConfig
from operators.segmenter import Segmenter
from operators.tokens import ChatUniVi
from tests.parity import KIT, clip_weights, main_weights, model_config, needs_kit

SHARD = "pytorch_model-00002-of-00002.bin"


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A copy of the kit in the published layout, with its sizes beside it."""
    folder = tmp_path / "published"
    shutil.copytree(KIT / "model", folder, copy_function=shutil.copyfile)
    shutil.copytree(KIT / "clip", folder / "clip", copy_function=shutil.copyfile)
    description = {"format": "vrshq-bundle/1", "name": "kit", "model": model_config().to_dict()}
    (folder / "bundle.json").write_text(json.dumps(description))
    for path in [folder, folder / "clip"]:
        path.chmod(0o755)
    return folder


class Attack:
    """What a hostile checkpoint would hold: an object whose loading runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os; os.environ['VRSHQ_ATTACKED'] = '1'",)


def load_all(folder: Path) -> None:
    bundle = open_bundle(str(folder))
    bundle.load_language()
    bundle.load_segmenter()
    bundle.load_clip()


@needs_kit
def test_published_layout_puts_every_tensor_where_it_belongs_parity(published: Path) -> None:
    bundle = open_bundle(str(published))
    loaded = {
        "language": bundle.load_language().state_dict(),
        "segmenter": bundle.load_segmenter().state_dict(),
        "clip": bundle.load_clip().state_dict(),
    }
    used: dict[str, set[str]] = {part: set() for part in loaded}
    stored = main_weights() | {f"clip.{name}": value for name, value in clip_weights().items()}
    for name, tensor in stored.items():
        target = place(name)
        if isinstance(target, str):
            continue
        part, inside = target
        assert torch.equal(loaded[part][inside], tensor), name
        used[part].add(inside)
    for part, state in loaded.items():
        assert set(state) - used[part] == set()


@needs_kit
def test_full_size_layout_is_placed_completely_without_its_memory() -> None:
    layout: dict[str, list[int]] = json.loads((KIT / "full_size_layout.json").read_text())
    layout = layout.get("tensors", layout)  # type: ignore[assignment]
    config = ModelConfig()
    with parameters_on_meta():
        networks = {"language": ChatUniVi(config), "segmenter": Segmenter(config.sam2)}
    wanted: dict[str, Any] = {part: network.state_dict() for part, network in networks.items()}
    ignored = []
    for name, shape in layout.items():
        target = place(name)
        if isinstance(target, str):
            ignored.append(name)
            continue
        part, inside = target
        assert list(wanted[part].pop(inside).shape) == list(shape), name
    assert wanted == {"language": {}, "segmenter": {}}
    assert {name.rpartition(".")[2] for name in ignored} <= {"inv_freq", "position_ids", "weight"}
    assert [name for name in ignored if name.endswith("weight")] == ["lm_head.weight"]


@needs_kit
def test_dtype_is_chosen_at_load(published: Path) -> None:
    segmenter = open_bundle(str(published)).load_segmenter(dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in segmenter.parameters()} == {torch.bfloat16}


@needs_kit
@pytest.mark.parametrize("what", ["missing", "unexpected", "shape", "truncated", "code", "old code", "foreign"])
def test_broken_checkpoint_is_refused_by_name(published: Path, what: str) -> None:
    shard = published / SHARD
    state = torch.load(shard, weights_only=True)
    name = "model.visual_model.memory_encoder.fuser.layers.0.gamma"
    if what == "missing":
        del state[name]
    elif what == "unexpected":
        state["model.visual_model.extra.weight"] = torch.zeros(1)
    elif what == "foreign":
        state["model.another_tower.weight"] = torch.zeros(1)
    elif what == "shape":
        state[name] = torch.zeros(3)
    torch.save(state, shard)
    expected = {
        "missing": "missing tensor memory_encoder.fuser.layers.0.gamma",
        "unexpected": "unexpected tensor model.visual_model.extra.weight",
        "foreign": "unexpected tensor model.another_tower.weight",
        "shape": f"{name}: shape (3,), expected (64,)",
        "truncated": SHARD,
        "code": f"{SHARD}: refused",
        "old code": f"{SHARD}: refused",
    }[what]
    if what == "truncated":
        shard.write_bytes(shard.read_bytes()[: shard.stat().st_size // 2])
    elif what == "code":
        torch.save({"weights": Attack()}, shard)
    elif what == "old code":
        shard.write_bytes(pickle.dumps({"weights": Attack()}))
    with pytest.raises(CheckpointError) as caught:
        load_all(published)
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "VRSHQ_ATTACKED" not in os.environ


@needs_kit
def test_safetensors_bundle_of_the_same_weights_has_the_same_parts(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    (folder / "clip").mkdir(parents=True)
    save_file(load_file(KIT / "model_safetensors" / "model.safetensors"), folder / "model.safetensors")
    save_file(load_file(KIT / "clip" / "model.safetensors"), folder / "clip" / "model.safetensors")
    shutil.copyfile(published / "bundle.json", folder / "bundle.json")
    one, other = open_bundle(str(published)), open_bundle(str(folder))
    for load in ("load_language", "load_segmenter", "load_clip"):
        states = [getattr(bundle, load)().state_dict() for bundle in (one, other)]
        assert states[0].keys() == states[1].keys()
        assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_untrained_bundle_is_the_same_each_time_and_leaves_the_random_state_alone() -> None:
    bundle = open_bundle("untrained-tiny")
    before = torch.random.get_rng_state()
    first, second = bundle.load_segmenter().state_dict(), bundle.load_segmenter().state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="untrained-tiny"):
        open_bundle("no-such-model")


def test_clip_config_reads_the_pooled_token_as_the_published_weights_do() -> None:
    assert clip_config(ModelConfig().clip).text_config.eos_token_id == 2

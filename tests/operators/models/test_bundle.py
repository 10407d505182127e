"""Loading of weights: the published layout, bundles, and the errors for checkpoints that do not fit."""

from __future__ import annotations

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.support.parity import KIT, TOLERANCES, clip_weights, main_weights, model_config, needs_kit
from vrshq.operators.models.bundle import BUNDLED, CheckpointError, open_bundle
from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.vrs_hq.checkpoint import fill, layout, open_checkpoint, published_name, split_name
from vrshq.operators.models.vrs_hq.load import LOADERS, load_clip, load_language, load_segmenter
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.weights import parameters_on_meta

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
    """The content of a hostile checkpoint: an object whose loading runs code."""

    def __reduce__(self) -> tuple[Any, ...]:
        return exec, ("import os; os.environ['VRSHQ_ATTACKED'] = '1'",)


PARTS = ("language", "segmenter", "clip")


def states(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors that are loaded from a bundle, by part and name."""
    bundle = open_bundle(str(folder))
    networks = {part: LOADERS[part](bundle, "cpu", torch.float32) for part in PARTS}
    return {f"{part}.{name}": value for part in PARTS for name, value in networks[part].state_dict().items()}


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@needs_kit
def test_published_layout_puts_every_tensor_where_it_belongs_parity(published: Path) -> None:
    bundle = open_bundle(str(published))
    loaded = {
        "language": load_language(bundle).state_dict(),
        "segmenter": load_segmenter(bundle).state_dict(),
        "clip": load_clip(bundle).state_dict(),
    }
    used: dict[str, set[str]] = {part: set() for part in loaded}
    stored = main_weights() | {f"clip.{name}": value for name, value in clip_weights().items()}
    for name, tensor in stored.items():
        target = split_name(name)
        if isinstance(target, str):
            continue
        part, inside = target
        assert torch.equal(loaded[part][inside], tensor), name
        used[part].add(inside)
    assert {name: set(state) - used[name] for name, state in loaded.items()} == {name: set() for name in loaded}


@needs_kit
def test_full_size_layout_is_placed_completely_without_its_memory() -> None:
    layout: dict[str, list[int]] = json.loads((KIT / "full_size_layout.json").read_text())
    layout = layout.get("tensors", layout)  # type: ignore[assignment]
    config = ModelConfig()
    with parameters_on_meta():
        networks: dict[str, torch.nn.Module] = {"language": ChatUniVi(config), "segmenter": Segmenter(config.sam2)}
    wanted: dict[str, Any] = {part: network.state_dict() for part, network in networks.items()}
    ignored = []
    for name, shape in layout.items():
        target = split_name(name)
        if isinstance(target, str):
            ignored.append(name)
            continue
        part, inside = target
        assert published_name(part, inside) == name
        assert list(wanted[part].pop(inside).shape) == list(shape), name
    assert wanted == {"language": {}, "segmenter": {}}
    assert {name.rpartition(".")[2] for name in ignored} <= {"inv_freq", "position_ids", "weight"}
    assert [name for name in ignored if name.endswith("weight")] == ["lm_head.weight"]


@needs_kit
def test_dtype_is_chosen_at_load(published: Path) -> None:
    segmenter = load_segmenter(open_bundle(str(published)), dtype=torch.bfloat16)
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
        "missing": f"missing tensor {name}",
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
    for part in PARTS:  # the whole checkpoint is checked, whichever part is loaded
        with pytest.raises(CheckpointError) as caught:
            LOADERS[part](open_bundle(str(published)), "cpu", torch.float32)
        assert expected in str(caught.value)
        assert "\n" not in str(caught.value)
    assert "VRSHQ_ATTACKED" not in os.environ


@needs_kit
def test_tensors_that_do_not_fit_are_counted_and_the_first_few_are_named(published: Path) -> None:
    state = torch.load(published / SHARD, weights_only=True)
    lost = sorted(name for name in state if "sam_mask_decoder.transformer.layers" in name)
    for name in lost:
        del state[name]
    state["model.visual_model.extra"] = torch.zeros(1)
    state["another.extra"] = torch.zeros(1)
    state["model.visual_model.no_obj_ptr"] = torch.zeros(1, 64, dtype=torch.int32)
    torch.save(state, published / SHARD)
    with pytest.raises(CheckpointError) as caught:
        load_clip(open_bundle(str(published)))
    assert [name for name in lost if name in str(caught.value)] == lost[:3]
    for expected in (
        "unexpected tensor another.extra; unexpected tensor model.visual_model.extra",
        "model.visual_model.no_obj_ptr: shape (1, 64) of torch.int32, expected (1, 64)",
        f"in all: {len(lost)} missing, 2 unexpected, 1 of another shape",
    ):
        assert expected in str(caught.value)


@needs_kit
def test_gamma_keeps_its_name_and_a_renamed_one_is_refused(published: Path) -> None:
    name = "memory_encoder.fuser.layers.0.gamma"
    published_name = f"model.visual_model.{name}"
    loaded = load_segmenter(open_bundle(str(published))).state_dict()
    assert torch.equal(loaded[name], main_weights()[published_name])
    state = torch.load(published / SHARD, weights_only=True)
    state[published_name.replace("gamma", "weight")] = state.pop(published_name)
    torch.save(state, published / SHARD)
    with pytest.raises(
        CheckpointError, match=rf"missing tensor {published_name}; unexpected tensor .*layers\.0\.weight"
    ):
        load_segmenter(open_bundle(str(published)))


@needs_kit
def test_a_shard_that_the_index_lists_but_is_absent_is_named(published: Path) -> None:
    (published / SHARD).unlink()
    with pytest.raises(CheckpointError, match=f"lists {SHARD}"):
        open_bundle(str(published))


@needs_kit
def test_a_tensor_in_two_shards_is_refused(published: Path) -> None:
    state = torch.load(published / SHARD, weights_only=True)
    state["model.norm.weight"] = torch.ones(64)
    state["model.embed_tokens.weight"] = main_weights()["model.embed_tokens.weight"]
    torch.save(state, published / SHARD)
    with pytest.raises(CheckpointError, match=r"unexpected tensor model\..*which another file has too"):
        load_clip(open_bundle(str(published)))


@needs_kit
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="memory maps need /proc")
def test_no_file_stays_mapped_and_only_the_loaded_part_is_read(published: Path) -> None:
    bundle = open_bundle(str(published))
    checkpoint = open_checkpoint(bundle)
    assert str(published) in Path("/proc/self/maps").read_text()
    checkpoint.check(bundle.model)
    names = set(checkpoint.tensors)
    with parameters_on_meta():
        network = Segmenter(bundle.model.sam2)
    fill(network, "segmenter", checkpoint, "cpu", torch.float32)
    assert {name.startswith("model.visual_model.") for name in names - set(checkpoint.tensors)} == {True}
    del checkpoint
    assert str(published) not in Path("/proc/self/maps").read_text()
    assert all(torch.isfinite(tensor).all() for tensor in network.state_dict().values())


@needs_kit
def test_shards_in_the_format_before_torch_1_6_load(published: Path) -> None:
    expected = states(published)
    for shard in published.glob("*.bin"):
        torch.save(torch.load(shard, weights_only=True), shard, _use_new_zipfile_serialization=False)
    assert_same(states(published), expected)


@needs_kit
def test_fingerprint_depends_on_the_content_of_the_files(published: Path) -> None:
    before = open_bundle(str(published)).fingerprint
    assert open_bundle(str(published)).fingerprint == before
    state = torch.load(published / SHARD, weights_only=True)
    state["model.visual_model.no_obj_ptr"][0, 0] += 1
    torch.save(state, published / SHARD)
    between = open_bundle(str(published)).fingerprint
    clip = load_file(published / "clip" / "model.safetensors")
    clip["logit_scale"] += 1
    save_file(clip, published / "clip" / "model.safetensors")
    assert len({before, between, open_bundle(str(published)).fingerprint}) == 3


@pytest.mark.parametrize("name", ["../outside.safetensors", "/etc/passwd", 3, ""])
def test_files_outside_the_bundle_are_refused(tmp_path: Path, name: object) -> None:
    description = {"format": "vrshq-bundle/1", "model": {}, "weights": [name]}
    (tmp_path / "bundle.json").write_text(json.dumps(description))
    with pytest.raises(CheckpointError, match="expected a relative path inside the folder"):
        open_bundle(str(tmp_path))


RANK, ALPHA = 4, 12
TARGETS = [f"model.layers.{layer}.self_attn.{target}" for layer in range(2) for target in ("q_proj", "v_proj")]


def lora_factors(fresh: bool = False) -> dict[str, torch.Tensor]:
    """A random adapter of the kit's LLaMA, as peft names it."""
    generator = torch.Generator().manual_seed(1)
    factors = {}
    for module in TARGETS:
        factors[f"base_model.model.{module}.lora_A.weight"] = torch.randn(RANK, 64, generator=generator)
        b = torch.randn(64, RANK, generator=generator) * 0.1
        factors[f"base_model.model.{module}.lora_B.weight"] = b * 0 if fresh else b
    return factors


def write_adapter(folder: Path, factors: dict[str, torch.Tensor], pickled: bool = False, **settings: Any) -> None:
    folder.mkdir(exist_ok=True)
    defaults = {
        "peft_type": "LORA",
        "r": RANK,
        "lora_alpha": ALPHA,
        "target_modules": ["q_proj", "v_proj"],
        "bias": "none",
    }
    (folder / "adapter_config.json").write_text(json.dumps(defaults | settings))
    if pickled:
        torch.save(factors, folder / "adapter_model.bin")
    elif factors:
        save_file(factors, folder / "adapter_model.safetensors")


def merge_by_hand(state: dict[str, torch.Tensor]) -> None:
    factors = lora_factors()
    for module in TARGETS:
        if f"{module}.weight" in state:
            a, b = (factors[f"base_model.model.{module}.lora_{side}.weight"].double() for side in "AB")
            state[f"{module}.weight"] = (state[f"{module}.weight"].double() + ALPHA / RANK * b @ a).float()


def change_shards(folder: Path, change: Callable[[dict[str, torch.Tensor]], Any]) -> None:
    (folder / "pytorch_model.bin.index.json").unlink(missing_ok=True)
    for shard in folder.glob("pytorch_model*.bin"):
        state = torch.load(shard, weights_only=True)
        torch.save(change(state) or state, shard)


def read_out(folder: Path) -> torch.Tensor:
    """[SEG] and [TAK] of one instruction on two noise frames."""
    bundle = open_bundle(str(folder))
    network = load_language(bundle)
    generator = torch.Generator().manual_seed(2)
    tokens = network.image_tokens(torch.randn(2, 3, 224, 224, generator=generator))
    (result,) = network.read_out([bundle.prompt_tokenizer().encode("the red car", 2)], tokens)
    return torch.cat([result.seg, result.tak[None]])


@needs_kit
@pytest.mark.parametrize("where", ["adapter", "named", "beside the weights", "pickled"])
def test_adapter_is_merged_as_if_it_had_been_merged_before(published: Path, tmp_path: Path, where: str) -> None:
    plain, merged = read_out(published), tmp_path / "merged"
    shutil.copytree(published, merged)
    change_shards(merged, merge_by_hand)
    fingerprint = open_bundle(str(published)).fingerprint
    place = {"named": published / "tuned", "beside the weights": published}.get(where, published / "adapter")
    write_adapter(place, lora_factors(), pickled=where == "pickled")
    if where == "named":
        description = json.loads((published / "bundle.json").read_text())
        (published / "bundle.json").write_text(json.dumps(description | {"adapter": "tuned"}))
    assert open_bundle(str(published)).fingerprint != fingerprint
    one, other = states(published), states(merged)
    assert one.keys() == other.keys()
    changed = {f"language.llama.{module.removeprefix('model.')}.weight" for module in TARGETS}
    for name in one:
        assert torch.allclose(one[name], other[name], rtol=0, atol=1e-6 if name in changed else 0), name
    assert (read_out(published) - read_out(merged)).abs().max() <= TOLERANCES["seg_embed"]
    assert (read_out(published) - plain).abs().max() > 1e-3


@needs_kit
def test_merging_is_in_float32_whatever_is_loaded(published: Path) -> None:
    write_adapter(published / "adapter", lora_factors())
    exact = load_language(open_bundle(str(published))).state_dict()
    rounded = load_language(open_bundle(str(published)), dtype=torch.bfloat16).state_dict()
    for module in TARGETS:
        name = f"llama.{module.removeprefix('model.')}.weight"
        assert torch.equal(exact[name].bfloat16(), rounded[name])


@needs_kit
def test_fresh_adapter_changes_nothing(published: Path) -> None:
    before = states(published)
    write_adapter(published / "adapter", lora_factors(fresh=True))
    assert_same(states(published), before)


@needs_kit
@pytest.mark.parametrize("base_layer", [".base_layer", ""], ids=["peft", "peft 0.4"])
def test_checkpoint_with_its_adapter_still_wrapped_loads_merged(published: Path, base_layer: str) -> None:
    write_adapter(published / "adapter", lora_factors())
    expected = states(published)
    (published / "adapter" / "adapter_model.safetensors").unlink()
    factors = lora_factors()

    def wrap(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        wrapped = {}
        for name, tensor in state.items():
            module = name.removesuffix(".weight")
            wrapped[
                f"base_model.model.{module}{base_layer}.weight" if module in TARGETS else f"base_model.model.{name}"
            ] = tensor
            for side in "AB" if module in TARGETS else "":
                saved = f"base_model.model.{module}.lora_{side}"
                wrapped[f"{saved}.default.weight"] = factors[f"{saved}.weight"]
        return wrapped

    change_shards(published, wrap)
    assert_same(states(published), expected)
    shutil.rmtree(published / "adapter")
    with pytest.raises(CheckpointError, match="no adapter_config"):
        load_language(open_bundle(str(published)))


@needs_kit
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"base_model.model.lm_head.lora_embedding_A": torch.zeros(4, 4)},
            "unknown adapter tensor base_model.model.lm_head",
        ),
        (
            {
                f"base_model.model.model.layers.7.self_attn.q_proj.lora_{side}.weight": torch.zeros(4, 4)
                for side in "AB"
            },
            "adapter tensor model.layers.7.self_attn.q_proj.lora_A.weight: the model has no",
        ),
        ({f"base_model.model.{TARGETS[1]}.lora_B.weight": None}, f"missing adapter tensor {TARGETS[1]}.lora_B.weight"),
        (
            {f"base_model.model.{TARGETS[1]}.lora_{side}.weight": None for side in "AB"},
            f"missing adapter tensor {TARGETS[1]}.lora_A.weight",
        ),
        (
            {f"base_model.model.{TARGETS[0]}.lora_A.weight": torch.zeros(2, 64)},
            f"{TARGETS[0]}.lora_A.weight and lora_B.weight: shapes (2, 64) and (64, 4), expected rank 4",
        ),
        ({"use_dora": True}, "use_dora is not supported"),
        ({"lora_alpha": None}, "expected peft's settings with r and lora_alpha"),
        ({"peft_type": "IA3"}, "expected LORA"),
    ],
)
def test_adapter_that_does_not_fit_is_refused_by_name(published: Path, change: dict[str, Any], expected: str) -> None:
    tensors = {name: value for name, value in change.items() if name.startswith("base_model.")}
    factors = {name: value for name, value in (lora_factors() | tensors).items() if value is not None}
    write_adapter(published / "adapter", factors, **{name: change[name] for name in change.keys() - tensors.keys()})
    with pytest.raises(CheckpointError) as caught:
        load_segmenter(open_bundle(str(published)))
    assert expected in str(caught.value)


@needs_kit
def test_safetensors_bundle_of_the_same_weights_has_the_same_parts(published: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bundle"
    (folder / "clip").mkdir(parents=True)
    save_file(load_file(KIT / "model_safetensors" / "model.safetensors"), folder / "model.safetensors")
    save_file(load_file(KIT / "clip" / "model.safetensors"), folder / "clip" / "model.safetensors")
    shutil.copyfile(published / "bundle.json", folder / "bundle.json")
    assert_same(states(published), states(folder))


def test_untrained_bundle_is_the_same_each_time_and_leaves_the_random_state_alone() -> None:
    bundle = open_bundle("untrained-tiny")
    before = torch.random.get_rng_state()
    first, second = load_segmenter(bundle).state_dict(), load_segmenter(bundle).state_dict()
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_unknown_name_is_refused_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="untrained-tiny"):
        open_bundle("no-such-model")


def test_the_mask_decoder_has_the_width_that_the_bundle_says(tmp_path: Path) -> None:
    description = json.loads((BUNDLED / "untrained-tiny" / "bundle.json").read_text())
    description["model"]["sam2"]["decoder_dim_feedforward"] = 64
    shutil.copytree(BUNDLED / "untrained-tiny", tmp_path / "narrow")
    (tmp_path / "narrow/bundle.json").write_text(json.dumps(description))
    narrow, usual = open_bundle(str(tmp_path / "narrow")), open_bundle("untrained-tiny")
    weights = dict(load_segmenter(narrow).named_parameters())
    name = "sam_mask_decoder.transformer.layers.1.mlp.layers.0.weight"
    assert weights[name].shape[0] == 64
    assert dict(load_segmenter(usual).named_parameters())[name].shape[0] == 2048
    assert layout(narrow.model)[f"model.visual_model.{name}"] == tuple(weights[name].shape)

"""Promises of `vrshq convert`: the same tensors, the same bytes each time, and one line for each error."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.support.parity import KIT, clip_weights, main_weights, model_config, needs_kit
from vrshq.cluster.storage import fetch as fetching
from vrshq.operators.models.bundle import CheckpointError, open_bundle
from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.vrs_hq.checkpoint import open_checkpoint
from vrshq.operators.models.vrs_hq.load import LOADERS, load_segmenter
from vrshq.operators.models.weights import SAFETENSORS_TYPES, write_safetensors
from vrshq.pipelines.cli import main as cli
from vrshq.pipelines.models import locate, sources
from vrshq.pipelines.models.convert import convert
from vrshq.pipelines.models.publish import clip_config
from vrshq.pipelines.models.sizes import _clip_sizes, derive_sizes


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A copy of the kit in the published layout with a file of its sizes, without the pre-sampling CLIP."""
    folder = tmp_path / "published"
    shutil.copytree(KIT / "model", folder, copy_function=shutil.copyfile)
    folder.chmod(0o755)
    description = {"format": "vrshq-bundle/1", "name": "kit", "model": model_config().to_dict()}
    (folder / "bundle.json").write_text(json.dumps(description))
    return folder


def states(folder: Path) -> dict[str, torch.Tensor]:
    bundle = open_bundle(str(folder))
    networks = {part: load(bundle, "cpu", torch.float32) for part, load in LOADERS.items()}
    return {f"{part}.{name}": value for part, one in networks.items() for name, value in one.state_dict().items()}


def files(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def convert_kit(published: Path, output: Path, **options: Any) -> Path:
    return convert(str(published), str(output), clip=str(KIT / "clip"), **options).bundle.folder


@needs_kit
def test_converted_bundle_loads_the_same_tensors_and_tokenizers(published: Path, tmp_path: Path) -> None:
    output = convert_kit(published, tmp_path / "bundle")
    shutil.copytree(KIT / "clip", published / "clip", copy_function=shutil.copyfile)
    one, other = states(published), states(output)
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    stored = main_weights() | {f"clip.{name}": tensor for name, tensor in clip_weights().items()}
    written = load_file(output / "model.safetensors")
    assert stored.keys() - written.keys() == {name for name in stored if name.endswith(("inv_freq", "position_ids"))}
    assert all(torch.equal(stored[name], tensor) for name, tensor in written.items())
    ids = [
        open_bundle(str(folder)).prompt_tokenizer().encode("a red car", 2).input_ids for folder in (published, output)
    ]
    assert ids[0] == ids[1]
    words = [open_bundle(str(folder)).clip_tokenizer().ids("a red car") for folder in (published, output)]
    assert words[0] == words[1]


@needs_kit
def test_manifest_says_what_it_is_and_two_conversions_are_equal_bytes(published: Path, tmp_path: Path) -> None:
    one, other = (convert_kit(published, tmp_path / name, name="kit", date="2025-01-31") for name in "ab")
    assert files(one) == files(other)
    manifest = json.loads((one / "bundle.json").read_text())
    assert (manifest["format"], manifest["name"], manifest["weights"]) == (
        "vrshq-bundle/1",
        "kit",
        ["model.safetensors"],
    )
    assert ModelConfig.from_dict(manifest["model"]) == model_config()
    assert set(manifest["sha256"]) == set(files(one)) - {"bundle.json"}
    assert manifest["provenance"]["source"] == str(published)
    assert manifest["provenance"]["date"] == "2025-01-31"
    assert set(manifest["provenance"]["versions"]) == {"vrshq", "torch", "safetensors", "transformers"}
    assert "licence" in manifest["licence"]
    assert open_bundle(str(one)).fingerprint == open_bundle(str(other)).fingerprint


@needs_kit
def test_large_models_are_split_by_part_and_size(published: Path, tmp_path: Path) -> None:
    output = convert_kit(published, tmp_path / "bundle", shard_bytes=1_000_000)
    shards = open_bundle(str(output)).shards
    assert [shard.name for shard in shards] == [
        f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)
    ]
    assert len(shards) > 3
    for shard in shards:
        assert shard.stat().st_size < 1_100_000
        with safe_open(shard, framework="pt") as file:
            parts = {"clip" if name.startswith("clip.") else "visual_model" in name for name in file.keys()}  # noqa: SIM118
        assert len(parts) == 1
    shutil.copytree(KIT / "clip", published / "clip", copy_function=shutil.copyfile)
    one, other = states(published), states(output)
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


@needs_kit
def test_dtype_of_the_bundle_is_chosen(published: Path, tmp_path: Path) -> None:
    output = convert_kit(published, tmp_path / "bundle", dtype="bfloat16")
    written = load_file(output / "model.safetensors")
    assert {tensor.dtype for tensor in written.values()} == {torch.bfloat16}
    name = "model.layers.0.self_attn.q_proj.weight"
    assert torch.equal(written[name], main_weights()[name].bfloat16())


@needs_kit
def test_adapter_is_merged_into_the_bundle(published: Path, tmp_path: Path) -> None:
    module = "model.layers.1.self_attn.v_proj"
    a, b = torch.randn(2, 64), torch.randn(64, 2)
    adapter = tmp_path / "lora"
    adapter.mkdir()
    save_file(
        {f"base_model.model.{module}.lora_A.weight": a, f"base_model.model.{module}.lora_B.weight": b},
        adapter / "adapter_model.safetensors",
    )
    (adapter / "adapter_config.json").write_text(json.dumps({"r": 2, "lora_alpha": 3, "target_modules": [module]}))
    output = convert_kit(published, tmp_path / "bundle", adapter=str(adapter))
    written = load_file(output / "model.safetensors")
    expected = main_weights()[f"{module}.weight"].double() + 1.5 * b.double() @ a.double()
    assert torch.allclose(written[f"{module}.weight"].double(), expected, atol=1e-5)
    assert json.loads((output / "bundle.json").read_text())["provenance"]["adapter"] == str(adapter)
    assert open_bundle(str(output)).adapter is None


@needs_kit
@pytest.mark.parametrize("file", ["model.safetensors", "tokenizer.model", "clip/vocab.json"])
def test_a_damaged_file_is_found_by_its_checksum(published: Path, tmp_path: Path, file: str) -> None:
    output = convert_kit(published, tmp_path / "bundle")
    bundle = open_bundle(str(output))
    states(output)
    damaged = bytearray((output / file).read_bytes())
    damaged[-100] ^= 1
    (output / file).write_bytes(damaged)
    load: dict[str, Callable[[], Any]] = {
        "tokenizer.model": bundle.prompt_tokenizer,
        "clip/vocab.json": bundle.clip_tokenizer,
        "model.safetensors": lambda: load_segmenter(bundle, "cpu", torch.float32),
    }
    with pytest.raises(CheckpointError, match=rf"{file}: sha256 .*, expected .*; damaged or changed"):
        load[file]()


@needs_kit
def test_a_bundle_in_a_bucket_is_fetched_once_and_again_when_it_changes(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VRSHQ_CACHE", str(tmp_path / "cache"))
    output = convert_kit(published, tmp_path / "bundle")
    bucket = fsspec.filesystem("memory")
    bucket.put(str(output), "/models/kit", recursive=True)
    bucket.pipe_file("/models/kit/videos/beside.mp4", b"no part of the model")
    fetched: list[str] = []
    real = fetching.fetch_to_local

    def noted(uri: str, scratch: Path, **options: Any) -> AbstractContextManager[str]:
        fetched.append(uri)
        return real(uri, scratch, **options)

    monkeypatch.setattr(sources, "fetch_to_local", noted)
    threads = [threading.Thread(target=locate.local_model, args=("memory://models/kit",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    first = Path(locate.local_model("memory://models/kit"))
    assert sorted(fetched) == sorted(f"memory://models/kit/{name}" for name in files(output))
    assert {name: content for name, content in files(first).items() if name[0] != "."} == files(output)
    assert (
        convert("memory://models/kit", str(tmp_path / "again")).bundle.fingerprint
        == open_bundle(str(first)).fingerprint
    )
    bucket.pipe_file("/models/kit/bundle.json", (output / "bundle.json").read_bytes().replace(b'"bundle"', b'"second"'))
    assert locate.open_model("memory://models/kit").name == "second"
    bucket.rm("/models", recursive=True)


def full_size() -> dict[str, tuple[int, ...]]:
    layout = json.loads((KIT / "full_size_layout.json").read_text())
    return {name: tuple(shape) for name, shape in layout.get("tensors", layout).items()}


@pytest.fixture
def described(tmp_path: Path) -> Path:
    """A folder with the files beside full-size weights: config.json of the LLaMA and of the CLIP."""
    settings = {"num_attention_heads": 32, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096, "vocab_size": 32000}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    clip_config(ModelConfig().clip).save_pretrained(tmp_path / "clip")
    return tmp_path


@needs_kit
def test_sizes_of_the_full_size_layout_are_the_published_ones(described: Path) -> None:
    assert derive_sizes(described, described / "clip", full_size()) == ModelConfig()


@needs_kit
def test_sizes_of_a_larger_llama_come_from_its_shapes(described: Path) -> None:
    larger = {4096: 5120, 11008: 13824}
    wider = full_size()
    for name, shape in wider.items():
        if "vision_tower" not in name and "visual_model" not in name:
            wider[name] = tuple(larger.get(size, size) for size in shape)
    extra = {name.replace(".0.", f".{layer}."): shape for name, shape in wider.items() for layer in range(32, 40)}
    wider |= {name: shape for name, shape in extra.items() if name.startswith("model.layers.")}
    (described / "config.json").write_text(json.dumps({"num_attention_heads": 40, "rms_norm_eps": 1e-5}))
    (described / "added_tokens.json").write_text(json.dumps({"[SEG]": 32000, "[TAK]": 32001}))
    model = derive_sizes(described, described / "clip", wider)
    language = replace(
        ModelConfig().language,
        hidden_size=5120,
        intermediate_size=13824,
        num_layers=40,
        num_heads=40,
        num_key_value_heads=40,
        rms_norm_eps=1e-5,
    )
    assert model == replace(ModelConfig(), language=language)


@needs_kit
def test_sizes_that_cannot_be_derived_are_named(published: Path) -> None:
    with pytest.raises(CheckpointError) as caught:
        derive_sizes(published, KIT / "clip", {name: tuple(tensor.shape) for name, tensor in main_weights().items()})
    unknown = "tower.num_heads, sam2.image_size, sam2.num_heads, sam2.window_spec, sam2.global_attention_blocks"
    assert f"do not tell {unknown}; put a bundle.json" in str(caught.value)


@needs_kit
def test_sizes_that_shapes_and_files_tell_are_those_of_the_kit(
    published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kit = model_config()
    tower, sam2 = kit.tower, kit.sam2
    monkeypatch.setattr("vrshq.pipelines.models.sizes.TowerConfig", lambda **sizes: replace(tower, **sizes))
    monkeypatch.setattr("vrshq.pipelines.models.sizes.Sam2Config", lambda **sizes: replace(sam2, **sizes))
    shapes = {name: tuple(tensor.shape) for name, tensor in main_weights().items()}
    monkeypatch.setattr("vrshq.pipelines.models.sizes._clip_sizes", lambda _: kit.clip)
    assert derive_sizes(published, KIT / "clip", shapes) == kit


@needs_kit
def test_sizes_of_the_clip_come_from_its_config() -> None:
    assert _clip_sizes(KIT / "clip") == model_config().clip


@needs_kit
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dtype": "int8"}, "--dtype int8: expected one of float32, float16, bfloat16"),
        ({"date": "yesterday"}, "--date yesterday: expected YYYY-MM-DD"),
        ({"clip": "no-such-clip"}, "--clip no-such-clip: no such bundle"),
        ({"clip": None}, "published/clip: no weights"),
        ({"output": "s3://bucket/model"}, "OUTPUT s3://bucket/model: expected a local folder"),
        ({"output": "."}, "OUTPUT .: exists already"),
        ({"source": "untrained-tiny"}, "untrained-tiny: it has no weights to convert"),
        ({"source": "nothing-here"}, "SOURCE nothing-here: no such bundle"),
    ],
)
def test_what_cannot_be_converted_is_one_line_and_leaves_nothing(
    published: Path,
    tmp_path: Path,
    options: dict[str, Any],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(published)
    before = set(tmp_path.iterdir())
    arguments = {"source": str(published), "output": str(tmp_path / "new"), "clip": str(KIT / "clip")} | options
    given = [arguments.pop("source"), arguments.pop("output")]
    given += [text for option, value in arguments.items() if value for text in (f"--{option}", value)]
    monkeypatch.setattr(sys, "argv", ["vrshq", "convert", *given])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code == 1
    error = capsys.readouterr().err
    assert expected in error
    assert error.count("\n") == 1
    assert set(tmp_path.iterdir()) == before


@needs_kit
def test_a_failure_halfway_leaves_nothing(published: Path, tmp_path: Path) -> None:
    state = torch.load(published / "pytorch_model-00002-of-00002.bin", weights_only=True)
    state["model.visual_model.no_obj_ptr"][0, 0] = 1e6
    torch.save(state, published / "pytorch_model-00002-of-00002.bin")
    before = set(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="no_obj_ptr: it has values beyond float16"):
        convert_kit(published, tmp_path / "new", dtype="float16")
    assert set(tmp_path.iterdir()) == before


def test_safetensors_are_written_as_the_library_reads_them(tmp_path: Path) -> None:
    tensors = {f"t{index}": torch.randn(3, 5).to(dtype) for index, dtype in enumerate(SAFETENSORS_TYPES)}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 4), "strided": torch.randn(4, 6).T}
    contents = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    write_safetensors(tmp_path / "a.safetensors", contents, tensors.__getitem__)
    read = load_file(tmp_path / "a.safetensors")
    assert read.keys() == tensors.keys()
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())


@needs_kit
def test_command_line_writes_a_bundle(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "bundle"
    monkeypatch.setattr(sys, "argv", ["vrshq", "convert", str(published), str(output), "--clip", str(KIT / "clip")])
    with pytest.raises(SystemExit) as caught:
        cli.main()
    assert caught.value.code in (0, None)
    bundle = open_bundle(str(output))
    assert bundle.fingerprint in capsys.readouterr().out
    open_checkpoint(bundle).check(bundle.model)

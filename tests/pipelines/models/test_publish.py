"""Promises of `vrshq publish`: a published bundle gives the same masks, and converts back to the same bundle."""

from __future__ import annotations

import json
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.utils import logging

from tests.support import clips
from tests.support.fault_kit import checksums
from tests.support.parity import KIT, clip_weights, main_weights, model_config, needs_kit
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.vrs_hq.load import load_clip, load_language
from vrshq.operators.training.config import LoraConfig, StartConfig
from vrshq.operators.training.schedule import lora_layers
from vrshq.operators.training.start import build, write_bundle
from vrshq.pipelines.cli import main as cli
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.models.convert import convert
from vrshq.pipelines.models.publish import publish


def made(folder: Path, *, lm_head: bool = True) -> Path:
    """A bundle of the tiny sizes with random weights."""
    start = StartConfig(bundle="untrained-tiny", lora=LoraConfig(rank=0))
    model = build(start, "untrained-tiny", 5, "cpu")
    return write_bundle(
        model, "untrained-tiny", folder, name="made", dtype=torch.float32, extras=("lm_head",) if lm_head else ()
    )


def tables_of(model: Path, folder: Path) -> dict[str, str]:
    folder.mkdir(exist_ok=True)
    clips.h264(folder / "clip.mp4", frames=6)
    table = folder / "instructions.jsonl"
    table.write_text(json.dumps({"video_uri": "clip.mp4", "instruction_id": "0", "text": "the block that moves"}))
    label(str(table), str(folder / model.name), Settings(model=str(model)), use_ray=False)
    return checksums(str(folder / model.name))


def test_a_published_bundle_converted_back_gives_identical_tables(tmp_path: Path) -> None:
    bundle = made(tmp_path / "made")
    done = publish(str(bundle), str(tmp_path / "published"))
    back = convert(str(tmp_path / "published"), str(tmp_path / "back"), name="made").bundle
    tables = [tables_of(tmp_path / name, tmp_path / "runs") for name in ("made", "published", "back")]
    assert tables[0] == tables[1] == tables[2]
    assert (tmp_path / "back/model.safetensors").stat().st_size == (bundle / "model.safetensors").stat().st_size
    assert back.model == open_bundle(str(bundle)).model
    index = json.loads((tmp_path / "published/pytorch_model.bin.index.json").read_text())
    assert "lm_head.weight" in index["weight_map"]
    assert done.tensors == len(index["weight_map"]) + len(
        load_clip(open_bundle(str(bundle)), "cpu", torch.float32).state_dict()
    )


def test_publishing_shows_no_bar_of_another_library_and_leaves_its_setting(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    bundle = made(tmp_path / "made")
    capfd.readouterr()
    before = logging.is_progress_bar_enabled()
    publish(str(bundle), str(tmp_path / "published"))
    assert capfd.readouterr() == ("", "")
    assert logging.is_progress_bar_enabled() == before


def test_shards_hold_each_tensor_once_and_no_code(tmp_path: Path) -> None:
    publish(str(made(tmp_path / "made")), str(tmp_path / "published"))
    weight_map = json.loads((tmp_path / "published/pytorch_model.bin.index.json").read_text())["weight_map"]
    for name in ("pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"):
        shard = torch.load(tmp_path / "published" / name, weights_only=True)
        assert set(shard) == {tensor for tensor, file in weight_map.items() if file == name}
        # torch saves whole storages: a tensor that shares one would be written with all of its file
        numbers = sum(tensor.nbytes for tensor in shard.values())
        with zipfile.ZipFile(tmp_path / "published" / name) as archive:
            assert sum(item.file_size for item in archive.infolist() if "/data/" in item.filename) == numbers


def test_an_adapter_is_merged(tmp_path: Path) -> None:
    from vrshq.operators.training.start import write_adapter

    start = StartConfig(bundle="untrained-tiny")
    model = build(start, "untrained-tiny", 5, "cpu")
    with torch.no_grad():
        for layer in lora_layers(model.language.llama).values():
            layer.lora_b.normal_(std=0.1)
    write_adapter(model, tmp_path / "adapter")
    base = made(tmp_path / "made")
    publish(str(base), str(tmp_path / "merged"), adapter=str(tmp_path / "adapter"))
    merged, plain = (
        load_language(open_bundle(str(tmp_path / name)), "cpu", torch.float32) for name in ("merged", "made")
    )
    name = "layers.0.self_attn.q_proj"
    layer = lora_layers(model.language.llama)[name]
    weights: list[Any] = [network.llama.get_submodule(name).weight for network in (merged, plain)]
    wanted = weights[1] + layer.scale * layer.lora_b @ layer.lora_a
    assert torch.allclose(weights[0], wanted, atol=1e-6)
    assert not torch.equal(*weights)


def test_without_an_lm_head_the_folder_has_none_and_segments_all_the_same(tmp_path: Path) -> None:
    bundle = made(tmp_path / "made", lm_head=False)
    publish(str(bundle), str(tmp_path / "published"))
    assert tables_of(bundle, tmp_path / "runs") == tables_of(tmp_path / "published", tmp_path / "runs")


@needs_kit
def test_the_kits_checkpoint_published_again_has_its_tensors_and_tokens(tmp_path: Path) -> None:
    source = tmp_path / "source"
    shutil.copytree(KIT / "model", source, copy_function=shutil.copyfile)
    source.chmod(0o755)
    shutil.copytree(KIT / "clip", source / "clip", copy_function=shutil.copyfile)
    description = {"format": "vrshq-bundle/1", "name": "kit", "model": model_config().to_dict()}
    (source / "bundle.json").write_text(json.dumps(description))
    output = publish(str(source), str(tmp_path / "published")).bundle.folder
    written: dict[str, torch.Tensor] = {}
    for file in sorted(output.glob("*.bin")):
        written |= torch.load(file, weights_only=True)
    stored = {name: value for name, value in main_weights().items() if not name.endswith(("inv_freq", "position_ids"))}
    assert written.keys() == stored.keys()
    assert all(torch.equal(written[name], value) for name, value in stored.items())
    clip = load_clip(open_bundle(str(output)), "cpu", torch.float32).state_dict()
    assert all(torch.equal(clip[name], value) for name, value in clip_weights().items() if name in clip)
    config, known = (json.loads((folder / "config.json").read_text()) for folder in (output, KIT / "model"))
    assert {name: value for name, value in config.items() if name != "config"} == {
        name: known.get(name, value) for name, value in config.items() if name != "config"
    }
    added = [json.loads((folder / "added_tokens.json").read_text()) for folder in (output, KIT / "model")]
    assert added[0] == added[1]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["untrained-tiny"], "it has no weights to convert"),
        (["nothing-here"], "nothing-here"),
        (["SOURCE", "--dtype", "int8"], "--dtype int8: expected one of float32"),
    ],
)
def test_what_cannot_be_published_is_one_line_and_leaves_nothing(
    arguments: list[str],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source, *options = arguments
    given = str(made(tmp_path / "made")) if source == "SOURCE" else source
    output = tmp_path / "new"
    monkeypatch.setattr(sys, "argv", ["vrshq", "publish", given, str(output), *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 1
    error = capsys.readouterr().err
    assert said in error
    assert len(error.splitlines()) == 1
    assert not output.exists()
    assert not list(tmp_path.glob(".new*"))

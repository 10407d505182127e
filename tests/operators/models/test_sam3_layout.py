"""The published layout of SAM 3: recognised, every tensor in its place, and broken checkpoints refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import Sam3VideoConfig, Sam3VideoModel

from tests.support.sam3_tiny import write_bundle
from vrshq.operators.models.bundle import DESCRIPTION, FORMAT, CheckpointError, open_bundle
from vrshq.operators.models.families import SAM3
from vrshq.operators.models.sam3.layout import layout, load_network, read_config, read_tokenizer

NECK = "tracker_neck.fpn_layers.0.proj1.bias"
TOKENS = "detector_model.text_encoder.text_model.embeddings.token_embedding.weight"
FILE = "model.safetensors"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(write_bundle(tmp_path / "sam3"))


def test_the_published_folder_is_recognised_and_every_tensor_is_placed(folder: Path) -> None:
    bundle = open_bundle(str(folder))
    assert bundle.family is SAM3
    stored = load_file(folder / FILE)
    network = load_network(bundle, "cpu", torch.float32)
    own = network.model.state_dict()
    assert own.keys() == stored.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in stored.items())
    assert not network.training
    assert not any(tensor.is_meta for tensor in (*network.parameters(), *network.buffers()))
    assert {tensor.dtype for tensor in load_network(bundle, "cpu", torch.bfloat16).parameters()} == {torch.bfloat16}


def test_computed_buffers_are_those_of_the_library(folder: Path) -> None:
    own = dict(load_network(open_bundle(str(folder)), "cpu", torch.float32).model.named_buffers())
    library = dict(Sam3VideoModel.from_pretrained(folder).named_buffers())
    assert own.keys() == library.keys()
    assert all(torch.equal(own[name], tensor) for name, tensor in library.items())


def test_the_full_size_layout_has_the_published_number_of_tensors_and_values() -> None:
    shapes = layout(Sam3VideoConfig())
    assert {name.partition(".")[0] for name in shapes} == {"detector_model", "tracker_model", "tracker_neck"}
    # as the hub states of facebook/sam3's model.safetensors, all of it float32
    assert len(shapes) == 1797
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) == 859_922_360


def test_a_model_that_transformers_saved_anew_is_read(folder: Path) -> None:
    before = load_network(open_bundle(str(folder)), "cpu", torch.float32).model.state_dict()
    again = Sam3VideoModel(read_config(folder))
    again.load_state_dict(before)
    again.save_pretrained(folder)
    names = set(load_file(folder / FILE))
    assert names != set(before)  # the tracker's name twice
    after = load_network(open_bundle(str(folder)), "cpu", torch.float32).model.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop(NECK), rf"missing tensor {NECK} \(in all: 1 missing, 0 unexpected, 0 of another"),
        (lambda tensors: tensors.update(extra=torch.zeros(1)), r"unexpected tensor extra \(in all: 0 missing, 1 unexp"),
        (
            lambda tensors: tensors.update({NECK: torch.zeros(3)}),
            rf"{NECK}: shape \(3,\), expected \(128,\) \(in all: 0 missing, 0 unexpected, 1 of another shape\)",
        ),
        (
            lambda tensors: tensors.update({NECK: tensors[NECK].long()}),
            rf"{NECK}: shape \(128,\) of torch.int64, expected",
        ),
        (
            lambda tensors: tensors.update({TOKENS: torch.zeros(49408, 32)}),
            rf"{TOKENS}: shape \(49408, 32\), expected \(1114, 32\)",
        ),
    ],
    ids=["missing", "unexpected", "another shape", "no numbers", "another vocabulary"],
)
def test_a_checkpoint_that_does_not_fit_is_refused_by_name(change: Any, said: str, folder: Path) -> None:
    tensors = load_file(folder / FILE)
    change(tensors)
    save_file(tensors, folder / FILE)
    with pytest.raises(CheckpointError, match=said) as caught:
        load_network(open_bundle(str(folder)), "cpu", torch.float32)
    assert "\n" not in str(caught.value)


def test_a_cut_file_and_a_changed_one_are_refused_by_name(folder: Path) -> None:
    (folder / DESCRIPTION).write_text(json.dumps({"format": FORMAT, "family": "sam3", "sha256": {FILE: "0" * 64}}))
    with pytest.raises(CheckpointError, match=rf"{FILE}: sha256 .*expected 0000"):
        load_network(open_bundle(str(folder)), "cpu", torch.float32)
    (folder / DESCRIPTION).unlink()
    whole = (folder / FILE).read_bytes()
    (folder / FILE).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(CheckpointError, match=rf"{FILE}: not a readable checkpoint shard"):
        load_network(open_bundle(str(folder)), "cpu", torch.float32)


def test_a_folder_without_a_tokenizer_is_refused(folder: Path) -> None:
    (folder / "vocab.json").unlink()
    with pytest.raises(
        CheckpointError, match=r"no vocab\.json or tokenizer\.json; expected the tokenizer files of SAM 3"
    ):
        read_tokenizer(open_bundle(str(folder)))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"architectures": ["Sam3Model"]}, r"architectures \['Sam3Model'\], expected Sam3VideoModel$"),
        ({"hotstart_delay": "many"}, r"config\.json: Strict\w+: .*hotstart_delay.*; expected that of SAM 3 for video$"),
        ({"hotstart_unmatch_thresh": 99}, r"config\.json: .*hotstart_unmatch_thresh"),
    ],
)
def test_the_config_of_another_model_is_refused_in_one_line(change: dict[str, Any], said: str, folder: Path) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=said) as caught:
        read_config(folder)
    assert "\n" not in str(caught.value)


def test_the_config_does_not_choose_an_implementation_from_elsewhere(folder: Path) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    for key in ("attn_implementation", "_attn_implementation", "_attn_implementation_internal"):
        elsewhere = {key: "kernels-community/flash-attn"}
        values |= elsewhere
        values["detector_config"] |= elsewhere
        values["detector_config"]["vision_config"]["backbone_config"] |= elsewhere
        path.write_text(json.dumps(values))
        detector = read_config(folder).detector_config
        for config in (read_config(folder), detector, detector.vision_config.backbone_config, detector.text_config):
            assert config._attn_implementation == "sdpa"

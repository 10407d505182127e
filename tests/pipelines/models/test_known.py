"""Known models: names alone are enough, planning fetches descriptions, an actor what it uses, each file once."""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
import torch
from huggingface_hub import snapshot_download

from tests.support.hub_server import HubServer, Repository
from tests.support.label_runs import content, instruction, vrshq, vrshq_process, write_table
from tests.support.paths import ROOT
from tests.support.sa2va_tiny import FOLDER, MODEL, write_frames
from vrshq.cluster.storage.folder import Folder
from vrshq.operators.models.bundle import CheckpointError, bundled_names, open_bundle
from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.families import FAMILIES
from vrshq.operators.models.vrs_hq.checkpoint import layout
from vrshq.operators.models.vrs_hq.load import load_clip, load_language, load_segmenter
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.work.worker import UnitWorker, parts_of
from vrshq.pipelines.models.convert import convert
from vrshq.pipelines.models.known import human_bytes, known_models
from vrshq.pipelines.models.locate import describe_model, local_model
from vrshq.pipelines.models.publish import publish

SA2VA, VRS_HQ, CLIP = "ByteDance/Sa2VA-Qwen3-VL-4B", "SitongGong/VRS-HQ", "openai/clip-vit-large-patch14-336"
SECOND = f"{VRS_HQ}/pytorch_model-00002-of-00002.bin"
SHARDS = {f"{SA2VA}/{path.name}": path.stat().st_size for path in FOLDER.glob("*.safetensors")}
PARTS = ("clip", "language", "segmenter")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny` in the published layout of VRS-HQ."""
    folder = tmp_path_factory.mktemp("published") / "vrs-hq"
    publish("tiny", str(folder))
    return folder


@pytest.fixture
def hub(published: Path) -> Iterator[HubServer]:
    """A hub with a tiny Sa2VA, and a tiny VRS-HQ without a CLIP, which lies in a repository of its own."""
    with HubServer() as server:
        server.add(SA2VA, FOLDER, "apache-2.0")
        server.add(VRS_HQ, published, None, leave_out="clip/")
        server.add(CLIP, published / "clip", None)
        yield server


def weights_of(sent: dict[str, int]) -> dict[str, int]:
    return {name: size for name, size in sent.items() if name.endswith((".safetensors", ".bin"))}


def table_of(folder: Path) -> str:
    write_frames("q3", folder / "q3")
    return write_table(folder / "table.jsonl", [instruction("q3", 1, "Which ball and which hand move?")])


def test_the_table_of_known_models_is_true_of_the_networks() -> None:
    known = known_models()
    assert set(bundled_names()) <= set(known)
    for model in known.values():
        assert model.family in FAMILIES
        assert model.memory.keys() == {"bfloat16", "float32"}
        assert (model.hub is None) == (model.name in bundled_names()) == (model.download == 0)
    sizes = {"vrs-hq-7b": ModelConfig(), **{name: open_bundle(name).model for name in bundled_names()}}
    for name, config in sizes.items():
        numbers = {tensor: torch.Size(shape).numel() for tensor, shape in layout(config).items()}
        sam2 = sum(size for tensor, size in numbers.items() if tensor.startswith("model.visual_model."))
        assert known[name].parameters == sum(numbers.values())
        assert known[name].memory["bfloat16"] == 2 * known[name].parameters + 2 * sam2
        assert known[name].memory["float32"] == 4 * known[name].parameters


def test_models_prints_every_known_model_and_whole_values_on_demand() -> None:
    table, whole = vrshq("models").stdout, vrshq("models", "--full").stdout
    for model in known_models().values():
        row = next(line for line in table.splitlines() if model.name in line.split())
        assert all(text in row for text in (model.family, model.licence))
        assert f"  {model.name}: {model.proven}\n" in table
        assert f"name: {model.name}\n" in whole
        assert model.hub is None or f"hub: {model.hub}\n" in whole
    assert "companion clip: openai/clip-vit-large-patch14-336, licence MIT, needed always\n" in whole
    assert f"fingerprint: {open_bundle('tiny').fingerprint}" in whole


def test_the_page_about_models_names_every_known_model() -> None:
    rows = [line for line in (ROOT / "docs" / "models.md").read_text().splitlines() if line.startswith("| `")]
    for model in known_models().values():
        row = next(line for line in rows if f"`{model.name}`" in line)
        assert all(text in row for text in (model.hub or "in the package", model.licence))


def test_plan_on_a_machine_without_the_weights_fetches_descriptions_and_says_what_is_needed(
    hub: HubServer, tmp_path: Path
) -> None:
    began = time.monotonic()
    arguments = ("plan", table_of(tmp_path), "--output", str(tmp_path / "run"), "--model", "sa2va-qwen3-vl-4b")
    # a line of the plan is as long as its text
    planned = vrshq_process(*arguments, environment=hub.environment(tmp_path / "machine") | {"COLUMNS": "200"})
    assert planned.returncode == 0, planned.stderr
    assert weights_of(hub.sent) == {}
    assert set(hub.sent) == {f"{SA2VA}/{name.name}" for name in FOLDER.glob("*.json")}
    assert sum(hub.sent.values()) < 200_000
    size = human_bytes(sum(SHARDS.values()))
    assert f"licence  Apache-2.0 ({SA2VA})" in planned.stdout
    assert "the weights take 10.6 GB in bfloat16, 20.2 GB in float32" in planned.stdout
    assert f"{size}, fetched once on each machine that needs them; this machine lacks {size}" in planned.stdout
    assert f"and the weights, fetches {size}" in planned.stdout
    assert planned.stderr == ""
    assert time.monotonic() - began < 120


@pytest.mark.parametrize("name", ["vrs-hq-7b", "sa2va-qwen3-vl-4b"])
def test_the_fingerprint_is_the_same_before_and_after_fetching_and_on_every_machine(
    hub: HubServer, tmp_path: Path, name: str
) -> None:
    found = []
    for machine in ("one", "other"):
        with hub.reached(tmp_path / machine):
            found.append(describe_model(name).bundle.fingerprint)
            if machine == "one":
                found += [open_bundle(local_model(name)).fingerprint, describe_model(name).bundle.fingerprint]
    assert len(set(found)) == 1
    if name == "sa2va-qwen3-vl-4b":  # the hub states what a local folder of safetensors is hashed to
        assert found[0] == open_bundle(MODEL).fingerprint


def test_other_weights_on_the_hub_are_another_fingerprint(hub: HubServer, tmp_path: Path) -> None:
    with hub.reached(tmp_path):
        before = describe_model("vrs-hq-7b").bundle.fingerprint
        files = hub.repositories[CLIP].files
        files["model.safetensors"] = files["model.safetensors"][:-1] + b"!"
        assert describe_model("vrs-hq-7b").bundle.fingerprint != before
    assert weights_of(hub.sent) == {}


def test_a_name_alone_labels_and_the_second_label_fetches_nothing(
    hub: HubServer, published: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = table_of(tmp_path)
    with hub.reached(tmp_path / "machine"), caplog.at_level(logging.WARNING, logger="vrshq.models"):
        for run in ("first", "second"):
            label(table, str(tmp_path / run), Settings(model="vrs-hq-7b"), use_ray=False)
            if run == "first":
                sent, lines = dict(hub.sent), [record.getMessage() for record in caplog.records]
                assert weights_of(sent).keys() == {
                    f"{VRS_HQ}/pytorch_model-00001-of-00002.bin",
                    SECOND,
                    f"{CLIP}/model.safetensors",
                }
    assert dict(hub.sent) == sent
    size = human_bytes(sum(weights_of(sent).values()))
    assert lines == [f"model vrs-hq-7b: fetches {size} from {VRS_HQ} and {CLIP}, licence: none stated (clip: MIT)"]
    label(table, str(tmp_path / "local"), Settings(model=str(published)), use_ray=False)
    assert content(str(tmp_path / "second")) == content(str(tmp_path / "local"))


def test_an_actor_fetches_only_the_parts_that_it_uses(hub: HubServer, tmp_path: Path) -> None:
    def actor(*operators: str) -> dict[str, int]:
        hub.sent.clear()
        worker: dict[str, Any] = {"settings": Settings(model="vrs-hq-7b").model_dump_json(), "device": "cpu"}
        schema = "/////zAAAAAQAAAAAAAKAAwABgAFAAgACgAAAAABBAAMAAAACAAIAAAABAAIAAAABAAAAAAAAAA="
        UnitWorker(**worker, operators=operators, run=str(tmp_path / "run"), carried=schema)
        return weights_of(hub.sent)

    with hub.reached(tmp_path / "machine"):
        bundle = describe_model("vrs-hq-7b")
        assert actor("fuse") == {}
        clip = actor("presample")
        assert clip == {f"{CLIP}/model.safetensors": bundle.weights({"clip"})}
        assert bundle.weights(PARTS, absent=True) == bundle.weights(PARTS) - bundle.weights({"clip"})
        assert set(actor("keyframe", "propagate")) == {SECOND}
        assert set(actor("tokens")) == {f"{VRS_HQ}/pytorch_model-00001-of-00002.bin"}
        assert bundle.weights(PARTS, absent=True) == 0


def test_a_companion_that_a_setting_needs_is_fetched_with_that_setting_alone(hub: HubServer, tmp_path: Path) -> None:
    decoder = "facebook/sam2-hiera-large"
    files = {"sam2_hiera_large.pt": b"weights", "model.safetensors": b"the same", "config.json": b"{}"}
    hub.repositories[decoder] = Repository(files, "apache-2.0")
    original = Settings.model_validate({"tracking": {"decoder": "original"}})
    with hub.reached(tmp_path):
        local_model("sa2va-qwen3-vl-4b", parts=parts_of(("keyframe", "propagate"), Settings()))
        assert not [name for name in hub.sent if name.startswith(decoder)]
        folder = local_model("sa2va-qwen3-vl-4b", parts=parts_of(("keyframe", "propagate"), original))
    assert [name for name in hub.sent if name.startswith(decoder)] == [f"{decoder}/sam2_hiera_large.pt"]
    assert [path.name for path in Path(folder, "sam2").iterdir()] == ["sam2_hiera_large.pt"]


def test_a_sampler_without_a_clip_needs_none() -> None:
    settings = Settings.model_validate({"sampling": {"sampler": "first"}})
    assert parts_of(("presample", "fuse"), settings) == set()
    assert parts_of(("presample", "tokens", "fuse", "keyframe", "propagate"), Settings()) == set(PARTS)


@pytest.mark.parametrize("place", ["hub", "bucket"])
def test_a_folder_with_one_part_loads_it_strictly_and_no_other(
    hub: HubServer, published: Path, tmp_path: Path, place: str
) -> None:
    loaders = {"clip": load_clip, "language": load_language, "segmenter": load_segmenter}
    name = "vrs-hq-7b"
    if place == "bucket":
        convert(str(published), str(tmp_path / "bundle"), shard_bytes=1_000_000)
        fsspec.filesystem("memory").put(str(tmp_path / "bundle"), "/known/bundle", recursive=True)
        name = "memory://known/bundle"
    for part, load in loaders.items():
        with hub.reached(tmp_path / part):
            folder = local_model(name, parts=[part])
        bundle = open_bundle(folder)
        assert 0 < len(bundle.fetched) < len(bundle.shards)
        load(bundle, "cpu", torch.float32)
        for other in set(loaders) - {part}:
            if not (place == "hub" and {part, other} == {"language", "segmenter"}):  # these share a file
                with pytest.raises(CheckpointError, match="missing tensor"):
                    loaders[other](bundle, "cpu", torch.float32)
    if place == "bucket":
        with hub.reached(tmp_path / "planner"):
            described = describe_model(name)
        assert described.bundle.fetched == ()
        assert described.bundle.fingerprint == open_bundle(str(tmp_path / "bundle")).fingerprint
        assert sum(described.weights({part}) for part in PARTS) == described.weights(PARTS)
        Folder(name).remove("model.safetensors.index.json")  # without an index, parts cannot be told apart
        with hub.reached(tmp_path / "planner"):
            described = describe_model(name)
        assert {described.weights({part}) for part in PARTS} == {described.weights(PARTS)}
        fsspec.filesystem("memory").rm("/known", recursive=True)


def test_a_file_that_is_not_what_the_hub_states_is_refused_by_name_and_fetched_again(
    hub: HubServer, tmp_path: Path
) -> None:
    hub.damaged.add(SECOND)
    with hub.reached(tmp_path):
        with pytest.raises(CheckpointError, match=rf"^--model {SECOND}: sha256 \w+, the hub lists \w+; the file is"):
            local_model("vrs-hq-7b")
        hub.damaged.clear()
        folder = Path(local_model("vrs-hq-7b"))
    assert (folder / Path(SECOND).name).read_bytes() == hub.repositories[VRS_HQ].files[Path(SECOND).name]
    assert hub.sent[SECOND] == 2 * len(hub.repositories[VRS_HQ].files[Path(SECOND).name])


def test_without_the_hub_what_was_fetched_before_is_used(hub: HubServer, tmp_path: Path) -> None:
    with hub.reached(tmp_path):
        online = local_model("vrs-hq-7b", parts=["clip"])
        described = describe_model("vrs-hq-7b")
        sent = dict(hub.sent)
        hub.repositories.clear()
        assert local_model("vrs-hq-7b", parts=["clip"]) == online
        again = describe_model("vrs-hq-7b")
        assert again.bundle.fingerprint == described.bundle.fingerprint
        assert again.weights(PARTS) == described.weights(PARTS)
        assert dict(hub.sent) == sent
        with pytest.raises(CheckpointError, match=f"^--model {VRS_HQ}: the hub did not give pytorch_model-00001"):
            local_model("vrs-hq-7b")


def test_without_the_hub_what_another_program_fetched_is_used(hub: HubServer, tmp_path: Path) -> None:
    with hub.reached(tmp_path):
        fingerprint = describe_model("sa2va-qwen3-vl-4b").bundle.fingerprint
        snapshot_download(SA2VA)
        shutil.rmtree(tmp_path / "models")
        sent = dict(hub.sent)
        hub.repositories.clear()
        assert open_bundle(local_model("sa2va-qwen3-vl-4b")).fingerprint == fingerprint
        assert dict(hub.sent) == sent


def test_what_cannot_be_found_is_one_line(hub: HubServer, tmp_path: Path) -> None:
    hub.repositories.clear()
    table = write_table(tmp_path / "table.jsonl", [instruction("a.mp4", 1, "it")])
    with hub.reached(tmp_path / "machine"):
        for name, reason in (
            ("vrs-hq-70b", "no such bundle; give one of tiny, untrained-tiny, vrs-hq-7b, "),
            ("vrs-hq-7b", f"{VRS_HQ}: no local folder, and the hub did not give it ("),
            ("nobody/nothing", "no local folder, and the hub did not give it ("),
        ):
            refused = vrshq("plan", table, "--output", str(tmp_path / "run"), "--model", name)
            assert refused.returncode == 1
            assert refused.stderr.startswith("error: --model ")
            assert reason in refused.stderr
            assert refused.stderr.count("\n") == 1


@pytest.mark.parametrize("name", [MODEL, "sa2va-qwen3-vl-4b"])
def test_train_refuses_a_start_of_another_family_in_one_line(tmp_path: Path, name: str) -> None:
    run = tmp_path / "run"
    refused = vrshq("train", "--config", "example", "--output", str(run), "--set", f"start.bundle={name}")
    assert refused.returncode == 1
    assert refused.stdout == ""
    reason = f"start.bundle {name}: a model of the family sa2va; vrshq train trains the family vrs-hq alone"
    assert refused.stderr == f"error: {reason}\n"
    assert not run.exists()

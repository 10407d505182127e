"""Promises of `vrshq train`: the sampler, resumption after a kill, workers equal to the plain loop, and the bundle."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.dataset_fixtures import write_revos
from tests.support.label_runs import vrshq
from tests.support.paths import CONFIGS, ROOT
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.vrs_hq.load import load_language, load_segmenter
from vrshq.operators.models.vrs_hq.prompt import normalize
from vrshq.operators.synth import KINDS, SynthConfig, make_video
from vrshq.operators.training.clip import Clip
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.train.mixture import Mixture, SynthData, balanced
from vrshq.pipelines.train.run import train
from vrshq.pipelines.train.settings import TrainSettings, load_any_settings, load_train_settings, packaged_configs

SYNTH = {
    "frames": [3, 4],
    "expressions": 2,
    "config": {"short_sides": [64], "aspects": [1.0], "frames": [4, 6], "objects": [2, 3]},
}
PARTS = ["language.llama.embed_tokens", "lm_head", "language.text_hidden_fcs", "segmenter.sam_mask_decoder", "lora"]


def config_of(**changes: Any) -> dict[str, Any]:
    stage = {"name": "one", "steps": 3, "batch": 2, "trained": PARTS, "data": {"synth": {"synth": SYNTH}}}
    values: dict[str, Any] = {
        "workers": 0,
        "feeders": False,
        "checkpoint_every": 1,
        "log_every": 1,
        "bundle_dtype": "float32",
        "start": {"bundle": "untrained-tiny"},
        "stages": [stage],
    }
    return values | changes


def settings_of(tmp_path: Path, assignments: list[str] | None = None, **changes: Any) -> TrainSettings:
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config_of(**changes)))
    return load_train_settings(str(path), assignments or [])


def curve(output: Path, stage: str = "one") -> list[dict[str, float]]:
    return [json.loads(line) for line in (output / "logs" / f"{stage}.jsonl").read_text().splitlines()]


def weights(output: Path, stage: str = "one") -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(output / "stages" / f"{stage}.pt", weights_only=True)["model"]
    return state


def last_state(output: Path, stage: str = "one") -> dict[str, Any]:
    last = max((output / "checkpoints" / stage).glob("*.pt"))
    state: dict[str, Any] = torch.load(last, weights_only=True)
    return state


# ---- the sampler ------------------------------------------------------------------------------------------------------


class Named:
    """A source whose clips show its name and its random numbers."""

    def __init__(self, name: str) -> None:
        self.name = name

    def draw(self, random: np.random.Generator) -> Clip:
        return Clip(f"{self.name} {random.integers(1 << 40)}", np.zeros((1, 2, 2, 3), np.uint8))


RECIPE = {"sem_seg": 9, "refer_seg": 3, "vqa": 3, "reason_seg": 1, "chatunivi": 4, "rvos": 12}


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000), st.integers(0, 255))
def test_any_256_draws_have_the_recipes_shares(first: int, seed: int) -> None:
    names = list(RECIPE)
    drawn = Counter(names[balanced(list(RECIPE.values()), first + number, seed)] for number in range(256))
    assert [drawn[name] for name in names] == [72, 24, 24, 8, 32, 96]


def test_neighbouring_draws_are_mixed() -> None:
    drawn = [balanced(list(RECIPE.values()), number, 0) for number in range(256)]
    assert all(5 in drawn[begin : begin + 16] for begin in range(240))


@pytest.mark.parametrize("balance", [True, False])
def test_a_sample_depends_on_its_number_and_the_seed_alone(balance: bool) -> None:
    def mixture(seed: int) -> Mixture:
        return Mixture({name: (weight, Named(name)) for name, weight in RECIPE.items()}, seed, balance)

    forward = [clip.source for clip in mixture(3).stream(range(40))]
    backward = [mixture(3).sample(number).source for number in reversed(range(40))][::-1]
    assert forward == backward
    assert [clip.source for clip in mixture(4).stream(range(40))] != forward
    assert len(set(forward)) == 40


def test_synthetic_clips_are_the_same_each_time_and_keep_their_limits() -> None:
    data = SynthData(frames=(3, 4), expressions=2, config=SynthConfig(**SYNTH["config"]))  # type: ignore[arg-type]
    for number in range(5):
        one, two = (Mixture({"synth": (1, data)}, 0).sample(number) for _ in range(2))
        assert one.texts == two.texts
        assert np.array_equal(one.frames, two.frames)
        assert one.masks is not None
        assert two.masks is not None
        assert np.array_equal(one.masks, two.masks)
        assert 3 <= len(one.frames) <= 4
        assert 1 <= len(one.texts) <= 2


def test_synthetic_clips_ask_only_what_is_learned_from() -> None:
    config = SynthConfig(**SYNTH["config"])  # type: ignore[arg-type]
    texts: dict[str, set[str]] = {kind: set() for kind in KINDS}
    for number in range(12):
        for expression in make_video(0, number, "train", config).expressions:
            texts[expression.kind].add(expression.text)
    for kinds in (("motion",), ("referring", "absent")):
        mixture = Mixture({"synth": (1, SynthData(videos=12, frames=(3, 4), kinds=kinds, config=config))}, 0)
        asked = {text for clip in mixture.stream(range(12)) for text in clip.texts}
        assert asked <= {normalize(text) for kind in kinds for text in texts[kind]}
        assert all(asked & {normalize(text) for text in texts[kind]} for kind in kinds)


# ---- settings ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "said"),
    [
        (
            "stages.0.stepz=3",
            "stages.0.stepz: no such setting; did you mean stages.0.steps? vrshq settings train lists all",
        ),
        ("stages.0.optimiser={ratio: 3}", "optimiser.ratio: no such setting; did you mean stages.0.optimiser.rate?"),
        ("start.lora.rnk=3", "did you mean start.lora.rank?"),
        ("stages.0.data.synth.sinth={}", "did you mean stages.0.data.synth.synth?"),
        ("stages.0.data.synth.synth.config.objeccts=[1,2]", "stages.0.data.synth.synth.config.objeccts: no such"),
        ("stages.0.steps=many", "stages.0.steps"),
        ("stages.7.steps=1", "no such place"),
        (
            "stages.0.data.synth.synth.kinds=[moving]",
            "kinds = ['moving']: expected some of referring, attribute, motion, absent",
        ),
        ("workers", "expected key=value"),
        ("stages.0.losses={bce: -1}", "losses.bce"),
        ("stages.0.data={x: {weight: 1}}", "one of synth, files and group"),
        ("stages.0.language_layers=3", "stage one: language_layers with start.lora.rank 8: expected start.lora.rank 0"),
    ],
)
def test_a_wrong_setting_is_refused_by_name_in_one_line(tmp_path: Path, assignment: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_of(tmp_path, [assignment])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", packaged_configs())
def test_a_packaged_configuration_is_found_by_its_name(name: str, tmp_path: Path) -> None:
    with contextlib.chdir(tmp_path):
        assert load_any_settings(name, []) == load_any_settings(f"{name}.yaml", [])
    assert load_any_settings(name, []) == load_any_settings(str(CONFIGS / f"{name}.yaml"), [])


def test_a_local_file_goes_before_a_packaged_configuration_of_its_name(tmp_path: Path) -> None:
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(config_of(name="local")))
    with contextlib.chdir(tmp_path):
        assert load_train_settings("tiny.yaml", []).name == "local"


def test_a_wrong_configuration_name_is_refused_with_the_packaged_ones() -> None:
    with pytest.raises(SettingsError) as caught:
        load_train_settings("tyni", [])
    assert (
        str(caught.value) == "--config tyni: no such file; packaged configurations: example, presence, tiny, vrs-hq-7b"
    )


# ---- runs -------------------------------------------------------------------------------------------------------------

AVERAGE = ["stages.0.optimiser.average=0.9"]


@dataclass(frozen=True)
class Run:
    """A finished training run of one process: its folder, and the uri that `train` returned."""

    folder: Path
    uri: str


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Run:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("plain")
    return Run(folder / "run", train(settings_of(folder), str(folder / "run")))


@pytest.fixture(scope="module")
def averaged(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The plain run with averaged weights and validation after the last step."""
    folder = tmp_path_factory.mktemp("averaged")
    settings = settings_of(folder, [*AVERAGE, "validate={every: 1, clips: 2}"])
    return Run(folder / "run", train(settings, str(folder / "run")))


def test_a_run_writes_a_bundle_that_opens_with_what_was_trained(plain: Run) -> None:
    bundle = open_bundle(plain.uri.removeprefix("file://"))
    trained = weights(plain.folder)
    language, segmenter = load_language(bundle, "cpu", torch.float32), load_segmenter(bundle, "cpu", torch.float32)
    assert torch.equal(language.state_dict()["text_hidden_fcs.0.weight"], trained["language.text_hidden_fcs.0.weight"])
    inside = "sam_mask_decoder.output_hypernetworks_mlps.0.layers.0.weight"
    assert torch.equal(segmenter.state_dict()[inside], trained[f"segmenter.{inside}"])
    assert [row["step"] for row in curve(plain.folder)] == [1, 2, 3]
    assert {"ce", "bce", "dice", "loss"} <= curve(plain.folder)[0].keys()
    assert list((plain.folder / "tensorboard" / "one").glob("events*"))
    log = (bundle.folder / "training.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in log] == [{"stage": "one", **row} for row in curve(plain.folder)]


def test_a_later_stage_begins_with_what_an_earlier_one_trained(plain: Run, tmp_path: Path) -> None:
    first = config_of()["stages"][0]
    second = first | {"name": "two", "steps": 1, "trained": ["lm_head"]}
    uri = train(settings_of(tmp_path, stages=[first, second]), str(tmp_path / "run"))
    found = load_language(open_bundle(uri), "cpu", torch.float32).state_dict()
    for name, value in load_language(open_bundle(plain.uri), "cpu", torch.float32).state_dict().items():
        assert torch.equal(value, found[name]), name


def test_layers_that_a_stage_adds_are_trained_and_are_in_the_bundle(tmp_path: Path) -> None:
    first = config_of()["stages"][0] | {"steps": 1, "trained": ["language.llama"]}
    second = first | {"name": "two", "steps": 2, "language_layers": 4}
    third = first | {"name": "three", "trained": ["lm_head"]}  # keeps the layers
    start = {"bundle": "untrained-tiny", "lora": {"rank": 0}}
    uri = train(settings_of(tmp_path, start=start, stages=[first, second, third]), str(tmp_path / "run"))
    assert open_bundle("untrained-tiny").model.language.num_layers == 2
    assert open_bundle(uri).model.language.num_layers == 4
    found = load_language(open_bundle(uri), "cpu", torch.float32).state_dict()
    trained = weights(tmp_path / "run", "two")
    assert {name.split(".")[3] for name in trained if ".layers." in name} == {"0", "1", "2", "3"}
    for name, value in trained.items():
        assert torch.equal(value, found[name.removeprefix("language.")]), name
        assert value.any(), name


def test_differences_of_frames_that_a_stage_adds_are_in_the_bundle_beside_adapters(tmp_path: Path) -> None:
    first = config_of()["stages"][0] | {"steps": 1, "trained": ["lora"]}
    second = first | {"name": "two", "frame_differences": True, "trained": ["lora", "language.frame_differences"]}
    third = first | {"name": "three"}  # keeps them
    uri = train(settings_of(tmp_path, stages=[first, second, third]), str(tmp_path / "run"))
    assert not open_bundle("untrained-tiny").model.frame_differences
    assert open_bundle(uri).model.frame_differences
    found = load_language(open_bundle(uri), "cpu", torch.float32).state_dict()
    name = "frame_differences.project.weight"
    assert torch.equal(found[name], weights(tmp_path / "run", "two")[f"language.{name}"])
    assert found[name].any()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"language_layers": 1}, "language_layers = 1: expected at least 2, as many as the language model has"),
        (
            {"losses": {"reference": 1}},
            "losses.reference = 1: expected a language model of at least 3 layers, got 2; set language_layers",
        ),
        ({"trained": ["language.lama"]}, "trained: no parameter begins with language.lama; names begin with language"),
    ],
)
def test_a_stage_that_does_not_fit_the_model_is_refused_in_one_line(
    tmp_path: Path, change: dict[str, Any], said: str
) -> None:
    stage = config_of()["stages"][0] | {"trained": ["language.llama"]} | change
    start = {"bundle": "untrained-tiny", "lora": {"rank": 0}}
    with pytest.raises(SettingsError) as caught:
        train(settings_of(tmp_path, start=start, stages=[stage]), str(tmp_path / "run"))
    assert str(caught.value).startswith(f"stage one: {said}")


def test_a_folder_of_other_settings_is_refused(plain: Run, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"other settings .*: stages\.0 \(one\)\.steps: 3 -> 2\)"):
        train(settings_of(tmp_path, ["stages.0.steps=2"]), str(plain.folder))


def test_a_folder_begun_before_a_setting_existed_goes_on_with_that_setting_at_its_default(tmp_path: Path) -> None:
    train(settings_of(tmp_path), str(tmp_path / "run"))
    begun = json.loads((tmp_path / "run" / "train.json").read_text())
    del begun["stages"][0]["forward"], begun["validate"]
    (tmp_path / "run" / "train.json").write_text(json.dumps(begun))
    train(settings_of(tmp_path), str(tmp_path / "run"))
    with pytest.raises(SettingsError, match=r"other settings .*: stages\.0 \(one\)\.forward\.blind: false -> true\)"):
        train(settings_of(tmp_path, ["stages.0.forward.blind=true"]), str(tmp_path / "run"))


def test_the_presence_threshold_of_the_start_is_carried_on_unless_another_is_given(tmp_path: Path) -> None:
    start = shutil.copytree(open_bundle("untrained-tiny").folder, tmp_path / "start")
    about = json.loads((start / "bundle.json").read_text())
    (start / "bundle.json").write_text(json.dumps(about | {"presence": 0.4}))
    stage = {"name": "one", "steps": 1, "batch": 1, "trained": ["lm_head"], "data": {"synth": {"synth": SYNTH}}}
    cases: list[tuple[dict[str, Any], float]] = [({}, 0.4), ({"presence": 0.0}, 0.0), ({"presence": 0.7}, 0.7)]
    for more, expected in cases:
        chosen = settings_of(tmp_path, start={"bundle": str(start)}, stages=[stage], **more)
        assert open_bundle(train(chosen, str(tmp_path / "run"))).presence == expected


def test_a_refused_command_says_nothing_of_the_work(plain: Run, tmp_path: Path) -> None:
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(config_of(seed=9)))
    refused = vrshq("train", "--config", str(tmp_path / "other.yaml"), "--output", str(plain.folder))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "other settings (its own -> this command's: seed: 0 -> 9); give the same ones" in refused.stderr


def test_validation_and_averaged_weights_leave_the_losses_as_they_are(plain: Run, averaged: Run) -> None:
    rows = [curve(run.folder) for run in (plain, averaged)]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert all("valid_iou" in row for row in rows[1])
    one, two = weights(plain.folder), weights(averaged.folder)
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_evaluation_between_steps_gives_the_protocols_numbers_and_changes_no_loss(plain: Run, tmp_path: Path) -> None:
    write_revos(tmp_path / "ReVOS")
    evaluate = f"evaluate={{every: 2, dataset: revos, root: {tmp_path / 'ReVOS'}}}"
    with pytest.raises(StoppedError):
        # an evaluation after the last step would repeat the one after step 2
        train(settings_of(tmp_path, [evaluate]), str(tmp_path / "more"), on_log=(seen := Stop(2)))
    assert [row["loss"] for row in seen.rows] == pytest.approx(
        [row["loss"] for row in curve(plain.folder)[:2]], abs=1e-6
    )
    assert "evaluate_published.referring.J" not in seen.rows[0]
    assert 0 <= seen.rows[1]["evaluate_published.referring.J"] <= 100


class StoppedError(Exception):
    """Ends a run from inside its process."""


class Stop:
    """Collects the rows that a run reports, and ends the run at a step."""

    def __init__(self, step: int) -> None:
        self.step = step
        self.rows: list[dict[str, float]] = []

    def __call__(self, stage: str, step: int, row: dict[str, float]) -> None:
        self.rows.append(row)
        if step == self.step:
            raise StoppedError(stage)


def test_killed_anywhere_and_resumed_a_run_has_the_same_losses_and_sampler(tmp_path: Path) -> None:
    """SIGKILL ends the first run, an exception the second one; the third one reaches the end."""
    stage = config_of()["stages"][0] | {"steps": 6}
    settings = settings_of(tmp_path, stages=[stage], checkpoint_every=2)
    train(settings, str(tmp_path / "whole"))
    command = [sys.executable, "-c", "from vrshq.pipelines.cli.main import main; main()", "train"]
    command += ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "killed")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("one 3:"):
            process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    stop = Stop(5)
    with pytest.raises(StoppedError):
        train(settings, str(tmp_path / "killed"), on_log=stop)
    assert len(stop.rows) < 5  # it continued instead of beginning again
    train(settings, str(tmp_path / "killed"))
    whole, killed = curve(tmp_path / "whole"), curve(tmp_path / "killed")
    assert [row["step"] for row in killed] == [1, 2, 3, 4, 5, 6]
    for name in ("loss", "ce", "bce", "dice"):
        assert [row[name] for row in killed] == pytest.approx([row[name] for row in whole], abs=1e-6)
    states = [last_state(tmp_path / name) for name in ("whole", "killed")]
    assert states[0]["sampler"] == states[1]["sampler"] == {"seed": 0, "next_sample": 12}
    for name, value in states[0]["model"].items():
        assert torch.allclose(value, states[1]["model"][name], atol=1e-6), name


def assert_same_training(plain: Path, ray: Path) -> None:
    for one, two in zip(curve(plain), curve(ray), strict=True):
        assert two["gradient"] == pytest.approx(one["gradient"], rel=1e-5)
        assert two["loss"] == pytest.approx(one["loss"], abs=1e-6)
    for first, second in ((weights(plain), weights(ray)), (last_state(plain)["average"], last_state(ray)["average"])):
        assert first.keys() == second.keys()
        for name, value in first.items():
            assert torch.allclose(value, second[name], atol=1e-6), name
    assert last_state(ray)["sampler"] == last_state(plain)["sampler"]


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.usefixtures("shared_ray")
@pytest.mark.parametrize(("workers", "feeders"), [pytest.param(1, False, marks=pytest.mark.long), (2, True)])
def test_workers_of_ray_train_take_the_step_of_the_plain_loop(
    averaged: Run, tmp_path: Path, workers: int, feeders: bool
) -> None:
    train(settings_of(tmp_path, AVERAGE, workers=workers, feeders=feeders), str(tmp_path / "ray"))
    assert_same_training(averaged.folder, tmp_path / "ray")


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("shared_ray")
def test_sharded_weights_take_the_step_of_the_plain_loop_and_each_continues_the_other(tmp_path: Path) -> None:
    chosen = [*AVERAGE, "validate={every: 3, clips: 2}", "stages.0.forward={share_prefix: false}"]
    alone = settings_of(tmp_path, chosen)
    train(alone, str(tmp_path / "plain"))
    with pytest.raises(StoppedError):
        train(alone, str(tmp_path / "ray"), on_log=Stop(2))
    assert last_state(tmp_path / "ray")["sampler"]["next_sample"] < 6
    train(settings_of(tmp_path, chosen, workers=2, parallel="fsdp"), str(tmp_path / "ray"))
    assert_same_training(tmp_path / "plain", tmp_path / "ray")
    # the files of a run that was stopped after step 2
    (tmp_path / "ray/stages/one.pt").unlink()
    (tmp_path / "ray/checkpoints/one/00000003.pt").unlink()
    train(alone, str(tmp_path / "ray"))
    assert_same_training(tmp_path / "plain", tmp_path / "ray")
    valid = [curve(tmp_path / name)[-1]["valid_loss"] for name in ("plain", "ray")]
    assert valid[1] == pytest.approx(valid[0], abs=1e-6)

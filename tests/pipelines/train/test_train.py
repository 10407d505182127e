"""`vrshq train`: the sampler, resuming after a kill, one and two workers against the plain loop, and the bundle it writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.dataset_fixtures import write_revos
from tests.support.paths import CONFIGS, ROOT
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.vrs_hq.prompt import normalize
from vrshq.operators.synth import KINDS, SynthConfig, make_video
from vrshq.operators.training.clip import Clip
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.train.mixture import Mixture, SynthData, balanced
from vrshq.pipelines.train.run import train
from vrshq.pipelines.train.settings import TrainSettings, load_train_settings

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
    """A source that tells its name, and the random numbers that it was given."""

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
        ("stages.0.stepz=3", "stages.0.stepz: no such setting"),
        ("stages.0.optimiser={ratio: 3}", "stages.0.optimiser.ratio: no such setting"),
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
    ],
)
def test_a_wrong_setting_is_refused_by_name_in_one_line(tmp_path: Path, assignment: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        settings_of(tmp_path, [assignment])
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["tiny", "vrs-hq-7b"])
def test_the_shipped_configurations_can_be_read(name: str) -> None:
    assert load_train_settings(str(CONFIGS / f"{name}.yaml"), []).stages


# ---- runs -------------------------------------------------------------------------------------------------------------


def test_a_run_writes_a_bundle_that_opens_with_what_was_trained(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    uri = train(settings_of(tmp_path), str(tmp_path / "run"))
    bundle = open_bundle(uri.removeprefix("file://"))
    trained = weights(tmp_path / "run")
    language, segmenter = bundle.load_language(), bundle.load_segmenter()
    assert torch.equal(language.text_hidden_fcs[0].weight, trained["language.text_hidden_fcs.0.weight"])
    inside = "sam_mask_decoder.output_hypernetworks_mlps.0.layers.0.weight"
    assert torch.equal(segmenter.state_dict()[inside], trained[f"segmenter.{inside}"])
    assert [row["step"] for row in curve(tmp_path / "run")] == [1, 2, 3]
    assert {"ce", "bce", "dice", "loss"} <= curve(tmp_path / "run")[0].keys()
    assert list((tmp_path / "run" / "tensorboard" / "one").glob("events*"))
    log = (bundle.folder / "training.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in log] == [{"stage": "one", **row} for row in curve(tmp_path / "run")]


def test_a_later_stage_begins_with_what_an_earlier_one_trained(tmp_path: Path) -> None:
    first = config_of()["stages"][0] | {"steps": 1}
    second = first | {"name": "two", "trained": ["lm_head"]}
    settings = settings_of(tmp_path, stages=[first, second])
    train(settings, str(tmp_path / "run"))
    alone = settings_of(tmp_path, stages=[first])
    train(alone, str(tmp_path / "alone"))
    found = open_bundle(str(tmp_path / "run" / "bundle")).load_language().state_dict()
    for name, value in open_bundle(str(tmp_path / "alone" / "bundle")).load_language().state_dict().items():
        assert torch.equal(value, found[name]), name


def test_a_folder_of_other_settings_is_refused(tmp_path: Path) -> None:
    train(settings_of(tmp_path, ["stages.0.steps=1"]), str(tmp_path / "run"))
    with pytest.raises(SettingsError, match=r"other settings .*stages"):
        train(settings_of(tmp_path, ["stages.0.steps=2"]), str(tmp_path / "run"))


def test_validation_and_averaged_weights_leave_the_losses_as_they_are(tmp_path: Path) -> None:
    plain = [f"stages.0.optimiser.average={value}" for value in (0.0, 0.9)]
    train(settings_of(tmp_path, plain[:1]), str(tmp_path / "plain"))
    train(settings_of(tmp_path, [plain[1], "validate.every=1", "validate.clips=2"]), str(tmp_path / "more"))
    rows = [curve(tmp_path / name) for name in ("plain", "more")]
    assert [row["loss"] for row in rows[0]] == [row["loss"] for row in rows[1]]
    assert all("valid_iou" in row for row in rows[1])
    one, two = weights(tmp_path / "plain"), weights(tmp_path / "more")
    assert any(not torch.equal(one[name], two[name]) for name in one)


def test_evaluation_between_steps_gives_the_protocols_numbers_and_changes_no_loss(tmp_path: Path) -> None:
    write_revos(tmp_path / "ReVOS")
    train(settings_of(tmp_path, ["stages.0.steps=2"]), str(tmp_path / "plain"))
    evaluate = f"evaluate={{every: 2, dataset: revos, root: {tmp_path / 'ReVOS'}}}"
    train(settings_of(tmp_path, ["stages.0.steps=2", evaluate]), str(tmp_path / "more"))
    plain, more = curve(tmp_path / "plain"), curve(tmp_path / "more")
    assert [row["loss"] for row in plain] == [row["loss"] for row in more]
    assert "evaluate_published.referring.J" not in more[0]
    assert 0 <= more[1]["evaluate_published.referring.J"] <= 100


def test_killed_anywhere_and_resumed_a_run_has_the_same_losses_and_sampler(tmp_path: Path) -> None:
    stage = config_of()["stages"][0] | {"steps": 6}
    settings = settings_of(tmp_path, stages=[stage], checkpoint_every=2)
    train(settings, str(tmp_path / "whole"))
    command = [sys.executable, "-c", "from vrshq.pipelines.cli.main import main; main()", "train"]
    command += ["--config", str(tmp_path / "config.yaml"), "--output", str(tmp_path / "killed")]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    for kill_at in ("one 3:", "one 5:", None):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        for line in process.stdout:
            if kill_at and line.startswith(kill_at):
                process.send_signal(signal.SIGKILL)
        code = process.wait()
        assert code == (-signal.SIGKILL if kill_at else 0)
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
    for one, two in ((weights(plain), weights(ray)), (last_state(plain)["average"], last_state(ray)["average"])):
        assert one.keys() == two.keys()
        for name, value in one.items():
            assert torch.allclose(value, two[name], atol=1e-6), name
    assert last_state(ray)["sampler"] == last_state(plain)["sampler"]


@pytest.mark.ray
@pytest.mark.timeout(600)
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_of_ray_train_take_the_step_of_the_plain_loop(tmp_path: Path, workers: int) -> None:
    average = ["stages.0.optimiser.average=0.9"]
    train(settings_of(tmp_path, average), str(tmp_path / "plain"))
    train(settings_of(tmp_path, average, workers=workers, feeders=True), str(tmp_path / "ray"))
    assert_same_training(tmp_path / "plain", tmp_path / "ray")


@pytest.mark.ray
@pytest.mark.timeout(900)
def test_weights_shared_out_over_workers_take_the_step_of_the_plain_loop_also_after_a_stop(tmp_path: Path) -> None:
    chosen = [
        "stages.0.optimiser.average=0.9",
        "validate={every: 3, clips: 2}",
        "stages.0.forward={share_prefix: false}",
    ]
    train(settings_of(tmp_path, chosen), str(tmp_path / "plain"))
    settings = settings_of(tmp_path, chosen, workers=2, parallel="fsdp")
    train(settings, str(tmp_path / "ray"))
    assert_same_training(tmp_path / "plain", tmp_path / "ray")
    # what a stop before the last step leaves
    (tmp_path / "ray/stages/one.pt").unlink()
    (tmp_path / "ray/checkpoints/one/00000003.pt").unlink()
    train(settings, str(tmp_path / "ray"))
    assert_same_training(tmp_path / "plain", tmp_path / "ray")
    valid = [curve(tmp_path / name)[-1]["valid_loss"] for name in ("plain", "ray")]
    assert valid[1] == pytest.approx(valid[0], abs=1e-6)

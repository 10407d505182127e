"""Promises of a presence head: trained apart, kept strictly in its bundle, and without one everything is as it was."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from pydantic import TypeAdapter
from safetensors.torch import load_file, save_file

from tests.support import clips
from tests.support.label_runs import content, instruction, vrshq, write_table
from tests.support.paths import CONFIGS
from vrshq.operators.models.bundle import BUNDLED, Bundle, CheckpointError, open_bundle
from vrshq.operators.models.evidence import HIGHEST_SCORE, length
from vrshq.operators.models.presence import WEIGHTS, presence_threshold
from vrshq.operators.models.presence_head import PresenceHead, load_head, write_with_head
from vrshq.operators.training.presence import HeadConfig, calibrate, threshold_at, train_head
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import load_settings
from vrshq.pipelines.models.convert import convert
from vrshq.pipelines.models.publish import publish
from vrshq.pipelines.train.presence import train_presence
from vrshq.pipelines.train.presence_settings import PresenceSettings
from vrshq.pipelines.train.settings import load_any_settings

UNTRAINED = "untrained-tiny"
TEXTS = ("the block that moves", "something red", "what is hidden?")
SMALL = {"short_sides": [64], "aspects": [1.0], "frames": [4, 6], "objects": [2, 3]}


def random_head(bundle: Bundle, seed: int = 0) -> PresenceHead:
    torch.manual_seed(seed)
    return PresenceHead(length(bundle.model.sam2.d_model, bundle.model.out_dim))


def with_head(folder: Path, threshold: float = 0.25) -> Path:
    bundle = open_bundle(UNTRAINED)
    return write_with_head(bundle, random_head(bundle), folder, threshold=threshold, provenance={})


def labelled(folder: Path, name: str, model: str, *assignments: str) -> dict[str, list[dict[str, Any]]]:
    if not (folder / "table.jsonl").exists():
        clips.h264(folder / "clip.mp4", frames=6)
        write_table(folder / "table.jsonl", [instruction("clip.mp4", i, text) for i, text in enumerate(TEXTS)])
    settings = load_settings(None, list(assignments), model=model)
    label(str(folder / "table.jsonl"), str(folder / name), settings, use_ray=False)
    return content(str(folder / name))


def test_a_head_changes_presence_alone_and_without_one_it_is_the_sigmoid_of_the_highest_score(tmp_path: Path) -> None:
    without = labelled(tmp_path, "without", UNTRAINED)
    model = str(with_head(tmp_path / "model"))
    judged = labelled(tmp_path, "with", model, "masks.presence=0")
    for row in without["tracks"]:
        assert row["presence"] == pytest.approx(1 / (1 + math.exp(-max(row["object_scores"]))), abs=1e-7)
    told = [row.pop("presence") for row in judged["tracks"]]
    before = [row.pop("presence") for row in without["tracks"]]
    assert judged == without
    assert all(0 <= one <= 1 for one in told)
    assert told != before


def test_presence_is_the_same_whatever_the_batches_and_units(tmp_path: Path) -> None:
    model = str(with_head(tmp_path / "model"))
    together = labelled(tmp_path, "together", model)
    alone = labelled(tmp_path, "alone", model, "resources.instruction_batch=1", "max_instructions_per_unit=1")
    assert [row["presence"] for row in alone["tracks"]] == [row["presence"] for row in together["tracks"]]
    assert len({row["presence"] for row in together["tracks"]}) == len(TEXTS)


def test_the_threshold_of_the_head_holds_unless_the_settings_have_one(tmp_path: Path) -> None:
    told = [
        row["presence"]
        for row in labelled(tmp_path, "all", str(with_head(tmp_path / "one")), "masks.presence=0")["tracks"]
    ]
    threshold = sorted(told)[1]
    gated = labelled(tmp_path, "gated", str(with_head(tmp_path / "two", threshold)))
    assert [row["status"] == "empty" for row in gated["tracks"]] == [one <= threshold for one in told]


def test_where_no_keyframe_is_chosen_the_threshold_of_the_head_does_not_hold(tmp_path: Path) -> None:
    bundle = open_bundle(str(with_head(tmp_path / "model")))
    for start, expected in (("keyframe", 0.25), ("frames", 0.0)):
        assert load_settings(None, [f"tracking.start={start}"]).for_bundle(bundle).masks.presence == expected


def broken(folder: Path, change: str) -> Path:
    with_head(folder)
    tensors = load_file(folder / WEIGHTS)
    if change == "missing":
        del tensors["line.bias"]
    elif change == "unexpected":
        tensors["extra"] = torch.zeros(1)
    elif change == "shape":
        tensors["line.bias"] = torch.zeros(9)
    save_file(tensors, folder / WEIGHTS)
    if change != "damaged":
        about = json.loads((folder / "bundle.json").read_text())
        about["sha256"][WEIGHTS] = hashlib.sha256((folder / WEIGHTS).read_bytes()).hexdigest()
        (folder / "bundle.json").write_text(json.dumps(about))
    else:
        (folder / WEIGHTS).write_bytes((folder / WEIGHTS).read_bytes() + b" ")
    return folder


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("missing", r"missing tensor line\.bias"),
        ("unexpected", "unexpected tensor extra"),
        ("shape", r"line\.bias: shape \(9,\), expected \(1,\)"),
        ("damaged", "damaged or changed, fetch it again"),
    ],
)
def test_a_head_that_does_not_fit_is_refused_by_name(change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=message):
        load_head(open_bundle(str(broken(tmp_path / "model", change))))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"threshold": 1.5}, r"head\.json: threshold 1\.5, expected a number from 0 to 1"),
        ({"format": "other"}, r"head\.json: format 'other', expected 'vrshq-presence/1'"),
        (None, r"head\.json: no such file; expected the description of the presence head"),
    ],
)
def test_a_wrong_description_of_a_head_is_one_line(change: dict[str, Any] | None, message: str, tmp_path: Path) -> None:
    path = with_head(tmp_path / "model") / "presence/head.json"
    if change is None:
        path.unlink()
    else:
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(CheckpointError, match=message):
        presence_threshold(open_bundle(str(tmp_path / "model")))


def test_the_head_is_part_of_the_fingerprint_and_goes_to_the_published_layout_and_back(tmp_path: Path) -> None:
    bundle = open_bundle("tiny")
    made = write_with_head(bundle, random_head(bundle), tmp_path / "made", threshold=0.25, provenance={})
    assert open_bundle(str(made)).fingerprint != bundle.fingerprint
    publish(str(made), str(tmp_path / "published"))
    back = convert(str(tmp_path / "published"), str(tmp_path / "back")).bundle
    for one in (open_bundle(str(tmp_path / "published")), back):
        head = load_head(one)
        assert head is not None
        assert torch.equal(head.line.weight, random_head(bundle).line.weight)
        assert presence_threshold(one) == 0.25


def settings_of(videos: int = 3, **changes: Any) -> PresenceSettings:
    def source(seed: int) -> dict[str, Any]:
        return {"synth": {"seed": seed, "videos": videos, "config": SMALL}}

    values = {"model": UNTRAINED, "head": {"penalty": 5.0}, "data": source(1)}
    found: PresenceSettings = TypeAdapter(PresenceSettings).validate_python(values | {"held_out": source(2)} | changes)
    return found


def test_training_a_head_leaves_every_other_file_as_it_is_and_a_second_command_reads_no_video(tmp_path: Path) -> None:
    done: list[int] = []
    uri, measured = train_presence(settings_of(), str(tmp_path / "run"), on_video=lambda number, _: done.append(number))
    start, made = BUNDLED / UNTRAINED, Path(uri)
    for path in start.rglob("*"):
        if path.is_file() and path.name != "bundle.json":
            assert (made / path.relative_to(start)).read_bytes() == path.read_bytes(), path
    before, after = (json.loads((one / "bundle.json").read_text()) for one in (start, made))
    assert after.pop("sha256") == {**before.pop("sha256", {}), WEIGHTS: open_bundle(uri).checksums[WEIGHTS]}
    assert after == before
    assert done == [1, 2, 3, 1, 2, 3]
    assert 0 <= measured["auroc"] <= 1
    shutil.copytree(made, tmp_path / "first")
    again, _ = train_presence(settings_of(), str(tmp_path / "run"), on_video=lambda *_: pytest.fail("read again"))
    assert (Path(again) / WEIGHTS).read_bytes() == (tmp_path / "first" / WEIGHTS).read_bytes()
    recorded = tmp_path / "run" / "train.json"
    begun = json.loads(recorded.read_text())
    for gone in ("joined", "varied"):  # as a program wrote it that did not have them
        del begun["data"]["synth"]["config"][gone]
    recorded.write_text(json.dumps(begun))
    train_presence(settings_of(), str(tmp_path / "run"), on_video=lambda *_: pytest.fail("read again"))
    with pytest.raises(SettingsError, match=r"other settings .*data\.synth\.seed: 1 -> 5"):
        train_presence(settings_of(data={"synth": {"seed": 5, "videos": 3, "config": SMALL}}), str(tmp_path / "run"))


def test_the_command_trains_a_head_and_says_what_it_makes_of_held_out_videos(tmp_path: Path) -> None:
    values = json.loads(TypeAdapter(PresenceSettings).dump_json(settings_of(videos=2)))
    (tmp_path / "presence.yaml").write_text(yaml.safe_dump(values))
    arguments = ("train", "--config", str(tmp_path / "presence.yaml"), "--output", str(tmp_path / "run"), "--set")
    done = vrshq(*arguments, "head.penalty=50")
    assert done.returncode == 0, done.stderr
    assert "AUROC" in done.stdout
    assert "by the object score alone" in done.stdout
    assert "use it with --model" in done.stdout
    refused = vrshq(*arguments, "head.penalt=5")
    assert "setting head.penalt: no such setting; did you mean head.penalty?" in refused.stderr


def test_the_packaged_configuration_is_that_of_the_built_in_head() -> None:
    settings = load_any_settings(str(CONFIGS / "presence.yaml"), [])
    assert isinstance(settings, PresenceSettings)
    assert settings.model == "tiny"


def made_evidence(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Evidence of which the first number tells, with noise, whether there is a target, which 3 of 4 have."""
    random = np.random.default_rng(seed)
    present = random.random(count) < 0.75
    described = random.normal(size=(count, 12)).astype(np.float32)
    described[:, 0] += np.where(present, 2.0, -1.0)
    return described, present


def test_a_head_learns_what_separates_and_is_calibrated_on_other_instructions() -> None:
    head = train_head(*made_evidence(800, 0), HeadConfig(penalty=5.0))
    calibrate(head, *made_evidence(800, 1))
    described, present = made_evidence(4000, 2)
    with torch.inference_mode():
        told = head(torch.from_numpy(described)).sigmoid().numpy()
    for low in (0.0, 0.25, 0.5, 0.75):
        inside = (told >= low) & (told < low + 0.25)
        assert abs(told[inside].mean() - present[inside].mean()) < 0.08, low
    order = np.argsort(described[:, 0])
    assert told[order[:400]].mean() < 0.2 < 0.9 < told[order[-400:]].mean()


def test_a_head_that_may_learn_nothing_else_keeps_the_order_of_the_object_score() -> None:
    described, present = made_evidence(200, 0)
    described[:, [0, HIGHEST_SCORE]] = described[:, [HIGHEST_SCORE, 0]]
    seen = torch.from_numpy(described)
    first, second = (train_head(described, present, HeadConfig(penalty=1e9)) for _ in range(2))
    assert torch.equal(first(seen), second(seen))
    assert torch.equal(first(seen).argsort(), seen[:, HIGHEST_SCORE].argsort())


@pytest.mark.parametrize(("most_lost", "expected"), [(0.0, 0.0), (0.25, 0.0), (0.5, 0.3), (0.75, 0.5), (1.0, 1.0)])
def test_the_threshold_is_the_highest_that_loses_no_more_than_allowed(most_lost: float, expected: float) -> None:
    presence = np.array([0.2, 0.4, 0.6, 0.9, 0.1, 0.8])
    present = np.array([True, True, True, True, False, False])
    masked = np.array([True, True, True, False, True, True])  # the fourth has no mask in any case
    assert threshold_at(presence, present, masked, most_lost) == pytest.approx(expected)

"""Promises of `tiny`, the model in the package: small, trained with the packaged config, and it finds named objects."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from pydantic import TypeAdapter

from tests.support.label_runs import write_table
from tests.support.paths import CONFIGS, DEMO
from vrshq.operators.masks import rle
from vrshq.operators.models.bundle import BUNDLED, open_bundle
from vrshq.operators.synth import SynthConfig
from vrshq.pipelines.demo.draw_clips import CLIPS, draw
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.synth.run import synth
from vrshq.pipelines.synth.settings import Where
from vrshq.pipelines.train.identity import FREE
from vrshq.pipelines.train.settings import TrainSettings, load_train_settings

TINY = BUNDLED / "tiny"
CONFIG = CONFIGS / "tiny.yaml"


def test_tiny_is_small_and_the_default() -> None:
    assert sum(path.stat().st_size for path in TINY.rglob("*")) <= 15 * 10**6
    assert Settings().model == "tiny"
    assert open_bundle("tiny").seed is None  # its weights are trained, not random


def test_tiny_has_the_settings_of_its_config_and_a_log_up_to_the_last_step() -> None:
    settings = load_train_settings(str(CONFIG), [])
    made_with = TypeAdapter(TrainSettings).validate_python(
        json.loads((TINY / "bundle.json").read_text())["provenance"]["settings"]
    )
    for item in fields(TrainSettings):
        if item.name not in FREE:
            assert getattr(made_with, item.name) == getattr(settings, item.name), item.name
    rows = [json.loads(line) for line in (TINY / "training.jsonl").read_text().splitlines()]
    reached = {row["stage"]: row["step"] for row in rows}
    assert reached == {stage.name: stage.steps for stage in settings.stages}
    assert open_bundle("tiny").presence == settings.presence


@pytest.mark.timeout(900)
def test_tiny_finds_named_objects_in_unseen_videos(tmp_path: Path) -> None:
    config = SynthConfig(frames=(8, 12), short_sides=(128,), aspects=(1.0,), expressions=2)
    synth(
        str(tmp_path / "set"), videos=4, seed=77, split="test", form="jpeg", config=config, where=Where(use_ray=False)
    )
    evaluate("revos", str(tmp_path / "set"), str(tmp_path / "run"), split="test", use_ray=False)
    scores = json.loads((tmp_path / "run/scores.json").read_text())
    assert scores["breakdowns"]["asks"]["referring"]["JF"] > 50


def test_tiny_finds_the_red_ball_of_the_demo(tmp_path: Path) -> None:
    demo = [json.loads(line) for line in (DEMO / "instructions.jsonl").read_text().splitlines()]
    [asked] = [row for row in demo if (row["video_uri"], row["instruction_id"]) == ("hide.mp4", "0")]
    table = write_table(tmp_path / "table.jsonl", [asked])
    label(table, str(tmp_path / "run"), videos=str(DEMO), use_ray=False)
    masks = pq.read_table(tmp_path / "run/masks").to_pylist()
    found = np.stack(
        [
            rle.decode(row["rle"], row["height"], row["width"])
            for row in sorted(masks, key=lambda row: row["frame_index"])
        ]
    ).astype(bool)
    truth = draw(next(clip for clip in CLIPS if clip.name == "hide"))[1]["red ball"]
    assert (found & truth).sum() / (found | truth).sum() > 0.5

"""Instructions whose presence is at most a threshold get no masks: by setting, or because the bundle says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch

from tests.support import clips
from vrshq.operators.models.bundle import CheckpointError, open_bundle
from vrshq.operators.training.config import LoraConfig, StartConfig
from vrshq.operators.training.start import build, write_bundle
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import load_settings
from vrshq.pipelines.models.convert import convert
from vrshq.pipelines.models.publish import publish

Tracks = dict[str, dict[str, Any]]
Masks = dict[str, list[dict[str, Any]]]
TEXTS = ("the block that moves", "something red", "what is hidden?")


def bundle_with(folder: Path, presence: float) -> Path:
    model = build(StartConfig(bundle="untrained-tiny", lora=LoraConfig(rank=0)), "untrained-tiny", 5, "cpu")
    return write_bundle(model, "untrained-tiny", folder, name="made", dtype=torch.float32, presence=presence)


def labelled(folder: Path, name: str, model: Path, *assignments: str) -> tuple[Tracks, Masks]:
    """Labels the table in `folder`; returns the track of each instruction, and its masks in order of time."""
    table = folder / "instructions.jsonl"
    if not table.exists():
        clips.h264(folder / "clip.mp4", frames=6)
        rows = [{"video_uri": "clip.mp4", "instruction_id": str(i), "text": text} for i, text in enumerate(TEXTS)]
        table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    run = folder / name
    label(str(table), str(run), load_settings(None, list(assignments), model=str(model)), use_ray=False)
    tracks = {row["instruction_id"]: row for row in pq.read_table(run / "tracks").to_pylist()}
    masks: Masks = {one: [] for one in tracks}
    for row in sorted(pq.read_table(run / "masks").to_pylist(), key=lambda row: row["frame_index"]):
        masks[row["instruction_id"]].append(row)
    return tracks, masks


def test_what_is_at_most_the_threshold_gets_empty_masks_and_nothing_else_changes(tmp_path: Path) -> None:
    model = bundle_with(tmp_path / "model", 0.0)
    tracks, masks = labelled(tmp_path, "all", model)
    assert {track["status"] for track in tracks.values()} == {"ok"}
    order = sorted(tracks, key=lambda one: tracks[one]["presence"])
    threshold = tracks[order[1]]["presence"]
    assert tracks[order[0]]["presence"] <= threshold < tracks[order[2]]["presence"]
    gated, kept = labelled(tmp_path, "gated", model, f"masks.presence={threshold!r}")
    for one in order[:2]:
        assert gated[one]["status"] == "empty"
        assert gated[one]["presence"] == tracks[one]["presence"]
        assert len(kept[one]) == len(masks[one])
        assert all(row["area"] == 0 and row["bbox"] == [0, 0, 0, 0] for row in kept[one])
        assert [row["object_score"] for row in kept[one]] == [row["object_score"] for row in masks[one]]
    assert kept[order[2]] == masks[order[2]]


def test_a_bundles_own_threshold_holds_unless_the_settings_have_one(tmp_path: Path) -> None:
    tracks, masks = labelled(tmp_path, "all", bundle_with(tmp_path / "without", 0.0))
    threshold = sorted(track["presence"] for track in tracks.values())[1]
    model = bundle_with(tmp_path / "with", threshold)
    gated, _ = labelled(tmp_path, "gated", model)
    assert sum(track["status"] == "empty" for track in gated.values()) == 2
    written = json.loads((tmp_path / "gated/run.json").read_text())["identity"]["settings"]
    assert written["masks"]["presence"] == threshold
    _, kept = labelled(tmp_path, "off", model, "masks.presence=0")
    assert kept == masks


def test_the_threshold_goes_with_the_bundle_to_the_published_layout_and_back(tmp_path: Path) -> None:
    made = bundle_with(tmp_path / "made", 0.25)
    assert open_bundle(str(made)).presence == 0.25
    published = publish(str(made), str(tmp_path / "published")).bundle
    assert published.presence == 0.25
    assert convert(str(tmp_path / "published"), str(tmp_path / "back")).bundle.presence == 0.25


@pytest.mark.parametrize("wrong", ["0.5", 1.5, -0.1, True, None])
def test_a_wrong_threshold_of_a_bundle_is_one_line(wrong: object, tmp_path: Path) -> None:
    model = bundle_with(tmp_path / "model", 0.5)
    description = json.loads((model / "bundle.json").read_text())
    (model / "bundle.json").write_text(json.dumps(description | {"presence": wrong}))
    with pytest.raises(CheckpointError, match=r"bundle\.json: presence .*expected a number from 0 to 1"):
        open_bundle(str(model))

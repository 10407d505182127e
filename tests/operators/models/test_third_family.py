"""A family comes in as one module and one entry of `FAMILIES`; no stage changes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from tests.support import brightest
from tests.support.clips import h264
from tests.support.label_runs import content, decoded, instruction, write_table
from vrshq.operators.models import families
from vrshq.operators.models.bundle import CheckpointError, open_bundle
from vrshq.operators.models.family import Family
from vrshq.operators.models.shared import family_of
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.video import open_video
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings

FACE: Family = brightest  # mypy compares the module with the protocol


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setitem(families.FAMILIES, brightest.INFO.name, brightest.INFO)
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"architectures": ["Brightest"]}))
    save_file({"offset": torch.tensor(0.5)}, folder / "model.safetensors")
    return str(folder)


def test_a_third_family_labels_a_video_without_a_change_of_a_stage(model: str, tmp_path: Path) -> None:
    clip = h264(tmp_path / "clip.mp4", frames=5)
    rows = [instruction("clip.mp4", 0, "brighter than 90"), instruction("clip.mp4", 1, "brighter")]
    rows.append(instruction("clip.mp4", 2, "brighter than 255"))
    run = str(tmp_path / "run")
    label(write_table(tmp_path / "t.jsonl", rows), run, Settings(model=model), use_ray=False)
    tables = content(run)
    tracks = {track["instruction_id"]: track for track in tables["tracks"]}
    assert [tracks[key]["status"] for key in "012"] == ["ok", "error", "empty"]
    assert tracks["0"]["answer"] == "yes"
    assert tracks["0"]["num_objects"] == 1
    assert tracks["0"]["sampled_frames"] == [0, 1]
    assert len(tracks["0"]["object_scores"]) == 2
    assert tracks["1"]["error_message"] == "expected a number"
    with open_video(str(clip), DecodeConfig()) as video:
        grey = video.frames(range(5)).astype(np.float32).mean(-1)
    masks = [decoded(row) for row in tables["masks"] if row["instruction_id"] == "0"]
    assert np.array_equal(np.stack(masks), grey > 90.5)


def test_a_bundle_names_its_family_or_is_known_by_its_architecture(model: str) -> None:
    assert family_of(open_bundle(model)) is FACE
    path = Path(model) / "bundle.json"
    path.write_text(json.dumps({"format": "vrshq-bundle/1", "family": "brightest", "name": "mine"}))
    assert open_bundle(model).name == "mine"
    path.write_text(json.dumps({"format": "vrshq-bundle/1", "family": "unknown"}))
    with pytest.raises(CheckpointError, match=r"family 'unknown', expected one of vrs-hq, sa2va.*, brightest"):
        open_bundle(model)

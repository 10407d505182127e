"""The page of adapters: each sample runs, and what another library holds then is what the run holds."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import vrshq
from tests.docs.test_documents import blocks
from tests.support.clips import h264
from tests.support.one_answer import write_run
from tests.support.paths import ROOT

PAGE = ROOT / "docs" / "adapters.md"
FRAMES, HEIGHT, WIDTH = 6, 96, 160


@pytest.fixture
def objects(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The masks (2, T, H, W) of the two objects of the run in `run/`; a picture of it is the number of its frame."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    masks = np.zeros((2, FRAMES, HEIGHT, WIDTH), bool)
    for frame in range(FRAMES):
        masks[0, frame, 10:40, 20 + frame : 60] = True
        masks[1, frame, 50:80, 100 : 110 + frame] = True
    clip = h264(tmp_path / "v.mp4", frames=FRAMES, height=HEIGHT, width=WIDTH)
    write_run("run", clip, list(range(FRAMES)), *masks, area_jump=0.25)
    return masks


def ran(heading: str) -> dict[str, Any]:
    """The names that the sample under a heading leaves; skips where its library is not installed."""
    libraries = re.findall(r"^(?:import|from) (\w+)", sample(heading), re.MULTILINE)
    for library in libraries:
        pytest.importorskip(library, reason=f"{library} is not installed")
    names: dict[str, Any] = {"__name__": "sample"}
    exec(compile(sample(heading), "sample", "exec"), names)
    return names


def sample(heading: str) -> str:
    headings = re.findall(r"^## (.+)$", PAGE.read_text("utf-8"), re.MULTILINE)
    return blocks(PAGE, "python")[headings.index(heading)]


def test_duckdb_gives_masks_in_the_order_of_frames(objects: np.ndarray) -> None:
    found = ran("DuckDB")
    assert [row[2] for row in found["rows"]] == [frame for frame in range(FRAMES) for _ in range(2)]
    assert found["text"] == "the block"
    assert any(np.array_equal(found["mask"], one) for one in objects[:, 0])


def test_polars_gives_shares_and_signals(objects: np.ndarray) -> None:
    (row,) = ran("Polars")["answers"].to_dicts()
    assert row["share"] == pytest.approx(objects.mean())
    assert (row["status"], row["area_jump"]) == ("ok", 0.25)


def test_a_data_loader_gives_pictures_with_their_masks(objects: np.ndarray) -> None:
    found = ran("PyTorch")
    assert len(found["dataset"]) == FRAMES
    assert found["batch"]["picture"].shape == (4, HEIGHT, WIDTH, 3)
    assert np.array_equal(found["batch"]["mask"].numpy(), (objects[0] | objects[1])[:4])
    assert found["batch"]["frame"].tolist() == [0, 1, 2, 3]
    assert found["batch"]["text"] == ["the block"] * 4


def test_datasets_holds_the_tracks_and_each_frame_with_its_mask(objects: np.ndarray) -> None:
    found = ran("Hugging Face datasets")
    assert found["tracks"]["text"][:] == ["the block"]
    for frame, row in enumerate(found["pairs"]):
        assert row["frame"] == frame
        assert np.array_equal(np.asarray(row["mask"]) > 0, objects[0, frame] | objects[1, frame])
        assert row["image"].size == (WIDTH, HEIGHT)


def test_supervision_holds_the_objects_of_a_frame(objects: np.ndarray) -> None:
    found = ran("supervision")
    detections = found["detections"]
    assert np.array_equal(detections.mask, objects[:, 0])
    assert detections.tracker_id.tolist() == [0, 1]
    assert detections.xyxy.tolist() == [[20, 10, 59, 39], [100, 50, 109, 79]]
    assert detections["class_name"].tolist() == ["the block"] * 2
    changed = (found["picture"] != vrshq.RunDataset("run/")[0]["picture"]).any(-1)
    assert (objects[0, 0] | objects[1, 0])[changed].all()


def test_every_sample_of_the_page_is_run_here() -> None:
    assert len(blocks(PAGE, "python")) == 5
    shutil.rmtree("cache", ignore_errors=True)

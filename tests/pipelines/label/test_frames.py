"""Promises of `RunDataset`: each labelled frame of a run by index, with its picture and its mask, in flat memory."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
from torch.utils.data import DataLoader

import vrshq
from tests.support.clips import h264, read_code
from vrshq.errors import UserError
from vrshq.pipelines.label.frames import RunDataset

ROWS = [
    {"video_uri": "a.mp4", "instruction_id": "0", "text": "one"},
    {"video_uri": "a.mp4", "instruction_id": "1", "text": "two", "start": 2, "end": 7},
    {"video_uri": "b.mp4", "instruction_id": "0", "text": "three"},
    {"video_uri": "none.mp4", "instruction_id": "0", "text": "failed"},
]
WANTED = [("a.mp4", "0", n) for n in range(0, 9, 2)] + [("a.mp4", "1", n) for n in (2, 4, 6)] + [("b.mp4", "0", 0)]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Every second frame of two videos, of one also a span, and a failure."""
    folder = tmp_path_factory.mktemp("frames")
    h264(folder / "a.mp4", frames=9)
    h264(folder / "b.mp4", frames=1)
    settings = vrshq.load_settings(None, ["model=untrained-tiny", "decode.every=2"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        vrshq.label(ROWS, str(folder / "run"), settings, use_ray=False)
    return str(folder / "run")


def test_each_labelled_frame_has_its_picture_and_its_mask(run: str) -> None:
    dataset = RunDataset(run)
    opened = vrshq.open_run(run)
    assert len(dataset) == len(WANTED)
    for index in np.random.default_rng(0).permutation(len(WANTED)).tolist():
        item = dataset[index]
        assert (item["video_id"], item["instruction_id"], item["frame"]) == WANTED[index]
        assert read_code(item["picture"]) == item["frame"]
        masks = opened.masks(item["video_id"], item["instruction_id"])
        assert np.array_equal(item["mask"], masks[item["frame"]])
    assert [item["frame"] for item in dataset] == [frame for _, _, frame in WANTED]
    assert dataset[-1]["text"] == "three"
    with pytest.raises(IndexError, match=r"^item 9: there are 9$"):
        dataset[9]


def test_it_is_sent_to_workers_open_or_not(run: str) -> None:
    dataset = RunDataset(run, keep=lambda track: track["video_id"] == "a.mp4")
    assert read_code(dataset[1]["picture"]) == 2
    assert read_code(pickle.loads(pickle.dumps(dataset))[1]["picture"]) == 2
    # not forked: a fork of a process with threads, such as those of decoders, may hang
    loader = DataLoader(dataset, batch_size=3, num_workers=2, multiprocessing_context="spawn")
    assert [batch["frame"].tolist() for batch in loader] == [[0, 2, 4], [6, 8, 2], [4, 6]]


def test_videos_that_were_moved_are_found(run: str, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "run")
    shutil.copy(Path(run).parent / "a.mp4", tmp_path / "a.mp4")
    dataset = RunDataset(str(tmp_path / "run"), videos=str(tmp_path), keep=lambda track: track["text"] == "two")
    assert [read_code(item["picture"]) for item in dataset] == [2, 4, 6]


def test_a_run_without_answers_is_empty_and_no_run_is_an_error(run: str, tmp_path: Path) -> None:
    assert list(RunDataset(run, keep=lambda _: False)) == []
    with pytest.raises(UserError):
        RunDataset(str(tmp_path / "none"))

"""Promises of `open_run`: tables in three forms, masks as arrays, and one line for what is not there."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars
import pyarrow as pa
import pytest

import vrshq
from tests.support.clips import h264
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.errors import UserError
from vrshq.operators.masks.rle import decode
from vrshq.pipelines.label.asked.instructions import read_instructions
from vrshq.pipelines.label.tables.errors import InstructionTableError
from vrshq.pipelines.label.tables.opened import NoSuchRow, Run
from vrshq.pipelines.label.tables.schema import MASKS

ROWS: list[dict[str, Any]] = [
    {"video_uri": "v.mp4", "instruction_id": "a", "text": "the block", "note": 7},
    {"video_uri": "v.mp4", "instruction_id": "b", "text": "the other"},
    {"video_uri": "none.mp4", "instruction_id": "a", "text": "nothing"},
]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run over a table in memory, whose videos lie in the current folder; every second of 6 frames is labelled."""
    folder = tmp_path_factory.mktemp("opened")
    h264(folder / "v.mp4", frames=6)
    settings = vrshq.load_settings(None, ["model=untrained-tiny", "decode.every=2"])
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        vrshq.label(ROWS, str(folder / "run"), settings, use_ray=False)
    return vrshq.open_run(str(folder / "run"))


def test_tables_are_arrow_pandas_or_polars(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    tracks = run.tracks()
    assert isinstance(tracks, pa.Table)
    rows = {(row["video_id"], row["instruction_id"]): row["note"] for row in tracks.to_pylist()}
    assert rows == {("v.mp4", "a"): 7, ("v.mp4", "b"): None, ("none.mp4", "a"): None}
    frame = run.tracks("pandas")
    assert frame[frame.status == "error"].video_id.tolist() == ["none.mp4"]
    assert run.errors("pandas").error_type.tolist() == ["InputError"]
    monkeypatch.setitem(sys.modules, "polars", None)
    with pytest.raises(UserError, match=r"^polars is not installed; pip install polars, or take the form 'arrow'$"):
        run.tracks("polars")
    wrong: Any = "dask"
    with pytest.raises(UserError, match=r"^form 'dask': expected arrow, pandas or polars$"):
        run.errors(wrong)


def test_polars_frames_have_the_rows(run: Run) -> None:
    tracks = run.tracks("polars")
    assert isinstance(tracks, polars.DataFrame)
    assert tracks.filter(polars.col("note") == 7)["text"].to_list() == ["the block"]


def test_masks_are_arrays_by_frame_number(run: Run) -> None:
    masks = run.masks("v.mp4", "b")
    rows = [row for row in RunDirectory(run.uri).read("masks", MASKS).to_pylist() if row["instruction_id"] == "b"]
    assert masks.frames == [0, 2, 4] == [row["frame_index"] for row in rows]
    assert (len(masks), 2 in masks, 3 in masks) == (3, True, False)
    array = masks.array()
    assert array.shape == (3, masks.height, masks.width)
    assert array.dtype == bool
    for place, ((frame, mask), row) in enumerate(zip(masks, rows, strict=True)):
        expected = decode(row["rle"], row["height"], row["width"]).astype(bool)
        assert frame == row["frame_index"]
        assert np.array_equal(mask, expected)
        assert np.array_equal(mask, array[place])
        assert np.array_equal(mask, masks[frame])
        assert int(mask.sum()) == row["area"]
    assert np.allclose(masks.object_scores, [row["object_score"] for row in rows])


def test_a_failed_instruction_has_no_masks(run: Run) -> None:
    masks = run.masks("none.mp4", "a")
    assert (masks.frames, masks.array().shape) == ([], (0, 0, 0))
    with pytest.raises(NoSuchRow, match=r"^frame 0: the instruction has 0 frames with masks, none, because it failed$"):
        masks[0]


def test_what_is_not_there_is_one_line_with_what_is(run: Run, tmp_path: Path) -> None:
    with pytest.raises(NoSuchRow, match=r"has no instruction 'c' of 'v\.mp4'; instructions of this video: a, b$"):
        run.masks("v.mp4", "c")
    with pytest.raises(KeyError, match=r"has no instruction 'a' of 'w\.mp4'; videos: none\.mp4, v\.mp4$"):
        run.masks("w.mp4", "a")
    with pytest.raises(NoSuchRow, match=r"^frame 3: the instruction has 3 frames with masks, 0 to 4$"):
        run.masks("v.mp4", "a")[3]
    with pytest.raises(UserError):
        vrshq.open_run(str(tmp_path / "none"))


def test_a_table_in_memory_is_read_like_a_file() -> None:
    table = read_instructions(pa.Table.from_pylist(ROWS[:1]))
    assert table.to_pylist() == [{"video_id": "v.mp4"} | ROWS[0]] == read_instructions(ROWS[:1]).to_pylist()
    assert read_instructions(ROWS)["note"].to_pylist() == [7, None, None]
    for rows, said in (
        ([], "the instructions: the table is empty"),
        ([ROWS[0], ROWS[0]], "rows 1 and 2"),
        ([{"video_uri": "v.mp4"}], "column 'instruction_id' is missing"),
        ([ROWS[0] | {"note": 1}, ROWS[1] | {"note": "x"}], "a column has values of several types"),
    ):
        with pytest.raises(InstructionTableError, match=r"^the instructions: ") as caught:
            read_instructions(rows)
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)

"""Promises about the lengths of videos in a plan: read from headers, within bounds, and never at the plan's cost."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support import clips
from tests.support.label_runs import instruction, vrshq, write_table
from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.cli.terminal import console
from vrshq.pipelines.label.planning import lengths
from vrshq.pipelines.label.planning.costs import ASSUMED_FRAMES
from vrshq.pipelines.label.planning.lengths import frames_of, look_at_headers
from vrshq.pipelines.label.planning.plan import make_plan, on_machines
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import MANIFEST

SETTINGS = Settings.model_validate({"model": "untrained-tiny", "resources": {"device": "cpu"}})


def units(*videos: tuple[Path | str, int]) -> pa.Table:
    """Units of the given videos with the given numbers of instructions."""
    rows = [
        {"video_id": str(video), "video_uri": str(video), "instruction_ids": ["0"] * count} for video, count in videos
    ]
    columns = ("video_id", "video_uri", "instruction_ids", "start", "end")
    return pa.Table.from_pylist(rows, schema=pa.schema([MANIFEST.field(name) for name in columns]))


def corpus(folder: Path, *sizes: int) -> Path:
    """An instruction table over clips of the given lengths."""
    for number, frames in enumerate(sizes):
        clips.h264(folder / f"{number}.mp4", frames=frames, height=48, width=64)
    rows = [instruction(f"{number}.mp4", 0, "the block") for number in range(len(sizes))]
    return Path(write_table(folder / "table.jsonl", rows))


@pytest.mark.parametrize(
    "name", ["h264 mp4 b-frames", "h264 mkv b-frames", "vp9 webm", "mpeg4 avi b-frames", "mjpeg mov"]
)
def test_a_header_states_the_frames_of_each_container(tmp_path: Path, name: str) -> None:
    kind = clips.GOOD[name]
    assert frames_of(str(kind.make(tmp_path / f"clip{kind.suffix}"))) == 60


def test_a_transport_stream_is_estimated_and_a_stream_without_times_is_not(tmp_path: Path) -> None:
    found = frames_of(str(clips.GOOD["h264 ts b-frames"].make(tmp_path / "clip.ts")))
    assert found == pytest.approx(60, abs=3)
    assert frames_of(str(clips.GOOD["h264 without times"].make(tmp_path / "clip.h264"))) is None


def test_frames_of_a_folder_are_counted_on_disk_and_in_a_store(tmp_path: Path) -> None:
    folder = clips.image_folder(tmp_path / "frames", ["0.jpg", "1.PNG", "2.webp"])
    (folder / "notes.txt").write_text("no frame")
    assert frames_of(str(folder)) == 3
    store = Folder(f"memory://{tmp_path.name}")
    for file in folder.iterdir():
        store.write_bytes(f"frames/{file.name}", file.read_bytes())
    store.write_bytes("clip.mp4", clips.h264(tmp_path / "clip.mp4", frames=17).read_bytes())
    assert frames_of(store.uri_of("frames")) == 3
    assert frames_of(store.uri_of("clip.mp4")) == 17


def test_what_has_no_header_is_left_out_and_web_servers_are_not_called(tmp_path: Path) -> None:
    good, empty, text = clips.h264(tmp_path / "a.mp4", frames=20), tmp_path / "empty.mp4", tmp_path / "text.mp4"
    empty.touch()
    text.write_text("no video")
    sample = units(
        (good, 1), (good, 3), (empty, 1), (text, 1), (tmp_path / "none.mp4", 1), ("http://127.0.0.1:9/v.mp4", 1)
    )
    found = look_at_headers(sample, 1)
    assert (found.looked, found.videos, found.frames, found.frame_instructions) == (1, 5, 20, 40)


def test_a_reader_that_dies_costs_what_it_had_not_read_yet(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = clips.h264(tmp_path / "a.mp4", frames=20)
    monkeypatch.setattr(
        lengths, "_COMMAND", "import os; print('[0, 20]'); print('[1, 2', end='', flush=True); os.abort()"
    )
    assert look_at_headers(units((path, 1), ("b.mp4", 1)), 1).frames == 20
    monkeypatch.setattr(lengths, "_COMMAND", "import time; print('[0, 20]', flush=True); time.sleep(60)")
    monkeypatch.setattr(lengths, "_START_SECONDS", 0.2)
    monkeypatch.setattr(lengths, "MOST_SECONDS", 0.8)
    assert look_at_headers(units((path, 1)), 1).looked <= 1
    monkeypatch.setattr(lengths, "_COMMAND", "raise SystemExit(1)")
    assert look_at_headers(units((path, 1)), 1).looked == 0
    assert look_at_headers(units(), 1).looked == 0


def test_no_header_is_read_beyond_the_bound(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = clips.h264(tmp_path / "a.mp4", frames=300)
    monkeypatch.setattr(lengths, "MOST_BYTES", 1024)
    with pytest.raises(OSError, match="larger than what may be read"):
        frames_of(str(path))


def test_at_most_so_many_videos_are_looked_at(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(lengths, "MOST_VIDEOS", 2)
    paths = [clips.h264(tmp_path / f"{number}.mp4", frames=10) for number in range(4)]
    found = look_at_headers(units(*((path, 1) for path in paths)), 1)
    assert (found.looked, found.videos, found.frames) == (2, 4, 10)


def test_three_corpora_of_different_lengths_get_plans_in_proportion(tmp_path: Path) -> None:
    """Without headers all three would be planned as 100 frames a video."""
    seconds = {}
    for name, sizes in {"short": (4, 6), "medium": (100, 80), "long": (400, 600)}.items():
        (tmp_path / name).mkdir()
        plan = make_plan(str(corpus(tmp_path / name, *sizes)), str(tmp_path / "run"), SETTINGS, shown=True)
        assert plan.expected is not None
        assert (plan.expected.frames, plan.expected.known) == (sum(sizes) / 2, False)
        seconds[name] = plan.expected.seconds["propagate"]
    assert seconds["medium"] == pytest.approx(18 * seconds["short"])
    assert seconds["long"] == pytest.approx(100 * seconds["short"])


def test_the_plan_says_how_many_headers_it_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(console, "width", 500)
    table = str(corpus(tmp_path, 30, 10))
    run = ("--output", str(tmp_path / "run"), "--model", "untrained-tiny")
    arguments = ("plan", table, *run, "--set", "resources.device=cpu")
    assert "of a unit of 20 frames (headers of 2 of 2 videos); python" in vrshq(*arguments).stdout
    for path in tmp_path.glob("*.mp4"):
        path.write_text("no video")
    assert f"of a unit of {ASSUMED_FRAMES} frames (assumed); python" in vrshq(*arguments).stdout


def test_nobody_pays_for_a_plan_that_nobody_reads(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    looked: list[Any] = []
    monkeypatch.setattr("vrshq.pipelines.label.planning.plan.look_at_headers", lambda *given: looked.append(given))
    plan = make_plan(str(corpus(tmp_path, 3)), str(tmp_path / "run"), SETTINGS)
    assert on_machines(plan, plan.machines).lengths is None
    assert looked == []


def test_only_the_labelled_frames_of_a_video_count(tmp_path: Path) -> None:
    path = clips.h264(tmp_path / "a.mp4", frames=31)
    whole = units((path, 2))
    span = whole.set_column(whole.column_names.index("start"), "start", pa.array([11], pa.int32()))
    past = span.set_column(span.column_names.index("end"), "end", pa.array([99], pa.int32()))
    assert [look_at_headers(rows, every).frames for rows, every in ((whole, 1), (whole, 5), (span, 1), (past, 5))] == [
        *(31, 7, 20, 4)
    ]
    assert look_at_headers(past, 5).frame_instructions == 8


def test_where_every_length_counts_a_header_may_be_larger(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = str(clips.h264(tmp_path / "a.mp4", frames=300))
    monkeypatch.setattr(lengths, "MOST_BYTES", 1024)
    assert look_at_headers(units((path, 1)), 1).looked == 0
    assert lengths.lengths_of([path]) == {path: 300}

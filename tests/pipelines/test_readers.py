"""Each tool that reads a run lists each of its tables a fixed number of times, and opens the files of what it shows alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

import pytest

from tests.support.made_runs import Made, box, make_run, unit_id, write_benchmark
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory, part_name
from vrshq.pipelines.evaluate.datasets.base import Video
from vrshq.pipelines.evaluate.predictions import RunPredictions, open_predictions
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.export.answers import ExportSummary, read_answers
from vrshq.pipelines.label.tables.moved import VideoPlaces
from vrshq.pipelines.label.tables.opened import open_run
from vrshq.pipelines.report.run import write_report

VIDEOS = [f"v{number:02d}" for number in range(24)]
FRAMES = 2


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = Made("the box", [box(FRAMES, 48, 64)], {"sampled_frames": [0, 1]})
    return make_run(str(tmp_path / "run"), {name: ("/none.mp4", [made]) for name in VIDEOS})


class Seen:
    """What was listed and opened: `listed` by folder, `opened` by file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.listed: Counter[str] = Counter()
        self.opened: Counter[str] = Counter()
        for act, counts in (("list", self.listed), ("sizes", self.listed), ("read_bytes", self.opened)):
            done = getattr(Folder, act)

            def counted(
                folder: Folder,
                name: str = "",
                done: Callable[[Folder, str], object] = done,
                counts: Counter[str] = counts,
            ) -> object:
                counts[name] += 1
                return done(folder, name)

            monkeypatch.setattr(Folder, act, counted)
        open_read = Folder.open_read

        def opened(folder: Folder, name: str) -> BinaryIO:
            self.opened[name] += 1
            return open_read(folder, name)

        monkeypatch.setattr(Folder, "open_read", opened)

    def parts(self, table: str) -> set[str]:
        """The files of a table that were opened."""
        return {name for name in self.opened if name.startswith(f"{table}/")}


@pytest.fixture
def seen(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> Seen:  # noqa: ARG001 - counts after the run was made
    return Seen(monkeypatch)


def part(table: str, video: str) -> str:
    return part_name(table, unit_id(VIDEOS.index(video)))


def test_a_report_lists_each_table_once_and_opens_the_masks_that_it_shows(run: RunDirectory, seen: Seen) -> None:
    assert len(write_report(run.uri, limit=5)) == 6
    assert (seen.listed["tracks"], seen.listed["masks"]) == (1, 1)
    assert len(seen.parts("masks")) == 5
    assert seen.opened["run.json"] == 2  # how videos are decoded, and the name of the model


def test_an_export_lists_each_table_once_and_opens_what_is_chosen(run: RunDirectory, seen: Seen) -> None:
    for chosen in (VIDEOS, VIDEOS[3:20:8]):
        seen.listed.clear()
        seen.opened.clear()
        summary = ExportSummary(run.uri, "test")
        answers = read_answers(run, summary, VideoPlaces(None, []), lambda video, _, chosen=chosen: video in chosen)  # type: ignore[misc]
        assert [(video.video_id, len(list(found))) for video, found in answers] == [(name, 1) for name in chosen]
        assert (seen.listed["tracks"], seen.listed["masks"]) == (1, 1)
        for table in ("tracks", "masks"):
            assert seen.parts(table) == {part(table, name) for name in chosen}


def test_predictions_of_videos_list_each_table_once(run: RunDirectory, seen: Seen) -> None:
    predictions = open_predictions(run.uri)
    for name in VIDEOS[:4]:
        found = predictions.of(Video(name, tuple(map(str, range(FRAMES))), (), "/none"))
        assert found is not None
        assert sum(mask is not None for mask in found["0"].masks) == FRAMES
    assert (seen.listed["tracks"], seen.listed["masks"]) == (1, 1)
    assert seen.parts("masks") == {part("masks", name) for name in VIDEOS[:4]}


def test_predictions_of_a_smaller_benchmark_cost_its_own_videos(run: RunDirectory, seen: Seen) -> None:
    chosen = [*VIDEOS[5:20:7], "of another run"]
    predictions = open_predictions(run.uri, videos=chosen)
    assert isinstance(predictions, RunPredictions)
    assert sorted(predictions.tracks) == chosen[:-1]
    assert seen.parts("tracks") == {part("tracks", name) for name in chosen[:-1]}


def test_an_evaluation_of_a_smaller_benchmark_opens_each_file_of_its_own_videos_once(
    run: RunDirectory, seen: Seen, tmp_path: Path
) -> None:
    chosen = VIDEOS[5:20:7]
    (tmp_path / "truth").mkdir()
    write_benchmark(tmp_path / "truth", chosen, box(FRAMES, 48, 64))
    done = evaluate("revos", str(tmp_path / "truth"), str(tmp_path / "out"), predictions=run.uri, use_ray=False)
    assert done.scores is not None
    assert done.scores["reproduce"]["model"]["frames_seen"] == {"least": 2, "most": 2, "mean": 2.0}
    for table in ("tracks", "masks"):
        assert {name: seen.opened[name] for name in seen.parts(table)} == {part(table, name): 1 for name in chosen}


def test_masks_of_an_open_run_cost_a_listing_and_the_units_that_are_asked_for(run: RunDirectory, seen: Seen) -> None:
    opened = open_run(run.uri)
    for name in VIDEOS[:4]:
        assert len(opened.masks(name, "0")) == FRAMES
    assert (seen.listed["tracks"], seen.listed["masks"]) == (0, 1)
    assert seen.parts("masks") == {part("masks", name) for name in VIDEOS[:4]}


def test_what_tracks_say_is_finished_has_its_masks(run: RunDirectory) -> None:
    late = unit_id(0)
    stored = {name: run.folder.read_bytes(part_name(name, late)) for name in ("masks", "tracks")}
    run.forget([late])
    opened = open_run(run.uri)
    assert len(opened.masks(VIDEOS[1], "0")) == FRAMES
    assert len(opened.masks(VIDEOS[0], "0")) == 0
    for name, content in stored.items():  # as a run does that goes on meanwhile
        run.folder.write_bytes(part_name(name, late), content)
    assert opened.tracks().num_rows == len(VIDEOS)
    assert len(opened.masks(VIDEOS[0], "0")) == FRAMES

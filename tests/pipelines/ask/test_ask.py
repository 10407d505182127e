"""Promises of `vrshq ask`: one video and some sentences give a run like any other, an overlay and a sheet for each."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import av
import pytest

import vrshq
from tests.support import clips
from tests.support.fault_kit import checksums
from tests.support.label_runs import content
from tests.support.label_runs import vrshq as command
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.pipelines.ask.run import ask
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.watcher import Watcher

SETTINGS = Settings(model="untrained-tiny")
TEXTS = ["the block", "What moves?"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clips.h264(tmp_path_factory.mktemp("clip") / "cups.mp4", frames=5)


@pytest.fixture(scope="module")
def asked(clip: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run directory after one call."""
    output = tmp_path_factory.mktemp("asked") / "run"
    ask(str(clip), TEXTS, str(output), SETTINGS)
    return output


def test_the_run_is_like_one_of_a_table_and_each_text_has_an_overlay_and_a_sheet(
    clip: Path, asked: Path, tmp_path: Path
) -> None:
    tracks = {row["text"]: row for row in content(str(asked))["tracks"]}
    assert set(tracks) == set(TEXTS)
    rows = [
        {"video_uri": str(clip), "video_id": "cups.mp4", "instruction_id": tracks[text]["instruction_id"], "text": text}
        for text in TEXTS
    ]
    vrshq.label(rows, str(tmp_path / "run"), SETTINGS, use_ray=False)
    assert checksums(str(asked)) == checksums(str(tmp_path / "run"))
    for track in tracks.values():
        with av.open(str(asked / "overlays" / "cups.mp4" / f"{track['instruction_id']}.mp4")) as overlay:
            assert len(list(overlay.decode(video=0))) == 5
    assert len(list((asked / "report").glob("*.png"))) == 2


def test_another_text_is_added_and_one_that_was_asked_is_not_asked_again(clip: Path, asked: Path) -> None:
    before = {row["text"]: row for row in content(str(asked))["tracks"]}
    replies = ask(str(clip), ["the other one", TEXTS[0]], str(asked), SETTINGS)
    assert [reply.track["text"] for reply in replies] == ["the other one", TEXTS[0]]
    after = {row["text"]: row for row in content(str(asked))["tracks"]}
    assert set(after) == {*TEXTS, "the other one"}
    assert {text: after[text] for text in before} == before
    for reply in replies:
        assert reply.overlay
        assert Path(reply.overlay.removeprefix("file://")).is_file()
        assert 0 <= reply.share <= 1


def test_the_command_prints_what_came_of_each_text(clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = command("ask", str(clip), "the block", "", "--model", "untrained-tiny", "--every", "2", "--start", "1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == f"{clip}: 2 texts, into ask-cups"
    (block,) = [lines[place + 1] for place, line in enumerate(lines) if line == "the block"]
    assert block.startswith(("  ok, presence ", "  empty, presence "))
    assert "keyframe " in block
    assert block.endswith("% of the frames")
    (empty,) = [lines[place + 1] for place, line in enumerate(lines) if line == "(no text)"]
    assert empty.startswith("  error: InputError: ")
    tracks = {row["text"]: row for row in content("ask-cups")["tracks"]}
    assert (tracks["the block"]["start"], tracks["the block"]["every"]) == (1, 2)
    assert lines[-1] == "tables in ask-cups, all sheets in ask-cups/report.html"


def test_a_video_that_cannot_be_read_is_said_and_ends_with_code_3(tmp_path: Path) -> None:
    done = command(
        "ask", str(tmp_path / "none.mp4"), "it", "--model", "untrained-tiny", "--output", str(tmp_path / "run")
    )
    assert done.returncode == 3, done.stderr
    assert "  error: InputError: " in done.stdout
    assert "none.mp4" in done.stdout


def test_masks_are_counted_while_a_unit_is_worked_on(tmp_path: Path) -> None:
    class Heard(Watcher):
        told: ClassVar[list[tuple[int, float]]] = []

        def works(self, masks: int, seconds: float) -> None:
            self.told.append((masks, seconds))

    video = clips.h264(tmp_path / "long.mp4", frames=60)
    ask(str(video), TEXTS, str(tmp_path / "run"), SETTINGS, watcher=Heard())
    counts = [masks for masks, _ in Heard.told]
    assert counts == sorted(counts)
    assert 0 < counts[-1] <= 2 * 60
    assert [round(seconds) for _, seconds in Heard.told] == sorted(round(seconds) for _, seconds in Heard.told)


def test_ctrl_c_leaves_a_whole_run_directory_that_the_same_line_continues(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "run"
    line = ["ask", str(clip), *TEXTS, "--output", str(output), "--model", "untrained-tiny"]

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Segmenter, "track", interrupted)
        stopped = command(*line)
    assert stopped.returncode == 130
    assert "0 of 1 units are finished" in stopped.stderr
    assert vrshq.open_run(str(output)).tracks().num_rows == 0
    assert command(*line).returncode == 0
    ask(str(clip), TEXTS, str(tmp_path / "whole"), SETTINGS)
    assert checksums(str(output)) == checksums(str(tmp_path / "whole"))

"""A long video is stored window by window: flat memory, an interruption costs a window, and the tables are the same."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support import clips
from tests.support.label_runs import content, instruction, write_table
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.schema import MASKS
from vrshq.pipelines.label.settings import Settings

FRAMES, WINDOW = 23, 5
COUNT = -(-FRAMES // WINDOW)
ORDER = [("instruction_id", "ascending"), ("object_id", "ascending"), ("frame_index", "ascending")]


class Killed(BaseException):
    """The process ends here: nothing below `BaseException` catches it."""


def settings(window: int = WINDOW, **more: Any) -> Settings:
    resources = {"window_frames": window, "compact": False, **more}
    return Settings.model_validate({"model": "untrained-tiny", "resources": resources})


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three instructions on one video; the last one fails."""
    folder = tmp_path_factory.mktemp("video")
    clips.h264(folder / "a.mp4", frames=FRAMES)
    rows = [instruction("a.mp4", number, text) for number, text in enumerate(["the left block", "a dark one", " "])]
    return write_table(folder / "table.jsonl", rows)


@pytest.fixture(scope="module")
def undisturbed(table: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    label(table, str(output), settings(), use_ray=False)
    return output


def masks(run: Path) -> pa.Table:
    return RunDirectory(str(run)).read("masks", MASKS)


def parts(run: Path) -> list[str]:
    return sorted(path.name.rpartition("-")[2] for path in (run / "masks").iterdir())


def test_windows_hold_the_rows_of_the_whole_unit_and_no_state_is_left(
    table: str, undisturbed: Path, tmp_path: Path
) -> None:
    label(table, str(tmp_path / "whole"), settings(window=FRAMES), use_ray=False)
    assert parts(undisturbed) == [f"{number:05}.parquet" for number in range(COUNT)]
    assert len(parts(tmp_path / "whole")) == 1
    assert masks(undisturbed).sort_by(ORDER).equals(masks(tmp_path / "whole").sort_by(ORDER))
    rest = ["tracks", "tokens", "errors"]
    found, expected = content(str(undisturbed)), content(str(tmp_path / "whole"))
    assert {name: found[name] for name in rest} == {name: expected[name] for name in rest}
    assert not list(undisturbed.glob("state/*/*"))


class Interruptions:
    """Ends the command at some of its writes of windows and states, in the middle of it or right after it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left = 0
        self.after = False
        self.names: list[str] = []
        write = Folder.write_bytes

        def interrupted(folder: Folder, name: str, data: bytes) -> None:
            if not (name.startswith("state/") or clips_of_windows(name)):
                write(folder, name, data)
                return
            self.left -= 1
            if self.left or self.after:
                write(folder, name, data)
                self.names.append(name.rpartition("/")[2].rpartition("-")[2])
            if not self.left:
                raise Killed

        monkeypatch.setattr(Folder, "write_bytes", interrupted)

    def next(self, writes: int, *, after: bool) -> None:
        self.left, self.after = writes, after


def clips_of_windows(name: str) -> bool:
    return name.startswith("masks/part-") and name.count("-") == 2


@pytest.mark.parametrize("after", [False, True], ids=["before a write", "after a write"])
def test_an_interruption_costs_a_window_and_the_tables_are_bit_equal(
    table: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, after: bool
) -> None:
    encoded: Counter[str] = Counter()
    encode: Callable[..., Any] = Segmenter.encode

    def counted(network: Segmenter, pixels: Any) -> Any:
        encoded["frames"] += len(pixels)
        return encode(network, pixels)

    monkeypatch.setattr(Segmenter, "encode", counted)
    interruptions, kills = Interruptions(monkeypatch), 0
    run = tmp_path / "run"
    for writes in [3, 7, 2, 4, 3, 3, 2, 100]:
        interruptions.next(writes, after=after)
        try:
            label(table, str(run), settings(), use_ray=False)
        except Killed:
            kills += 1
        else:
            break
    assert kills >= 6
    assert masks(run).equals(masks(undisturbed))
    assert content(str(run)) == content(str(undisturbed))
    assert not list(run.glob("state/*/*"))
    assert encoded["frames"] <= FRAMES + (kills + 2) * (WINDOW + 12)


def test_a_window_is_written_once_in_each_direction_and_the_state_after_it(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    interruptions = Interruptions(monkeypatch)
    label(table, str(tmp_path / "run"), settings(), use_ray=False)
    print(interruptions.names)

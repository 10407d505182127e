"""A long video is stored window by window: flat memory, an interruption costs a window, and the tables are the same."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from tests.support import clips
from tests.support.label_runs import content, instruction, write_table
from vrshq.cluster.ray import guard
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.pipelines.label.error_policy import ErrorPolicy
from vrshq.pipelines.label.planning import bill
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import MASKS

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
def undisturbed(table: str, written: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("undisturbed") / "run"
    with pytest.MonkeyPatch.context() as patch:
        watched = Interruptions(patch)
        label(table, str(output), settings(), use_ray=False)
    written += watched.names
    return output


@pytest.fixture(scope="module")
def written() -> list[str]:
    """Names of the windows and states that the undisturbed run writes, in order."""
    return []


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
    for one, other in zip(found["tracks"], expected["tracks"], strict=True):
        # CLIP sees batches of a window, and the size of a batch may change the last bits
        assert one.pop("clip_probs") == pytest.approx(other.pop("clip_probs"), abs=1e-6)
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
            if not (name.startswith("state/") or is_window(name)):
                write(folder, name, data)
                return
            self.left -= 1
            if self.left or self.after:
                write(folder, name, data)
                file = name.rpartition("/")[2]
                self.names.append(file.rpartition("-")[2] if file.startswith("part-") else file)
            if not self.left:
                raise Killed

        monkeypatch.setattr(Folder, "write_bytes", interrupted)

    def next(self, writes: int, *, after: bool) -> None:
        self.left, self.after = writes, after


def interrupted(table: str, run: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run that has stored some windows."""
    Interruptions(monkeypatch).next(COUNT + 8, after=True)
    with pytest.raises(Killed):
        label(table, str(run), settings(), use_ray=False)
    return run


def is_window(name: str) -> bool:
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


@pytest.mark.usefixtures("undisturbed")
def test_each_border_gives_the_unit_time_on_its_own_thread(
    table: str, written: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []
    monkeypatch.setattr(guard, "allow", lambda _: threads.append(threading.current_thread()))
    label(table, str(tmp_path / "run"), settings(), use_ray=False)
    assert set(threads) == {threading.current_thread()}
    borders = sum(name in ("prompts", "sweep") for name in written) + 2 * COUNT
    assert len(threads) == borders + 2, "and the opening and the open video"


@pytest.mark.usefixtures("undisturbed")
def test_a_window_is_written_once_in_each_direction_and_the_state_after_it(written: list[str]) -> None:
    kinds = ["clip" if name.startswith("clip-") else name.removesuffix(".parquet") for name in written]
    windows = [f"{number:05}" for number in range(COUNT)]
    assert kinds[: COUNT + 1] == ["windows.json", *["clip"] * COUNT]
    prompts = kinds.index("prompts")
    assert set(kinds[COUNT + 1 : prompts]) <= set(windows), "those of the keyframes"
    assert kinds[prompts : prompts + 2] == ["prompts", "unit.arrow"]
    swept, states = kinds[prompts + 2 :: 2], kinds[prompts + 3 :: 2]
    assert set(states) == {"sweep"}
    turn = swept.index(windows[-1]) + 1
    assert swept[:turn] == windows[windows.index(swept[0]) :]
    assert swept[turn:] == windows[: windows.index(swept[turn]) + 1][::-1]
    assert abs(len(written) - bill.WINDOW_WRITES * COUNT) <= 6


def test_a_unit_that_fails_in_the_middle_leaves_no_window_and_can_be_tried_again(
    table: str, undisturbed: Path, tmp_path: Path
) -> None:
    steps, track = 0, Segmenter.track

    def failing(*arguments: Any, **named: Any) -> Any:
        nonlocal steps
        steps += 1
        if steps == FRAMES // 2:
            raise ValueError("broken here")
        return track(*arguments, **named)

    run = tmp_path / "run"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Segmenter, "track", failing)
        label(table, str(run), settings(), use_ray=False)
    assert [row["message"] for row in content(str(run))["errors"]][:2] == ["broken here"] * 2
    assert not list(run.glob("masks/*"))
    assert not list(run.glob("state/*/*"))
    label(table, str(run), settings(), use_ray=False, errors=ErrorPolicy(retry=True))
    assert masks(run).equals(masks(undisturbed))


def test_a_run_with_another_length_of_windows_goes_on_with_the_one_that_it_has(
    table: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted(table, tmp_path / "run", monkeypatch)
    label(table, str(run), settings(window=2), use_ray=False)
    assert masks(run).equals(masks(undisturbed))


def test_windows_are_dropped_where_the_unit_is_no_long_one_any_more(
    table: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted(table, tmp_path / "run", monkeypatch)
    assert parts(run)
    label(table, str(run), settings(window=FRAMES, compact=True), use_ray=False)
    assert masks(run).sort_by(ORDER).equals(masks(undisturbed).sort_by(ORDER))
    assert len(parts(run)) == 1
    assert not list(run.glob("state/*/*"))


def test_windows_that_were_left_without_a_state_do_not_count(
    table: str, undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = interrupted(table, tmp_path / "run", monkeypatch)
    monkeypatch.undo()
    for left in run.glob("masks/*.parquet"):  # of an attempt in which another instruction has failed, too
        rows = pq.read_table(left)
        pq.write_table(rows.filter(pc.equal(rows["instruction_id"], "0")), left)
    for path in run.glob("state/*/*"):
        path.unlink()
    label(table, str(run), settings(), use_ray=False)
    assert content(str(run)) == content(str(undisturbed))

"""A very long video in pieces: one answer for the whole, made of those of its pieces, however the command ends meanwhile."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.support import clips
from tests.support.label_runs import content, instruction, write_table
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.lease import Lease, LeaseLostError
from vrshq.operators.batch import Failure
from vrshq.operators.tokens import Tokens
from vrshq.pipelines.label.error_policy import ErrorPolicy
from vrshq.pipelines.label.method import Split
from vrshq.pipelines.label.pieces import spans_of
from vrshq.pipelines.label.planning.lengths import lengths_of
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.watcher import Watcher
from vrshq.pipelines.label.work.joining import Joiner
from vrshq.pipelines.label.work.worker import UnitWorker

FRAMES, PIECE, OVERLAP = 40, 12, 4
SPANS = [(0, 17), (13, 30), (26, None)]  # 13, 13 and 14 frames, and what they share
OWN = [range(15), range(15, 28), range(28, 40)]
TEXTS = ["the left block", "a dark one", " "]


class Killed(BaseException):
    """The process ends here: nothing below `BaseException` catches it."""


def settings(**more: Any) -> Settings:
    resources = {"window_frames": 7, "compact": False}
    split = {"frames": PIECE, "overlap": OVERLAP}
    return Settings.model_validate({"model": "untrained-tiny", "resources": resources, "split": split, **more})


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Three instructions on a long video, of which the last one fails, and one on a short video."""
    folder = tmp_path_factory.mktemp("video")
    clips.h264(folder / "long.mp4", frames=FRAMES)
    clips.h264(folder / "short.mp4", frames=16)
    rows = [instruction("long.mp4", number, text) for number, text in enumerate(TEXTS)]
    return write_table(folder / "table.jsonl", [*rows, instruction("short.mp4", 0, TEXTS[0])])


@pytest.fixture(scope="module")
def run(table: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    output = str(tmp_path_factory.mktemp("run") / "run")
    label(table, output, settings(), use_ray=False)
    return output


@pytest.fixture(scope="module")
def apart(table: str, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, list[dict[str, Any]]]]:
    """The tables of each piece, labelled as a span of the video."""
    found = []
    for number, (start, end) in enumerate(SPANS):
        rows = [instruction("long.mp4", place, text, start=start, end=end) for place, text in enumerate(TEXTS)]
        folder = tmp_path_factory.mktemp(f"span{number}")
        label(rows, str(folder), settings(split={}), videos=str(Path(table).parent), use_ray=False)
        found.append(content(str(folder)))
    return found


def of_long(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [row for row in rows if row["video_id"] == "long.mp4"]


def test_every_frame_has_the_mask_of_its_piece(run: str, apart: list[dict[str, list[dict[str, Any]]]]) -> None:
    expected = {
        (row["instruction_id"], row["frame_index"]): row
        for tables, own in zip(apart, OWN, strict=True)
        for row in tables["masks"]
        if row["frame_index"] in own
    }
    found = of_long(content(run)["masks"])
    assert [(row["instruction_id"], row["frame_index"]) for row in found] == [
        (one, frame) for one in "01" for frame in range(FRAMES)
    ]
    assert found == [expected[row["instruction_id"], row["frame_index"]] for row in found]


def test_the_video_has_one_row_for_each_instruction(run: str, apart: list[dict[str, list[dict[str, Any]]]]) -> None:
    tables = content(run)
    tracks = of_long(tables["tracks"])
    assert [(row["instruction_id"], row["status"]) for row in tracks] == [("0", "ok"), ("1", "ok"), ("2", "error")]
    for row, tokens in zip(tracks[:2], of_long(tables["tokens"]), strict=True):
        parts = [one for part in apart for one in part["tracks"] if one["instruction_id"] == row["instruction_id"]]
        sampled = [
            frame for part, own in zip(parts, OWN, strict=True) for frame in part["sampled_frames"] if frame in own
        ]
        assert row["sampled_frames"] == tokens["sampled_frames"] == sampled
        assert len(row["similarities"]) == len(row["object_scores"]) == len(sampled)
        assert len(tokens["seg"]) == tokens["d"] * len(sampled)
        assert (row["start"], row["end"], row["num_frames"]) == (0, FRAMES, FRAMES)
        assert row["presence"] == max(part["presence"] for part in parts)
        assert row["keyframe_index"] in [part["keyframe_index"] for part in parts]
        assert len(row["clip_probs"]) == FRAMES
        assert row["notes"].startswith("joined from 3 pieces, whose masks agree by ")
    (error,) = of_long(tables["errors"])
    assert error["message"].startswith("piece 1 of 3: empty instruction text")
    assert [row["video_id"] for row in tables["tracks"]] == ["long.mp4"] * 3 + ["short.mp4"]
    assert not list(Path(run, "state").glob("**/*.*"))


def test_a_video_that_is_not_cut_is_as_without_the_setting(table: str, run: str, tmp_path: Path) -> None:
    label(table, str(tmp_path), settings(split={}), use_ray=False)
    found, expected = content(run), content(str(tmp_path))
    for name in ("masks", "tracks", "tokens"):
        short = [[row for row in one[name] if row["video_id"] == "short.mp4"] for one in (found, expected)]
        assert short[0] == short[1]


def test_killed_again_and_again_the_tables_are_the_same_and_no_piece_is_done_twice(
    table: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    left, done = [0], Counter[str]()
    write = Folder.write_bytes

    def killing(folder: Folder, name: str, data: bytes) -> None:
        write(folder, name, data)
        if name.startswith("tracks/"):
            done[name] += 1
        left[0] -= 1
        if not left[0]:
            raise Killed

    monkeypatch.setattr(Folder, "write_bytes", killing)
    kills = 0
    for writes in [1, 2, 3, 5, 9, 7, 4, 8, 6, 200]:
        left[0] = writes
        try:
            label(table, str(tmp_path), settings(), use_ray=False)
        except Killed:
            kills += 1
        else:
            break
    assert kills >= 6
    assert content(str(tmp_path)) == content(run)
    assert set(done.values()) == {1}


@pytest.mark.ray
def test_on_ray_the_tables_are_those_of_the_loop(table: str, run: str, tmp_path: Path) -> None:
    label(table, str(tmp_path), settings())
    assert content(str(tmp_path)) == content(run)


def test_a_header_that_promises_more_frames_than_there_are_costs_no_answer(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def doubled(uris: Sequence[str]) -> dict[str, int]:
        return {uri: 2 * count for uri, count in lengths_of(uris).items()}

    monkeypatch.setattr("vrshq.pipelines.label.pieces.lengths_of", doubled)
    label(table, str(tmp_path), settings(), use_ray=False)
    found = content(str(tmp_path))
    assert Counter(row["status"] for row in of_long(found["tracks"])) == {"ok": 2, "error": 1}
    assert [row["frame_index"] for row in of_long(found["masks"])] == [*range(FRAMES)] * 2


def test_a_piece_that_fails_is_named_and_can_be_tried_again(
    table: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work: Callable[..., Any] = UnitWorker._run

    def failing(worker: UnitWorker, batch: Any, operators: Any) -> Any:
        if batch["start"][0] == SPANS[1][0]:
            raise RuntimeError("broken here")
        return work(worker, batch, operators)

    with monkeypatch.context() as patch:
        patch.setattr(UnitWorker, "_run", failing)
        label(table, str(tmp_path), settings(), use_ray=False)
    tables = content(str(tmp_path))
    assert {row["status"] for row in of_long(tables["tracks"])} == {"error"}
    assert "piece 2 of 3: given up after 1 attempt: " in of_long(tables["errors"])[0]["message"]
    label(table, str(tmp_path), settings(), use_ray=False, errors=ErrorPolicy(retry=True))
    assert content(str(tmp_path)) == content(run)


@pytest.mark.parametrize("gone", ["run.json", "masks/"])
def test_killed_while_the_pieces_are_removed_nothing_goes_on_from_the_rest(
    gone: str, table: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pieces that lost their masks and are taken for finished would give empty masks."""
    join, remove_all = Joiner.join, Folder.remove_all

    def failing(*_: Any) -> Any:
        raise RuntimeError("broken here")

    def killed(folder: Folder, names: Iterable[str]) -> None:
        names = [*names]
        if any(name.startswith("state/pieces/") for name in names):
            remove_all(folder, [name for name in names if gone in name])
            raise Killed
        remove_all(folder, names)

    rows = [instruction("long.mp4", number, text) for number, text in enumerate(TEXTS[:2])]
    how: dict[str, Any] = {"videos": str(Path(table).parent), "use_ray": False}
    monkeypatch.setattr(Joiner, "join", failing)
    monkeypatch.setattr(Folder, "remove_all", killed)
    with pytest.raises(Killed):
        label(rows, str(tmp_path), settings(), **how)
    monkeypatch.setattr(Joiner, "join", join)
    monkeypatch.setattr(Folder, "remove_all", remove_all)
    label(rows, str(tmp_path), settings(), **how, errors=ErrorPolicy(retry=True))
    expected = [row["rle"] for row in of_long(content(run)["masks"])]
    assert [row["rle"] for row in content(str(tmp_path))["masks"]] == expected


def test_windows_of_an_earlier_join_do_not_count(
    table: str, run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A join is killed when an instruction has failed in a piece, which is tried again by the next command."""
    read, write = Tokens._tokens, Folder.write_bytes

    def failing(stage: Tokens, unit: dict[str, Any]) -> dict[str, Any]:
        made = read(stage, unit)
        if unit["start"] == SPANS[1][0]:
            made["errors"][1] = Failure(stage="tokens", error_type="RuntimeError", message="broken here")
        return made

    def killing(folder: Folder, name: str, data: bytes) -> None:
        write(folder, name, data)
        if folder.uri == str(tmp_path) and name.endswith("-00001.parquet"):
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(Tokens, "_tokens", failing)
        patch.setattr(Folder, "write_bytes", killing)
        with pytest.raises(Killed):
            label(table, str(tmp_path), settings(), use_ray=False)
    label(table, str(tmp_path), settings(), use_ray=False, errors=ErrorPolicy(retry=True))
    assert content(str(tmp_path)) == content(run)


def test_a_command_that_lost_the_run_ends_after_the_piece_at_work(
    table: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check, done = Lease.check, []

    def lost(lease: Lease) -> None:
        if lease._folder.uri == str(tmp_path):
            raise LeaseLostError("taken over")
        check(lease)

    class Counting(Watcher):
        def waits(self, reason: str) -> None:
            done.extend([reason] if "pieces" in reason else [])

    monkeypatch.setattr(Lease, "check", lost)
    with pytest.raises(LeaseLostError):
        label(table, str(tmp_path), settings(), use_ray=False, watcher=Counting())
    assert done == ["1 of 3 pieces of 1 long video"]


@pytest.mark.parametrize(
    ("start", "end", "every", "whole"),
    [(None, None, 1, 1000), (7, 900, 3, 1000), (10, 5000, 1, 997), (0, None, 4, 333)],
)
@pytest.mark.parametrize("frames", [2, 10, 48])
def test_pieces_are_equally_long_and_share_what_they_should(
    start: int | None, end: int | None, every: int, whole: int, frames: int
) -> None:
    split = Split(frames=frames, overlap=5)
    numbers = range(start or 0, min(end or whole, whole), every)
    spans = [
        range(first, whole if last is None else min(last, whole), every)
        for first, last in spans_of({"start": start, "end": end}, whole, every, split)
    ]
    assert len(spans) == round(len(numbers) / frames)
    assert sorted(set().union(*spans)) == list(numbers)
    lengths = [len(span) for span in spans]
    assert max(lengths[:-2], default=0) - min(lengths[:-2], default=0) <= 1
    shared = [len(set(one) & set(other)) for one, other in itertools.pairwise(spans)]
    assert shared[:-3] == [5] * len(shared[:-3]) or frames < 5


@pytest.mark.parametrize(("whole", "frames"), [(None, 10), (14, 10), (1000, None)])
def test_what_is_not_long_or_not_known_is_not_cut(whole: int | None, frames: int | None) -> None:
    assert spans_of({"start": None, "end": None}, whole, 1, Split(frames=frames)) == []

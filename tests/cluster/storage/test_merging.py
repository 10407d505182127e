"""Promises of compaction: the same rows in fewer files, whatever kills it and whenever."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.support.faulty_proxy import FaultyProxy
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.cluster.storage import deleting, folder, merging
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.merging import Group, merge
from vrshq.cluster.storage.run_directory import RunDirectory

MASKS = pa.schema([("video", pa.string()), ("frame", pa.int32()), ("rle", pa.binary())])
TRACKS = pa.schema([("video", pa.string()), ("status", pa.string())])
UNITS = [f"{number * 7919 % 257:04x}" for number in range(23)]  # no order of names
FAILED = {UNITS[3], UNITS[11]}


def fill(run: RunDirectory, units: list[str]) -> None:
    for number, unit in enumerate(UNITS):
        if unit in units:
            video = f"video {number:02d}"
            frames = [{"video": video, "frame": frame, "rle": bytes([frame]) * number} for frame in range(number % 5)]
            status = "error" if unit in FAILED else "ok"
            tables = {
                "masks": pa.Table.from_pylist(frames, schema=MASKS),
                "tracks": pa.table({"video": [video], "status": [status]}, schema=TRACKS),
            }
            if unit in FAILED:
                tables["errors"] = pa.table({"video": [video], "status": ["why"]}, schema=TRACKS)
            run.commit_unit(unit, tables)


def content(run: RunDirectory) -> tuple[list[object], list[object]]:
    masks = run.read("masks", MASKS).sort_by([("video", "ascending"), ("frame", "ascending")])
    return masks.to_pylist(), run.read("tracks", TRACKS).sort_by("video").to_pylist()


def by_pattern(folder: str, table: str) -> list[str]:
    """The videos that a query engine sees which reads all Parquet files of the table's folder."""
    files = sorted(Path(folder, table).glob("*.parquet"))
    return [row["video"] for file in files for row in pq.read_table(file).to_pylist()]


def test_a_complete_run_becomes_one_file_a_table_in_the_order_of_the_manifest(place: str) -> None:
    run = RunDirectory(place)
    fill(run, UNITS)
    before = content(run)
    assert run.compact(UNITS, to_the_end=True) == {"masks": (16, 1), "tracks": (21, 1), "tokens": (0, 0)}
    assert content(run) == before
    names = run.folder.list("tracks")
    assert len(names) == 3  # the merged one, and those of the two units that failed
    merged = next(name for name in names if "merged" in name)
    with run.folder.open_read(merged) as file:
        videos = pq.read_table(file)["video"].to_pylist()
    assert videos == sorted(videos)
    assert len(videos) == 21
    assert run.finished_units() == set(UNITS)
    assert run.errored_units() == FAILED
    assert run.compact(UNITS, to_the_end=True) == {"masks": (0, 0), "tracks": (0, 0), "tokens": (0, 0)}
    assert content(run) == before


def test_while_units_are_missing_small_remainders_stay_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(str(tmp_path))
    fill(run, UNITS[:20])
    assert run.compact(UNITS, to_the_end=False) == {"masks": (0, 0), "tracks": (0, 0), "tokens": (0, 0)}
    size = run.folder.sizes("tracks")[f"tracks/part-{UNITS[0]}.parquet"]
    monkeypatch.setattr(merging, "TARGET_BYTES", 4 * size)
    parts, files = run.compact(UNITS, to_the_end=False)["tracks"]
    assert (parts, files) == (16, 4)
    fill(run, UNITS[20:])
    before = content(run)
    run.compact(UNITS, to_the_end=True)
    assert content(run) == before
    assert sorted(by_pattern(str(tmp_path), "tracks")) == [f"video {number:02d}" for number in range(23)]


def test_rows_of_single_units_come_from_their_row_groups_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunDirectory(str(tmp_path))
    fill(run, UNITS)
    wanted = [[UNITS[4]], [UNITS[9], UNITS[22]], [UNITS[3], UNITS[5]], ["ffff"], []]
    before = [run.read("masks", MASKS, unit_ids=units).sort_by("video").to_pylist() for units in wanted]
    assert [len(rows) for rows in before] == [4, 6, 3, 0, 0]
    monkeypatch.setattr(merging, "_ROW_GROUP_BYTES", 100)
    run.compact(UNITS, to_the_end=True)
    merged = next(Path(tmp_path, "masks").glob("merged*"))
    assert pq.ParquetFile(merged).num_row_groups > 3
    after = [run.read("masks", MASKS, unit_ids=units).sort_by("video").to_pylist() for units in wanted]
    assert after == before


class Killed(BaseException):
    """As a SIGKILL: nobody catches it."""


def test_killed_at_any_point_nothing_is_lost_or_twice_and_the_next_call_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_READERS", 1)
    monkeypatch.setattr(folder, "_REMOVERS", 1)
    original = RunDirectory(str(tmp_path / "original"))
    units = UNITS[:13]
    fill(original, units)
    size = original.folder.sizes("tracks")[f"tracks/part-{UNITS[0]}.parquet"]
    monkeypatch.setattr(merging, "TARGET_BYTES", 5 * size)
    before = content(original)
    kills = 0
    while True:
        run = RunDirectory(str(shutil.copytree(tmp_path / "original", tmp_path / str(kills), copy_function=os.link)))
        left = [kills]
        with monkeypatch.context() as patch:
            for act in ("write_bytes", "write_file", "remove"):
                done = getattr(Folder, act)

                def counted(self: Folder, *given: object, done: object = done, left: list[int] = left) -> None:
                    if left[0] == 0:
                        raise Killed
                    left[0] -= 1
                    done(self, *given)  # type: ignore[operator]

                patch.setattr(Folder, act, counted)
            try:
                run.compact(units, to_the_end=True)
                break
            except Killed:
                pass
        assert content(run) == before
        assert (run.finished_units(), run.errored_units()) == (set(units), FAILED)
        run.compact(units, to_the_end=True)
        assert content(run) == before
        for table in ("masks", "tracks"):
            videos = by_pattern(str(tmp_path / str(kills)), table)
            assert sorted(videos) == sorted(by_pattern(str(tmp_path / "original"), table))
        kills += 1
    assert kills > 30


def test_killed_in_a_request_that_removes_many_parts_nothing_is_lost_or_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kills = (0, 7, 16)  # parts that the store removed before the kill
    for removed in kills:
        fill(RunDirectory(str(tmp_path / S3_BUCKET / str(removed))), UNITS)
    before = content(RunDirectory(str(tmp_path / S3_BUCKET / "0")))
    with S3Server(tmp_path) as server, server.reached():
        for removed in kills:
            run = RunDirectory(f"s3://{S3_BUCKET}/{removed}")

            def cut(fs: object, paths: Sequence[str], removed: int = removed) -> None:
                if removed:
                    deleting.delete_objects(fs, paths[:removed])
                raise Killed

            with monkeypatch.context() as patch:
                patch.setattr(folder, "delete_objects", cut)
                with pytest.raises(Killed):
                    run.compact(UNITS, to_the_end=True)
            assert len(run.folder.list("masks")) == 1 + 16 - removed + len(FAILED)
            assert content(run) == before
            assert run.compact(UNITS, to_the_end=True) == {"masks": (0, 0), "tracks": (21, 1), "tokens": (0, 0)}
            assert content(run) == before
            assert len(run.folder.list("masks")) == 1 + len(FAILED)


def test_a_compaction_lists_each_folder_once_and_removes_parts_by_the_thousand(tmp_path: Path) -> None:
    with S3Server(tmp_path) as server, FaultyProxy(server.port) as proxy, server.reached(proxy.port):
        run = RunDirectory(f"s3://{S3_BUCKET}/run")
        fill(RunDirectory(str(tmp_path / S3_BUCKET / "run")), UNITS)
        proxy.counts.clear()
        run.compact(UNITS, to_the_end=True)
        kinds = Counter(
            (method, "part-" in path) for (method, path), times in proxy.counts.items() for _ in range(times)
        )
    # GET: errors, masks, tracks, tokens, ledger are listed; 16 parts of masks and 21 of tracks are read. PUT: three files each.
    # POST: the parts of two tables are removed.
    assert kinds == {("GET", False): 5, ("GET", True): 37, ("PUT", False): 6, ("POST", False): 2}


def test_a_compaction_that_may_not_go_on_ends_before_it_writes_or_removes(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    fill(run, UNITS)
    before = parts = run.folder.list()

    class LostError(Exception):
        """Another command has the run."""

    def check() -> None:
        left.pop()
        if not left:
            raise LostError

    # at the start; before the plan of each table; before work begins; before the first part; before its parts are removed
    for allowed, written in ((1, 0), (2, 0), (3, 1), (4, 1), (5, 0), (4 + 16 + 1 + 1, 2)):
        left = [0] * allowed
        with pytest.raises(LostError):
            run.compact(UNITS, to_the_end=True, check=check)
        now = run.folder.list()
        before, added = now, len(now) - len(before)
        assert (added, set(parts) <= set(now)) == (written, True), allowed


def test_a_failed_unit_of_a_compacted_run_can_be_done_again(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    fill(run, UNITS)
    run.compact(UNITS, to_the_end=True)
    unit = UNITS[3]
    run.forget([unit])
    assert run.finished_units() == set(UNITS) - {unit}
    run.commit_unit(unit, {"tracks": pa.table({"video": ["video 03"], "status": ["ok"]}, schema=TRACKS)})
    tracks = run.read("tracks", TRACKS).sort_by("video").to_pylist()
    assert [row["status"] for row in tracks].count("error") == 1
    assert len(tracks) == 23


def test_a_process_that_outlives_its_lease_merges_no_unit_into_a_second_file(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path / "run"))
    fill(run, UNITS[:20])
    planned: list[Group] = []

    def begin(_: Folder, groups: Sequence[Group], __: object) -> Iterator[Group]:
        planned.extend(groups)
        raise Killed

    with pytest.raises(Killed):
        run.compact(UNITS[:20], to_the_end=True, spread=begin)
    late = RunDirectory(
        str(shutil.copytree(tmp_path / "run", tmp_path / "late"))
    )  # what such a process has read already
    fill(run, UNITS[20:])  # so that the next compaction would cut other groups
    before = content(run)
    assert run.compact(UNITS, to_the_end=True)["tracks"] == (21, 2)
    for group in planned:
        merge(late.folder, group)
        for name in (group.ledger, group.file):
            assert late.folder.read_bytes(name) == run.folder.read_bytes(name)
            run.folder.write_bytes(name, late.folder.read_bytes(name))
    assert content(run) == before
    run.compact(UNITS, to_the_end=True)
    assert content(run) == before
    assert sorted(by_pattern(run.uri, "tracks")) == [f"video {number:02d}" for number in range(23)]
    assert not any(name.endswith(".plan") for name in run.folder.list())


@pytest.mark.parametrize("way", ["read", "batches"])
def test_readers_see_each_unit_once_while_parts_are_merged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: str
) -> None:
    run = RunDirectory(str(tmp_path))
    fill(run, UNITS)
    before = run.read("tracks", TRACKS)["video"].to_pylist()
    sizes, read_bytes = Folder.sizes, Folder.read_bytes
    merged: list[str] = []

    def once(when: str) -> None:
        if not merged:
            merged.append(when)
            assert RunDirectory(run.uri).compact(UNITS, to_the_end=True)["tracks"] == (21, 1)

    def listed(self: Folder, prefix: str = "") -> dict[str, int]:
        """The first page is older than the compaction, the second newer."""
        found = sizes(self, prefix)
        if self is not run.folder or prefix != "tracks":
            return found
        once("while it is listed")
        there = sizes(self, prefix)
        return {name: size for place, (name, size) in enumerate(found.items()) if place < 9 or name in there}

    def read(self: Folder, name: str) -> bytes:
        if self is run.folder and UNITS[7] in name:
            once("while it is read")
        return read_bytes(self, name)

    for act, acting in (("sizes", listed), ("read_bytes", read)):
        for table in tmp_path.iterdir():
            shutil.rmtree(table)
        fill(run, UNITS)
        merged.clear()
        with monkeypatch.context() as patch:
            patch.setattr(Folder, act, acting)
            reader = run.reader("tracks", TRACKS)
            tables = [reader.read()] if way == "read" else [*reader.batches(TRACKS.names)]
        assert sorted(row["video"] for table in tables for row in table.to_pylist()) == sorted(before)
        assert len(merged) == 1

"""Several short units have their rows in one part a table: all are finished at one moment, and each counts once."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.faulty_proxy import FaultyProxy
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.cluster.storage import folder as folder_module
from vrshq.cluster.storage import merging
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory

ROWS = pa.schema([("unit", pa.string()), ("number", pa.int64())])
TABLES = ("masks", "tracks", "tokens")
UNITS = [f"{number * 7919 % 257:04x}" for number in range(12)]  # no order of names


def tables(unit: str) -> dict[str, pa.Table]:
    """As many rows of masks as the unit's place, which is none for the first; one of the others."""
    counts = {"masks": UNITS.index(unit), "tracks": 1, "tokens": 1}
    return {name: pa.table({"unit": [unit] * count, "number": range(count)}, ROWS) for name, count in counts.items()}


def together(run: RunDirectory, units: Sequence[str], call: Sequence[str] | None = None) -> None:
    run.commit_together(call or units, {unit: tables(unit) for unit in units})


def content(run: RunDirectory) -> dict[str, list[tuple[str, int]]]:
    """The rows of each table, which must be the same in whatever way they are read."""
    found = {}
    for name in TABLES:
        reader = run.reader(name, ROWS)
        ways = [reader.read(), pa.concat_tables([ROWS.empty_table(), *reader.batches(ROWS.names)])]
        ways.append(pa.concat_tables([ROWS.empty_table(), *(reader.read([unit]) for unit in UNITS)]))
        rows = [sorted(zip(way["unit"].to_pylist(), way["number"].to_pylist(), strict=True)) for way in ways]
        assert rows[0] == rows[1] == rows[2], name
        found[name] = rows[0]
    return found


def expected(units: Sequence[str]) -> dict[str, list[tuple[str, int]]]:
    return {
        name: sorted((unit, row) for unit in units for row in range(tables(unit)[name].num_rows)) for name in TABLES
    }


def leftovers(run: RunDirectory) -> list[str]:
    """The files that no complete and compacted run has. A single part may stay a part."""
    return [name for name in run.folder.list() if "shared" in name or name.endswith(".plan")]


def test_units_that_are_committed_together_cost_four_files_and_are_found_by_their_call(tmp_path: Path) -> None:
    with S3Server(tmp_path) as server, FaultyProxy(server.port) as proxy, server.reached(proxy.port):
        run = RunDirectory(f"s3://{S3_BUCKET}/run")
        kinds: list[Counter[str]] = []
        for way in ("one by one", "together"):
            proxy.counts.clear()
            if way == "together":
                together(run, UNITS[6:11], call=UNITS[6:])
            else:
                for unit in UNITS[1:6]:
                    run.commit_unit(unit, tables(unit))
            kinds.append(Counter())
            for (method, _), times in proxy.counts.items():
                kinds[-1][method] += times
        assert kinds == [Counter(PUT=15, DELETE=5), Counter(PUT=4, POST=1)]
        assert run.finished_among(UNITS[6:]) == set(UNITS[6:11])
        assert run.finished_among(UNITS[6:11]) == set()  # another call
        assert run.finished_units() == set(UNITS[1:11])
        assert content(run) == expected(UNITS[1:11])


class Killed(BaseException):
    """As a SIGKILL: nobody catches it."""


def dies_after(patch: pytest.MonkeyPatch, acts: int) -> None:
    """Raises Killed instead of the next but `acts` change of a folder."""
    left = [acts]
    for act in ("write_bytes", "write_file", "remove"):
        done = getattr(Folder, act)

        def counted(self: Folder, *given: object, done: object = done) -> None:
            if left[0] == 0:
                raise Killed
            left[0] -= 1
            done(self, *given)  # type: ignore[operator]

        patch.setattr(Folder, act, counted)


def test_killed_while_units_are_committed_none_or_all_are_finished(tmp_path: Path) -> None:
    seen = set()
    for acts in (8, 9, 11, 12):  # after the parts of errors are removed, of masks is written, of tracks, the ledger
        run = RunDirectory(str(tmp_path / str(acts)))
        run.commit_unit(UNITS[11], tables(UNITS[11]))
        with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Killed):
            patch.setattr(folder_module, "_REMOVERS", 1)
            dies_after(patch, acts)
            together(run, UNITS[:8])
        done = run.finished_units() - {UNITS[11]}
        seen.add(len(done))
        assert done in (set(), set(UNITS[:8]))
        assert content(run) == expected([*done, UNITS[11]])
        for unit in UNITS[:11]:  # other calls
            if unit not in done:
                run.commit_unit(unit, tables(unit))
        together(run, UNITS[3:6])  # of an actor that was thought dead
        assert content(run) == expected(UNITS)
        run.compact(UNITS, to_the_end=True)
        assert content(run) == expected(UNITS)
        assert leftovers(run) == []
    assert seen == {0, 8}


def test_killed_while_shared_parts_are_merged_nothing_is_lost_or_twice(tmp_path: Path) -> None:
    original = RunDirectory(str(tmp_path / "original"))
    together(original, UNITS[:4])
    together(original, [UNITS[3], *UNITS[5:7]])  # one unit is there twice
    original.commit_unit(UNITS[2], tables(UNITS[2]))
    for unit in UNITS[7:]:
        original.commit_unit(unit, tables(unit))
    failed = UNITS[4]
    original.commit_unit(
        failed, {name: tables(failed)[name] for name in ("tracks",)} | {"errors": tables(UNITS[1])["tracks"]}
    )
    before = content(original)
    assert before["tracks"] == expected(UNITS)["tracks"]
    kills = 0
    while True:
        run = RunDirectory(str(shutil.copytree(original.uri, tmp_path / str(kills), copy_function=os.link)))
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(folder_module, "_REMOVERS", 1)
            patch.setattr(merging, "_READERS", 1)
            patch.setattr(merging, "MOST_PARTS", 4)
            dies_after(patch, kills)
            try:
                run.compact(UNITS, to_the_end=True)
                break
            except Killed:
                pass
        assert content(run) == before
        run.compact(UNITS, to_the_end=True)
        assert content(run) == before
        assert leftovers(run) == []
        kills += 5
    assert kills > 30


def test_a_reader_follows_a_shared_part_that_is_merged_meanwhile(tmp_path: Path) -> None:
    for way in ("read", "unit", "batches"):
        run = RunDirectory(str(tmp_path / way))
        together(run, UNITS[:6])
        together(run, UNITS[6:])
        reader = run.reader("masks", ROWS)
        batches: Iterator[pa.Table] = iter(())
        first: list[pa.Table] = []
        if way == "batches":
            batches = reader.batches(ROWS.names)
            first = [next(batches)]
        else:
            reader.units()  # lists the table
        assert run.compact(UNITS, to_the_end=True)["tracks"] == (12, 1)
        read = reader.read() if way == "read" else reader.read(UNITS) if way == "unit" else None
        found = pa.concat_tables([*first, *batches]) if read is None else read
        assert (
            sorted(zip(found["unit"].to_pylist(), found["number"].to_pylist(), strict=True)) == expected(UNITS)["masks"]
        )

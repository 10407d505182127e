"""`TableReader` gives the rows of units as `RunDirectory.read` does, with one listing for many reads."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.cluster.storage.table_reader import TableReader

SCHEMA = pa.schema([("video_id", pa.string()), ("number", pa.int64())])
UNITS = [f"{number:04x}" for number in range(6)]


def rows(table: pa.Table) -> list[tuple[str, int]]:
    return sorted(zip(table["video_id"].to_pylist(), table["number"].to_pylist(), strict=True))


def expected(units: list[str]) -> list[tuple[str, int]]:
    return sorted((unit, number) for unit in units for number in range(3))


def write(run: RunDirectory, units: list[str]) -> None:
    for unit in units:
        table = pa.table({"video_id": [unit] * 3, "number": range(3)}, schema=SCHEMA)
        run.commit_unit(unit, {"tracks": table, "masks": table})


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    made = RunDirectory(str(tmp_path / "run"))
    write(made, UNITS[:4])
    return made


def test_units_are_read_from_parts_and_from_merged_files(run: RunDirectory) -> None:
    wanted = [UNITS[1], UNITS[3]]
    assert rows(TableReader(run, "masks", SCHEMA).read(wanted)) == expected(wanted)
    run.compact(UNITS[:4], to_the_end=True)
    write(run, UNITS[4:])
    reader = TableReader(run, "masks", SCHEMA)
    for units in (wanted, [UNITS[0], UNITS[5]], [UNITS[5]], []):
        assert rows(reader.read(units)) == expected(units)
    assert reader.read(wanted, ["number"]).column_names == ["number"]
    assert sorted(row for batch in reader.batches(SCHEMA.names) for row in rows(batch)) == expected(UNITS)


def test_a_compaction_meanwhile_is_no_failure(run: RunDirectory) -> None:
    reader = TableReader(run, "masks", SCHEMA)
    assert rows(reader.read(UNITS[:2])) == expected(UNITS[:2])
    run.compact(UNITS[:4], to_the_end=True)  # removes the parts that were listed
    assert rows(reader.read(UNITS[:2])) == expected(UNITS[:2])


def test_the_folder_is_listed_once_and_again_only_for_what_was_not_found(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings: list[str] = []
    listed = RunDirectory.listed

    def counted(self: RunDirectory, table_name: str) -> object:
        listings.append(table_name)
        return listed(self, table_name)

    monkeypatch.setattr(RunDirectory, "listed", counted)
    reader = TableReader(run, "masks", SCHEMA)
    for _ in range(3):
        reader.read(UNITS[:4])
    assert listings == ["masks"]
    write(run, UNITS[4:5])
    assert rows(reader.read([UNITS[4]])) == []  # the listing is fresh enough
    monkeypatch.setattr("vrshq.cluster.storage.table_reader.STALE_S", 0)
    assert rows(reader.read([UNITS[4]])) == expected([UNITS[4]])
    assert listings == ["masks"] * 2

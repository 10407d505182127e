"""A reader of a table gives the rows of units as they lie in parts and merged files, with one listing for many reads."""

from __future__ import annotations

import itertools
import pickle
import secrets
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from tests.support.faulty_proxy import FaultyProxy
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.cluster.storage import merging
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory

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
    assert rows(run.reader("masks", SCHEMA).read(wanted)) == expected(wanted)
    run.compact(UNITS[:4], to_the_end=True)
    write(run, UNITS[4:])
    reader = run.reader("masks", SCHEMA)
    for units in (wanted, [UNITS[0], UNITS[5]], [UNITS[5]], []):
        assert rows(reader.read(units)) == expected(units)
    assert reader.read(wanted, ["number"]).column_names == ["number"]
    assert sorted(row for batch in reader.batches(SCHEMA.names) for row in rows(batch)) == expected(UNITS)


def test_a_compaction_meanwhile_is_no_failure(run: RunDirectory) -> None:
    reader = run.reader("masks", SCHEMA)
    assert rows(reader.read(UNITS[:2])) == expected(UNITS[:2])
    run.compact(UNITS[:4], to_the_end=True)  # removes the parts that were listed
    assert rows(reader.read(UNITS[:2])) == expected(UNITS[:2])


def test_the_folder_is_listed_once_and_again_only_for_what_was_not_found(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    listings: list[str] = []
    sizes = Folder.sizes

    def counted(self: Folder, prefix: str = "") -> dict[str, int]:
        listings.append(prefix)
        return sizes(self, prefix)

    monkeypatch.setattr(Folder, "sizes", counted)
    reader = run.reader("masks", SCHEMA)
    for _ in range(3):
        reader.read(UNITS[:4])
    assert listings == ["masks"]
    write(run, UNITS[4:5])
    assert rows(reader.read([UNITS[4]])) == []  # the listing is fresh enough
    monkeypatch.setattr("vrshq.cluster.storage.table_reader.STALE_S", 0)
    monkeypatch.setattr("vrshq.cluster.storage.table_reader.STALE_TIMES", 1e9)
    assert rows(reader.read([UNITS[4]])) == []  # a listing that takes long is kept for long
    monkeypatch.setattr("vrshq.cluster.storage.table_reader.STALE_TIMES", 0)
    assert rows(reader.read([UNITS[4]])) == expected([UNITS[4]])
    assert listings == ["masks"] * 2


def test_units_lie_where_the_ledgers_say_whatever_the_row_groups(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(merging, "_ROW_GROUP_BYTES", 1)  # a row group for each unit
    run.compact(UNITS[:2], to_the_end=True)
    monkeypatch.setattr(merging, "_ROW_GROUP_BYTES", 1 << 20)  # one for all
    run.compact(UNITS[:4], to_the_end=True)
    write(run, UNITS[4:])
    reader = run.reader("masks", SCHEMA)
    assert reader.units() == set(UNITS)
    for count in range(len(UNITS) + 1):
        for units in itertools.combinations([*UNITS, "ffff"], count):
            assert rows(reader.read(units)) == expected([unit for unit in units if unit in UNITS])
    assert rows(reader.read()) == expected(UNITS)


def test_a_large_part_is_read_by_its_columns(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = []
    read_bytes = Folder.read_bytes

    def counted(self: Folder, name: str) -> bytes:
        whole.append(name)
        return read_bytes(self, name)

    monkeypatch.setattr(Folder, "read_bytes", counted)
    monkeypatch.setattr("vrshq.cluster.storage.table_reader._WHOLE_BYTES", 0)
    assert run.reader("masks", SCHEMA).read([UNITS[2]], ["number"]).to_pydict() == {"number": [0, 1, 2]}
    assert whole == []


def test_a_large_part_that_is_replaced_is_read_anew(run: RunDirectory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vrshq.cluster.storage.table_reader._WHOLE_BYTES", 0)
    reader = run.reader("masks", SCHEMA)
    assert rows(reader.read([UNITS[0]])) == expected([UNITS[0]])
    table = pa.table({"video_id": ["other"] * 9, "number": range(9)}, schema=SCHEMA)
    run.commit_unit(UNITS[0], {"tracks": table, "masks": table})
    assert rows(reader.read([UNITS[0]])) == [("other", number) for number in range(9)]


def test_a_reader_travels_to_other_processes(run: RunDirectory) -> None:
    reader = run.reader("masks", SCHEMA)
    reader.read([UNITS[0]])
    assert rows(pickle.loads(pickle.dumps(reader)).read([UNITS[1]])) == expected([UNITS[1]])


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with S3Server(tmp_path_factory.mktemp("counted")) as server:
        yield server


@pytest.fixture
def proxy(server: S3Server) -> Iterator[FaultyProxy]:
    """A proxy that counts the requests of every S3 client."""
    with FaultyProxy(server.port) as proxy, server.reached(proxy.port):
        yield proxy


def merged_run(files: int, monkeypatch: pytest.MonkeyPatch) -> tuple[RunDirectory, list[str]]:
    """A run in a bucket with so many merged files of two units in each table, and its units."""
    run, units = RunDirectory(f"s3://{S3_BUCKET}/{secrets.token_hex(4)}"), [f"{unit:04x}" for unit in range(2 * files)]
    write(run, units)
    size = run.folder.sizes("masks")[f"masks/part-{units[0]}.parquet"]
    monkeypatch.setattr(merging, "TARGET_BYTES", size + 1)
    assert run.compact(units, to_the_end=True)["masks"] == (2 * files, files)
    return run, units


def by_kind(proxy: FaultyProxy) -> Counter[str]:
    """The requests since the last call: those for ledgers, for the merged files themselves, and listings."""
    found: Counter[str] = Counter()
    for (_, path), count in proxy.counts.items():
        found["ledgers" if "/ledger/" in path else "files" if "/merged-" in path else "listings"] += count
    proxy.counts.clear()
    return found


def test_opening_a_unit_costs_the_listing_the_ledgers_and_its_own_file_whatever_the_run_has(
    proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    opening = []
    for files in (2, 9):
        run, units = merged_run(files, monkeypatch)
        proxy.counts.clear()
        assert rows(run.reader("masks", SCHEMA).read([units[3]])) == expected([units[3]])
        assert len({path for _, path in proxy.counts if "/merged-" in path and "/ledger/" not in path}) == 1
        opening.append(by_kind(proxy))
    assert [(one["listings"], one["ledgers"]) for one in opening] == [(2, 2), (2, 9)]  # masks/ and ledger/masks/
    assert opening[0]["files"] == opening[1]["files"] <= 3  # its size, its footer, its rows


def test_reading_units_one_by_one_lists_a_run_once(proxy: FaultyProxy, monkeypatch: pytest.MonkeyPatch) -> None:
    run, units = merged_run(9, monkeypatch)
    reader = run.reader("masks", SCHEMA)
    proxy.counts.clear()
    assert rows(reader.read([units[0]])) == expected([units[0]])
    first = by_kind(proxy)
    for place, unit in enumerate(units[2::2], start=1):
        assert rows(reader.read([unit])) == expected([unit])
        assert by_kind(proxy) == Counter(files=first["files"]), place
    for unit in units[-1:]:  # its neighbour's row group is still there
        assert rows(reader.read([unit])) == expected([unit])
    for unit in units[:2]:  # whose file was opened before
        assert rows(reader.read([unit])) == expected([unit])
    assert by_kind(proxy) == Counter()

"""Reads units of one table again and again, without listing the table's folder each time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.cluster.storage import merging
from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.run_directory import RunDirectory, in_schema

# Seconds after which a unit that was not found is looked for in a new listing.
STALE_S = 10.0
_READERS = 8


@dataclass(frozen=True)
class _Listing:
    """The parts by unit, the merged files, the place of each merged unit among them, and when they were listed (monotonic)."""

    parts: dict[str, str]
    merged: list[merging.Merged]
    places: dict[str, int]
    at: float


class TableReader:
    """The rows of some units of a table of a run directory. Safe for several threads.

    It keeps one listing, and makes a new one when a unit is not in it or when a compaction has removed a part. Merged files are
    read by row groups: those that hold the units.

    Args:
        run: the run directory.
        table_name: its table.
        schema: the table's schema.
    """

    def __init__(self, run: RunDirectory, table_name: str, schema: pa.Schema) -> None:
        self._run, self._name, self._schema = run, table_name, schema
        self._lock = threading.Lock()
        self._listing: _Listing | None = None

    def read(self, unit_ids: Sequence[str], columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of the units, in no certain order; a unit without rows has none.

        Args:
            unit_ids: the units.
            columns: default: all.
        """
        names = columns or self._schema.names
        schema = pa.schema([self._schema.field(name) for name in names])
        for last in (False, True):
            listing = self._look(unit_ids, again=last)
            try:
                return self._rows(listing, unit_ids, schema)
            except StorageNotFoundError:  # a compaction removed the part since the listing
                if last:
                    raise
        raise AssertionError("unreachable")

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """All rows of the table, a row group or a part at a time. Holds one of them in memory."""
        schema = pa.schema([self._schema.field(name) for name in columns])
        listing = self._look([], again=True)
        for name in (*(one.name for one in listing.merged), *listing.parts.values()):
            with self._run.folder.open_read(name) as file:
                parquet = pq.ParquetFile(file)
                known = [column for column in schema.names if column in parquet.schema_arrow.names]
                for group in range(parquet.num_row_groups):
                    yield in_schema(parquet.read_row_group(group, columns=known, use_threads=False), schema)

    def _look(self, unit_ids: Sequence[str], *, again: bool) -> _Listing:
        with self._lock:
            listing = self._listing
            if listing is not None and not again:
                known = all(unit in listing.parts or unit in listing.places for unit in unit_ids)
                if known or time.monotonic() - listing.at < STALE_S:
                    return listing
            parts, merged = self._run.listed(self._name)
            places = {unit: place for place, one in enumerate(merged) for unit in one.units.to_pylist()}
            self._listing = _Listing(parts, merged, places, time.monotonic())
            return self._listing

    def _rows(self, listing: _Listing, unit_ids: Sequence[str], schema: pa.Schema) -> pa.Table:
        wanted: dict[int, set[str]] = {}
        for unit in unit_ids:
            if unit in listing.places:
                wanted.setdefault(listing.places[unit], set()).add(unit)
        folder = self._run.folder

        def load(name: str) -> pa.Table:
            table = pq.ParquetFile(pa.BufferReader(folder.read_bytes(name)))
            known = [column for column in schema.names if column in table.schema_arrow.names]
            return in_schema(table.read(columns=known, use_threads=False), schema)

        def load_merged(place: int) -> pa.Table:
            return in_schema(merging.rows_of_units(folder, listing.merged[place], wanted[place], schema.names), schema)

        with ThreadPoolExecutor(_READERS) as pool:
            names = [listing.parts[unit] for unit in dict.fromkeys(unit_ids) if unit in listing.parts]
            return pa.concat_tables([schema.empty_table(), *pool.map(load_merged, wanted), *pool.map(load, names)])

"""Reads a table of a run directory: one listing, then only the files, row groups and columns that are asked for."""

from __future__ import annotations

import contextlib
import itertools
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.cluster.storage.columns import in_schema
from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.row_groups import RowGroups
from vrshq.cluster.storage.table_files import Span, TableFiles, listed

# A unit that is not in the listing is looked for in a new one after so many seconds, and at the earliest when this listing has
# been in use for so many times the seconds that it took.
STALE_S = 10.0
STALE_TIMES = 20
# Larger parts are read by row groups and columns, smaller ones as a whole: one request.
_WHOLE_BYTES = 4 << 20
_READERS = 16
_LOOKS = 3  # how often a part that is not there is looked for


class TableReader:
    """The rows of a table as it was at one moment. Made once, it then costs what it reads. Safe for several threads.

    The first read lists the table's folder and reads the ledgers of its merged files: a request for each. Every read costs a
    request for each part, and two or more for each merged file that holds wanted rows; other files are not opened, and a row
    group that is still there costs nothing. A new listing is made where a compaction has removed a part, and, seldom, for a
    unit that was not in the last one.

    Args:
        folder: the run directory.
        table_name: its table.
        schema: the table's schema; may be set later to `stored_schema`.
    """

    def __init__(self, folder: Folder, table_name: str, schema: pa.Schema) -> None:
        self.schema = schema
        self._folder, self._name = folder, table_name
        self._row_groups = RowGroups(folder)
        self._lock = threading.Lock()
        self._files: TableFiles | None = None
        self._large: set[str] = set()  # names of parts above `_WHOLE_BYTES`
        self._listed_at = self._took = 0.0

    def __reduce__(self) -> tuple[type[TableReader], tuple[Folder, str, pa.Schema]]:
        return TableReader, (self._folder, self._name, self.schema)

    def units(self) -> set[str]:
        """Ids of all units with rows."""
        return self._look().units()

    def read(self, unit_ids: Iterable[str] | None = None, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of some units, or all rows: those of merged files first, then parts in the order of their names.

        Holds them in memory. A table without files has all its columns and no rows, and so has a unit without rows.

        Args:
            unit_ids: default: all.
            columns: default: all of the schema.
        """
        schema = self.schema if columns is None else pa.schema([self.schema.field(name) for name in columns])
        wanted = None if unit_ids is None else [*unit_ids]
        files = self._look()
        for _ in range(_LOOKS):
            with contextlib.suppress(StorageNotFoundError):  # a shared part was merged meanwhile
                return self._read(files, wanted, schema)
            files = self._look(than=files)
        return self._read(files, wanted, schema)

    def _read(self, files: TableFiles, wanted: list[str] | None, schema: pa.Schema) -> pa.Table:
        if wanted is None:
            return self._rows(files, files.spans, [*files.parts], schema)
        spans, units, complete = files.find(wanted)
        if not complete and time.monotonic() - self._listed_at > max(STALE_S, STALE_TIMES * self._took):
            files = self._look(than=files)
            spans, units, _ = files.find(wanted)
        return self._rows(files, spans, units, schema)

    def batches(self, columns: Sequence[str]) -> Iterator[pa.Table]:
        """All rows of the table as they are now, a row group or a part at a time. Holds a few of them in memory."""
        schema = pa.schema([self.schema.field(name) for name in columns])
        files = self._look(than=self._files)
        for name, spans in files.spans.items():
            if name in files.shared:
                yield self._shared(files, name, spans, schema)
                continue
            stops = self._row_groups.footer(name).stops
            for span in itertools.pairwise([0, *stops]) if spans is None else spans:
                yield self._merged(name, [span], schema)
        for unit in files.parts:
            yield from self._unit(files, unit, schema)

    def stored_schema(self) -> pa.Schema:
        """The schema of the table's files, with columns beyond the reader's own; its own for a table without files.

        Opens one file: all files of a table have the same schema.
        """
        files = self._look()
        for _ in range(_LOOKS):
            if not files.names:
                return self.schema
            with contextlib.suppress(StorageNotFoundError):  # the part was merged meanwhile
                return RowGroups(self._folder).footer(files.names[0]).schema
            files = self._look(than=files)
        return RowGroups(self._folder).footer(files.names[0]).schema

    def _look(self, *, than: TableFiles | None = None) -> TableFiles:
        """The files of the table: those of the last listing, or of a newer one `than` that of these files."""
        with self._lock:
            if self._files is None or self._files is than:
                begin = time.monotonic()
                sizes, self._files = listed(self._folder, self._name)
                self._large = {name for name, size in sizes.items() if size > _WHOLE_BYTES}
                self._listed_at = time.monotonic()
                self._took = self._listed_at - begin
            return self._files

    def _rows(
        self, files: TableFiles, spans: Mapping[str, list[Span] | None], units: list[str], schema: pa.Schema
    ) -> pa.Table:
        with ThreadPoolExecutor(_READERS) as pool:
            merged = pool.map(lambda name: self._merged(name, spans[name], schema), spans)
            single = pool.map(lambda unit: [*self._unit(files, unit, schema)], units)
            return pa.concat_tables([schema.empty_table(), *merged, *itertools.chain.from_iterable(single)])

    def _merged(self, name: str, spans: list[Span] | None, schema: pa.Schema) -> pa.Table:
        return in_schema(self._row_groups.rows(name, spans, schema.names), schema)

    def _shared(self, files: TableFiles, name: str, spans: list[Span] | None, schema: pa.Schema) -> pa.Table:
        """The rows of a shared part that count, wherever they are now: it may be merged meanwhile."""
        try:
            return self._merged(name, spans, schema)
        except StorageNotFoundError:
            self._look(than=files)
            return self.read(files.shared[name], schema.names)

    def _unit(self, files: TableFiles, unit: str, schema: pa.Schema) -> Iterator[pa.Table]:
        """The rows of a unit that has parts in `files`, part by part, wherever they are now.

        A compaction may merge the parts meanwhile, in their order.
        """
        parts = rows = 0  # that were read
        for tries in range(_LOOKS + 1):
            try:
                for name in files.parts[unit][parts:]:
                    table = self._single(name, schema)
                    parts, rows = parts + 1, rows + table.num_rows
                    yield table
                return
            except StorageNotFoundError:
                if tries == _LOOKS:
                    raise
                files = self._look(than=files)
            if unit not in files.parts:
                spans, _, _ = files.find([unit])
                merged = [self._merged(name, own, schema) for name, own in spans.items()]
                yield pa.concat_tables([schema.empty_table(), *merged]).slice(rows)
                return

    def _single(self, name: str, schema: pa.Schema) -> pa.Table:
        """The rows of a part. Nothing of it is kept, because another attempt may replace it."""
        if name in self._large:
            return in_schema(RowGroups(self._folder).rows(name, None, schema.names), schema)
        file = pq.ParquetFile(pa.BufferReader(self._folder.read_bytes(name)))
        known = [column for column in schema.names if column in file.schema_arrow.names]
        # One thread a file: the pool of the caller already uses the cores.
        return in_schema(file.read(columns=known, use_threads=False), schema)

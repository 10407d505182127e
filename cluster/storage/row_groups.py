"""Rows of the Parquet files of a folder, by number: only the row groups and the columns that are asked for are fetched."""

from __future__ import annotations

import bisect
import itertools
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Generic, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.cluster.storage.folder import Folder

V = TypeVar("V")

_FOOTERS = 256  # files whose footers are kept
_KEPT_BYTES = 96 << 20  # of row groups; one is kept in any case


@dataclass(frozen=True)
class Footer:
    """What the end of a Parquet file says: its metadata, its schema, and for each row group the row after its last one."""

    metadata: pq.FileMetaData
    schema: pa.Schema
    stops: list[int]


class RowGroups:
    """Reads rows of Parquet files by their numbers. Safe for several threads.

    The footers of the last files and the last row groups stay in memory, so that units that lie side by side cost one read. A
    file whose footer is kept is opened only for row groups that are not.

    Args:
        folder: the folder of the files.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self._footers: _Kept[Footer] = _Kept(_FOOTERS)
        self._groups: _Kept[pa.Table] = _Kept(_KEPT_BYTES)

    def footer(self, name: str) -> Footer:
        """The footer of a file. Raises StorageNotFoundError if the file does not exist."""
        with ExitStack() as files:
            return self._footers.get(name) or self._open(name, files)[1]

    def rows(self, name: str, spans: Sequence[tuple[int, int]] | None, columns: Sequence[str]) -> pa.Table:
        """Rows of a file, with those of the columns that it has.

        Args:
            name: the file.
            spans: each the first row and the row after the last one, ascending; None: all rows.
            columns: names.

        Raises:
            StorageNotFoundError: the file does not exist.
        """
        with ExitStack() as files:
            footer, parquet = self._footers.get(name), None
            if footer is None:
                parquet, footer = self._open(name, files)
            columns = [column for column in columns if column in footer.schema.names]
            pieces = [footer.schema.empty_table().select(columns)]
            for group, first, stop in _cut(spans, footer.stops):
                key = (name, group, *columns)
                table = self._groups.get(key)
                if table is None:
                    parquet = parquet or self._open(name, files)[0]
                    table = parquet.read_row_group(group, columns=columns, use_threads=False).select(columns)
                    self._groups.put(key, table, table.nbytes)
                pieces.append(table.slice(first, stop - first))
        return pa.concat_tables(pieces)

    def _open(self, name: str, files: ExitStack) -> tuple[pq.ParquetFile, Footer]:
        """Opens a file for as long as `files`."""
        footer = self._footers.get(name)
        source = files.enter_context(self._folder.open_read(name))
        # With pre_buffer the columns of a row group that lie side by side are one range.
        parquet = pq.ParquetFile(source, metadata=footer.metadata if footer else None, pre_buffer=True)
        if footer is None:
            about = parquet.metadata
            counts = (about.row_group(group).num_rows for group in range(about.num_row_groups))
            footer = Footer(about, parquet.schema_arrow, list(itertools.accumulate(counts)))
            self._footers.put(name, footer, 1)
        return parquet, footer


def _cut(spans: Sequence[tuple[int, int]] | None, stops: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Cuts spans of a file's rows at its row groups: yields the group, and the first and last + 1 of the rows inside it."""
    for span in [(0, stops[-1] if stops else 0)] if spans is None else spans:
        first, end = span
        group = bisect.bisect_right(stops, first)
        while first < end:
            begin, stop = stops[group - 1] if group else 0, min(end, stops[group])
            yield group, first - begin, stop - begin
            first, group = stop, group + 1


class _Kept(Generic[V]):
    """The values that were used last, up to a total size; the very last one in any case. Safe for several threads."""

    def __init__(self, size: int) -> None:
        self._most, self._size = size, 0
        self._values: OrderedDict[Hashable, tuple[V, int]] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: Hashable) -> V | None:
        with self._lock:
            if key not in self._values:
                return None
            self._values.move_to_end(key)
            return self._values[key][0]

    def put(self, key: Hashable, value: V, size: int) -> None:
        with self._lock:
            self._size += size - self._values.pop(key, (None, 0))[1]
            self._values[key] = value, size
            while self._size > self._most and len(self._values) > 1:
                self._size -= self._values.popitem(last=False)[1][1]

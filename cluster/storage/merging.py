"""Compaction merges the parts of a run (a part holds the rows of one unit) into a few large files for query engines.

    masks/merged-{number}-{digest}.parquet      the rows of many units, in the order of the manifest
    ledger/masks/merged-{number}-{digest}.units the units and their numbers of rows (Parquet)

The ledger file is written first, the merged file second, and the parts are removed last. A merged file counts as soon as it
exists, and a part whose unit is in a merged file no longer counts. A command that is killed at any point therefore loses
nothing, and readers through `RunDirectory` see nothing twice. A reader of the folder by a pattern can see a unit twice until
the next `label` or `compact` removes the leftover parts.

Units with errors keep their parts, so that a retry does not rewrite a merged file.
"""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.cluster.storage.folder import Folder

TARGET_BYTES = 256 << 20
_ROW_GROUP_BYTES = 32 << 20
_READERS = 16

_MERGED = re.compile(r"merged-\d{5}-[0-9a-f]{12}")
_LEDGER = pa.schema([pa.field("unit_id", pa.string(), nullable=False), pa.field("rows", pa.int64(), nullable=False)])


@dataclass(frozen=True)
class Merged:
    """One merged file: its name inside the run directory, its units, and their numbers of rows in the order of the file."""

    name: str
    units: pa.Array
    rows: pa.Array


def merged_files(folder: Folder, table_name: str, names: Iterable[str]) -> list[Merged]:
    """The merged files of a table among `names` (a listing of the table's folder), in order. Reads their ledgers at once."""

    def load(name: str) -> Merged:
        content = folder.read_bytes(_ledger_name(table_name, _stem(name)))
        units = pq.read_table(pa.BufferReader(content), use_threads=False).combine_chunks()
        return Merged(name, units["unit_id"].combine_chunks(), units["rows"].combine_chunks())

    found = sorted(name for name in names if _MERGED.fullmatch(_stem(name)))
    with ThreadPoolExecutor(_READERS) as pool:
        return list(pool.map(load, found))


def merge(
    folder: Folder,
    table_name: str,
    groups: Sequence[Sequence[tuple[str, str]]],
    first: int,
    check: Callable[[], None],
) -> None:
    """Writes one merged file for each group of (unit id, part name), and removes the group's parts in bulk.

    Groups are numbered from `first`. `check` is called before a file is written and before its parts are removed; it raises
    where the caller may not go on. Memory: a few row groups, independent of the size of a group.
    """
    for number, group in enumerate(groups, start=first):
        digest = hashlib.sha256("".join(unit for unit, _ in group).encode()).hexdigest()[:12]
        stem = f"merged-{number:05d}-{digest}"
        with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(_READERS) as pool:
            local = Path(place) / "merged.parquet"
            rows = _write_merged(local, _read_ahead(folder, pool, [name for _, name in group]))
            ledger = pa.table({"unit_id": [unit for unit, _ in group], "rows": rows}, schema=_LEDGER)
            sink = pa.BufferOutputStream()
            pq.write_table(ledger, sink, compression="zstd")
            check()
            folder.write_bytes(_ledger_name(table_name, stem), sink.getvalue().to_pybytes())
            folder.write_file(f"{table_name}/{stem}.parquet", local)
            check()
            folder.remove_all(name for _, name in group)


def remove_leftovers(
    folder: Folder, table_name: str, dead: Iterable[str], merged: Sequence[Merged], ledgers: Iterable[str]
) -> None:
    """Removes leftovers of killed commands in bulk: parts that are already merged (`dead`), and orphans among `ledgers`."""
    known = {_ledger_name(table_name, _stem(one.name)) for one in merged}
    orphans = [name for name in ledgers if name.startswith(f"ledger/{table_name}/") and name not in known]
    folder.remove_all([*dead, *orphans])


def grouped(
    parts: Sequence[tuple[str, str]], sizes: dict[str, int], *, to_the_end: bool
) -> list[list[tuple[str, str]]]:
    """Cuts (unit id, part name) pairs into groups of about `TARGET_BYTES`.

    The rest at the end becomes a group only with `to_the_end`: while a run goes on, more parts may come.
    """
    groups: list[list[tuple[str, str]]] = []
    current: list[tuple[str, str]] = []
    filled = 0
    for part in parts:
        current.append(part)
        filled += sizes[part[1]]
        if filled >= TARGET_BYTES:
            groups.append(current)
            current, filled = [], 0
    if to_the_end and len(current) > 1:
        groups.append(current)
    return groups


def _stem(name: str) -> str:
    return name.rpartition("/")[2].removesuffix(".parquet")


def _ledger_name(table_name: str, stem: str) -> str:
    return f"ledger/{table_name}/{stem}.units"


def _read_ahead(folder: Folder, pool: ThreadPoolExecutor, names: Sequence[str]) -> Iterator[pa.Table]:
    """Yields the parts in order, and reads a few of them ahead."""

    def read(name: str) -> pa.Table:
        # Not pq.read_table: for a small part its data set costs twice as much as the reading.
        return pq.ParquetFile(pa.BufferReader(folder.read_bytes(name))).read(use_threads=False)

    waiting: deque[Future[pa.Table]] = deque()
    for name in names:
        waiting.append(pool.submit(read, name))
        if len(waiting) >= 2 * _READERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _write_merged(path: Path, parts: Iterator[pa.Table]) -> list[int]:
    """Writes the parts in order into one Parquet file. Returns the number of rows of each."""
    rows: list[int] = []
    writer: pq.ParquetWriter | None = None
    gathered: list[pa.Table] = []
    nbytes = 0
    for part in parts:
        rows.append(part.num_rows)
        writer = writer or pq.ParquetWriter(path, part.schema, compression="zstd")
        gathered.append(part.cast(writer.schema))
        nbytes += part.nbytes
        if nbytes >= _ROW_GROUP_BYTES:
            writer.write_table(pa.concat_tables(gathered).combine_chunks(), row_group_size=1 << 40)
            gathered, nbytes = [], 0
    if writer is not None:
        if gathered:
            writer.write_table(pa.concat_tables(gathered).combine_chunks(), row_group_size=1 << 40)
        writer.close()
    return rows

"""Compaction merges the parts of a run (a part holds the rows of one unit) into a few large files for query engines.

    masks/merged-{number}-{digest}.parquet      the rows of many units, in the order of the manifest
    ledger/masks/merged-{number}-{digest}.units the units and their numbers of rows (Parquet)
    ledger/masks/merged-{number}-{digest}.plan  the parts that the file is made of, until they are removed (Parquet)

Whoever holds the lease writes the plan first. From it alone any process can write the ledger second and the merged file
third. The holder of the lease removes the parts and the plan last. A merged file counts as soon as it exists, and a part whose
unit is in a merged file no longer counts. A command that is killed at any point therefore loses nothing, and readers through
`RunDirectory` see nothing twice. A reader of the folder by a pattern can see a unit twice until the next `label` or `compact`
removes the leftover parts.

A plan without its file is carried out by the next compaction as it stands. So a process that outlives the lease, and still
writes its file, writes the one that is there already or will be: it never merges a unit into a second file.

Units with errors keep their parts, so that a retry does not rewrite a merged file.
"""

from __future__ import annotations

import hashlib
import itertools
import re
import tempfile
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.cluster.storage import shared
from vrshq.cluster.storage.columns import parquet_bytes
from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.folder import Folder

LEDGERS = "ledger"
# A merged file is made of parts of so many bytes, or of so many parts where they are small: so much is done again after a kill.
TARGET_BYTES = 256 << 20
MOST_PARTS = 4096
_ROW_GROUP_BYTES = 32 << 20
_READERS = 16

_UNITS, _PLANNED = ".units", ".plan"
_MERGED = re.compile(r"merged-(\d{5})-[0-9a-f]{12}")
_PLAN = pa.schema([pa.field("unit_id", pa.string(), nullable=False), pa.field("part", pa.string(), nullable=False)])
_LEDGER = pa.schema([pa.field("unit_id", pa.string(), nullable=False), pa.field("rows", pa.int64(), nullable=False)])


@dataclass(frozen=True)
class Merged:
    """One merged file: its name inside the run directory, its units, and their numbers of rows in the order of the file."""

    name: str
    units: pa.Array
    rows: pa.Array


def merged_files(folder: Folder, table_name: str, names: Iterable[str]) -> list[Merged]:
    """The merged files of a table among `names` (a listing of the table's folder), in order, then the shared ones.

    Reads their ledgers at once. Shared files without a ledger are left out.
    """

    def load(name: str) -> Merged | None:
        if shared.is_shared(name):
            known = shared.read_ledger(folder, name)
            return known and Merged(name, *known)
        content = folder.read_bytes(_ledger_name(table_name, _stem(name)))
        units = pq.read_table(pa.BufferReader(content), use_threads=False).combine_chunks()
        return Merged(name, units["unit_id"].combine_chunks(), units["rows"].combine_chunks())

    found = sorted(name for name in names if _MERGED.fullmatch(_stem(name)) or shared.is_shared(name))
    with ThreadPoolExecutor(_READERS) as pool:
        return [one for one in pool.map(load, found) if one is not None]


def merged_meanwhile(folder: Folder, table_name: str, names: Container[str]) -> list[str]:
    """The merged files that a listing of the table's folder (`names`) does not show.

    While a large folder is listed, a file can come into its first part and the parts that it replaces can go from the rest.
    The ledger of such a file was there before it. Costs a request, and one for each file that is being written.
    """
    ledgers = folder.list(f"{LEDGERS}/{table_name}")
    files = [f"{table_name}/{_stem(name)}.parquet" for name in ledgers if name.endswith(_UNITS)]
    return [name for name in files if name not in names and folder.exists(name)]


@dataclass(frozen=True)
class Group:
    """Parts of a table that become one merged file.

    Attributes:
        table: the table.
        stem: the name of the merged file and of its ledger, without folder and suffix.
        parts: (unit id, name of the part), in the order of the file; the parts of a unit, and the units of a shared part, are
            neighbours.
    """

    table: str
    stem: str
    parts: Sequence[tuple[str, str]]

    @property
    def file(self) -> str:
        """The name of the merged file inside the run directory."""
        return f"{self.table}/{self.stem}.parquet"

    @property
    def plan(self) -> str:
        """The name of the plan inside the run directory."""
        return f"{LEDGERS}/{self.table}/{self.stem}{_PLANNED}"

    @property
    def ledger(self) -> str:
        """The name of the ledger inside the run directory."""
        return _ledger_name(self.table, self.stem)


def new_group(table_name: str, number: int, parts: Sequence[tuple[str, str]]) -> Group:
    """The group of (unit id, part name) pairs. `number` should be free: the names of a table sort by it."""
    digest = hashlib.sha256("".join(unit for unit, _ in parts).encode()).hexdigest()[:12]
    return Group(table_name, f"merged-{number:05d}-{digest}", parts)


def number_of(name: str) -> int:
    """The number in the name of a merged file, of its ledger or of its plan; -1 for another file."""
    found = _MERGED.match(name.rpartition("/")[2])
    return int(found[1]) if found else -1


def write_plan(folder: Folder, group: Group) -> None:
    """Writes the plan of a group."""
    units, names = zip(*group.parts, strict=True)
    folder.write_bytes(group.plan, parquet_bytes(pa.table({"unit_id": units, "part": names}, schema=_PLAN)))


def read_plan(folder: Folder, name: str) -> Group:
    """The group whose plan has that name. Raises StorageNotFoundError if it was removed."""
    table_name, _, file = name.removeprefix(f"{LEDGERS}/").partition("/")
    plan = pq.read_table(pa.BufferReader(folder.read_bytes(name)), use_threads=False)
    parts = list(zip(plan["unit_id"].to_pylist(), plan["part"].to_pylist(), strict=True))
    return Group(table_name, _stem(file), parts)


def merge(folder: Folder, group: Group, check: Callable[[], None] = lambda: None) -> None:
    """Writes the ledger and the merged file of a group, whose plan should be there. Removes nothing.

    Any process may do it, and several at once: all of them write the same. Memory: a few row groups, independent of the size
    of the group.

    Args:
        folder: the run directory.
        group: the group.
        check: called before each part, and before the merged file is written; raises to end it there.

    Raises:
        StorageNotFoundError: a part is gone, so the group was merged before.
    """
    with tempfile.TemporaryDirectory() as place, ThreadPoolExecutor(_READERS) as pool:
        local = Path(place) / "merged.parquet"
        by_file = [
            (name, [unit for unit, _ in own]) for name, own in itertools.groupby(group.parts, key=lambda part: part[1])
        ]
        counts = _write_merged(local, _read_ahead(folder, pool, by_file, check))
        check()
        rows: dict[str, int] = {}
        for (unit, _), count in zip(group.parts, counts, strict=True):
            rows[unit] = rows.get(unit, 0) + count
        ledger = pa.table({"unit_id": list(rows), "rows": list(rows.values())}, schema=_LEDGER)
        folder.write_bytes(group.ledger, parquet_bytes(ledger))
        folder.write_file(group.file, local)


def remove_sources(folder: Folder, group: Group) -> None:
    """Removes the parts and the plan of a group, in bulk. Its merged file must exist, and the caller must hold the lease."""
    folder.remove_all([*dict.fromkeys(name for _, name in group.parts), group.plan])


def unfinished(
    folder: Folder, table_name: str, parts: Iterable[str], merged: Sequence[Merged], ledgers: Iterable[str]
) -> tuple[list[Group], list[str]]:
    """What killed commands have left of a table.

    Args:
        folder: the run directory.
        table_name: the table.
        parts: names of the live parts.
        merged: the merged files.
        ledgers: the names of all ledgers and plans.

    Returns:
        the planned groups that have no file yet; and the names of what is of no use: plans of files that exist or cannot be
        made any more, and ledgers of neither a file nor a plan.
    """
    mine = [name for name in ledgers if name.startswith(f"{LEDGERS}/{table_name}/")]
    used = {_ledger_name(table_name, _stem(one.name)) for one in merged}
    done = {_stem(one.name) for one in merged}
    live = set(parts)
    groups = []
    for name in mine:
        if name.endswith(_PLANNED) and _stem(name) not in done:
            group = read_plan(folder, name)
            if live.issuperset(part for _, part in group.parts):
                groups.append(group)
                live.difference_update(part for _, part in group.parts)
    used.update(name for group in groups for name in (group.ledger, group.plan))
    return groups, [name for name in mine if name not in used]


def grouped(
    parts: Sequence[tuple[str, str]], sizes: dict[str, int], *, to_the_end: bool
) -> list[list[tuple[str, str]]]:
    """Cuts (unit id, part name) pairs into runs of about `TARGET_BYTES`, or of `MOST_PARTS` small ones.

    Neither a unit nor a shared part is cut.

    The rest at the end becomes a group only with `to_the_end`: while a run goes on, more parts may come.
    """
    groups: list[list[tuple[str, str]]] = []
    current: list[tuple[str, str]] = []
    filled = 0
    for place, part in enumerate(parts):
        filled += sizes[part[1]] if not current or current[-1][1] != part[1] else 0
        current.append(part)
        following = parts[place + 1] if place + 1 < len(parts) else ("", "")
        more = following[0] == part[0] or following[1] == part[1]
        if not more and (filled >= TARGET_BYTES or len(current) >= MOST_PARTS):
            groups.append(current)
            current, filled = [], 0
    if to_the_end and len(current) > 1:
        groups.append(current)
    return groups


def _stem(name: str) -> str:
    return name.rpartition("/")[2].partition(".")[0]


def _ledger_name(table_name: str, stem: str) -> str:
    return f"{LEDGERS}/{table_name}/{stem}{_UNITS}"


def _read_ahead(
    folder: Folder, pool: ThreadPoolExecutor, files: Sequence[tuple[str, list[str]]], check: Callable[[], None]
) -> Iterator[tuple[pa.Table, list[int]]]:
    """Yields the rows of the units of each part in order, and how many each unit has; reads a few parts ahead."""

    def read(file: tuple[str, list[str]]) -> tuple[pa.Table, list[int]]:
        name, units = file
        if not shared.is_shared(name):
            table = load(name)
            return table, [table.num_rows]
        known = shared.read_ledger(folder, name)
        if known is None:
            raise StorageNotFoundError(f"{folder.uri_of(name)} has no ledger: it was merged before")
        counts = dict(zip(known[0].to_pylist(), known[1].to_pylist(), strict=True))
        ends = dict(zip(counts, itertools.accumulate(counts.values()), strict=True))
        table = load(name)
        own = [table.slice(ends[unit] - counts[unit], counts[unit]) for unit in units]
        return pa.concat_tables(own), [counts[unit] for unit in units]

    def load(name: str) -> pa.Table:
        # Not pq.read_table: for a small part its data set costs twice as much as the reading.
        return pq.ParquetFile(pa.BufferReader(folder.read_bytes(name))).read(use_threads=False)

    waiting: deque[Future[tuple[pa.Table, list[int]]]] = deque()
    for file in files:
        check()
        waiting.append(pool.submit(read, file))
        if len(waiting) >= 2 * _READERS:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def _write_merged(path: Path, parts: Iterator[tuple[pa.Table, list[int]]]) -> list[int]:
    """Writes the parts in order into one Parquet file. Returns the number of rows of each unit of each part."""
    rows: list[int] = []
    writer: pq.ParquetWriter | None = None
    gathered: list[pa.Table] = []
    nbytes = 0
    for part, counts in parts:
        rows += counts
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

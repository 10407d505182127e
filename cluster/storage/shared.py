"""Parts of several short units in one: an actor that works on them in one call commits their rows together.

    masks/shared-{call}-{units}.parquet     the rows of several units; so for tokens/ and tracks/
    ledger/shared/{call}/{units}.units      the units, and their numbers of rows in each table; written last

The files count once their ledger exists, all at the same moment. They are read and merged like small merged files; a unit that
is in a merged file as well, or in the shared file of an earlier name, counts there. Units with errors have parts of their own.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vrshq.cluster.storage.columns import parquet_bytes
from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.folder import Folder

LEDGERS = "ledger/shared"
_TABLES = ("masks", "tokens", "tracks")
_FILE = re.compile(r"\w+/shared-([0-9a-f]{12})-([0-9a-f]{12})\.parquet")
_LEDGER = pa.schema([pa.field("unit_id", pa.string(), nullable=False), *((name, pa.int64()) for name in _TABLES)])


def is_shared(name: str) -> bool:
    """Whether a file of a table is a shared one."""
    return _FILE.fullmatch(name) is not None


def shared_name(table_name: str, stem: str) -> str:
    """The name of a shared file inside the run directory, from its stem."""
    return f"{table_name}/{stem}.parquet"


def ledger_of(name: str) -> str:
    """The name of the ledger of a shared file."""
    found = _FILE.fullmatch(name)
    assert found is not None, name
    return f"{LEDGERS}/{found[1]}/{found[2]}.units"


def commit_shared(folder: Folder, call: Sequence[str], units: Mapping[str, Mapping[str, pa.Table]]) -> tuple[str, int]:
    """Writes the tables of some units together; when this returns, they are finished.

    Args:
        folder: the run directory.
        call: ids of all units of the call, in order. By them `committed` finds the ones that are finished.
        units: by id, the unit's `masks`, `tokens` and `tracks`.

    Returns:
        the stem of the files, and the bytes written.
    """
    stem = f"shared-{_digest(call)}-{_digest(units)}"
    written = 0
    for name in _TABLES:
        together = pa.concat_tables([tables[name] for tables in units.values()])
        if together.num_rows:
            content = parquet_bytes(together)
            folder.write_bytes(shared_name(name, stem), content)
            written += len(content)
    rows = {name: [tables[name].num_rows for tables in units.values()] for name in _TABLES}
    ledger = pa.table({"unit_id": list(units), **rows}, schema=_LEDGER)
    folder.write_bytes(ledger_of(shared_name("tracks", stem)), parquet_bytes(ledger))
    return stem, written


def committed(folder: Folder, call: Sequence[str]) -> set[str]:
    """Those of a call's units that were committed together. One request where there are none."""
    found = folder.list(f"{LEDGERS}/{_digest(call)}")
    return {unit for name in found for unit in _read(folder, name)["unit_id"].to_pylist()}


def read_ledger(folder: Folder, name: str) -> tuple[pa.Array, pa.Array] | None:
    """The units of a shared file with rows in it, and their numbers of rows; None where it was not committed or is gone."""
    try:
        ledger = _read(folder, ledger_of(name))
    except StorageNotFoundError:
        return None
    counts = ledger[name.partition("/")[0]].combine_chunks()
    there = pc.greater(counts, 0)
    return ledger["unit_id"].combine_chunks().filter(there), counts.filter(there)


def _read(folder: Folder, name: str) -> pa.Table:
    return pq.read_table(pa.BufferReader(folder.read_bytes(name)), use_threads=False)


def _digest(ids: Iterable[str]) -> str:
    return hashlib.sha256(" ".join(ids).encode()).hexdigest()[:12]

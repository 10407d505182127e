"""The run directory: a run writes it and every tool reads it, local or in a bucket.

    run.json      the run's identity (fixed), the SHA-256 of the identity, and details (may differ between commands)
    manifest/     the units of work, one row each
    masks/ tracks/ tokens/ errors/     parts: a part, `part-{unit_id}.parquet`, holds one unit's rows; or merged files
    masks/part-{unit_id}-{number}.parquet, state/     of long units (`vrshq.cluster.storage.windows`)
    masks/shared-...  tracks/... tokens/...            of several short units (`vrshq.cluster.storage.shared`)
    ledger/       the units of each merged and each shared file (`vrshq.cluster.storage.merging`)
    stats.json    statistics of the caller
    lock/         the command that works on it now, or the mark of the last one's end (`vrshq.cluster.storage.lease`)

A unit is finished when its `tracks` part exists. That part is written last, and its name contains the unit's id, so
finished units are found by listing names; only the ledger files are opened. All names are functions of the unit and all
bytes are functions of the content: a unit that is done twice, in a row or at the same time, gives the same files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.cluster.storage.columns import conformed, parquet_bytes
from vrshq.cluster.storage.compaction import Check, Compaction, Spread, one_by_one, proceed
from vrshq.cluster.storage.differences import differences
from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.retry import PATIENCE_S
from vrshq.cluster.storage.shared import commit_shared, committed
from vrshq.cluster.storage.table_files import listed
from vrshq.cluster.storage.table_reader import TableReader
from vrshq.cluster.storage.windows import Windows, checked_unit, discard_windows
from vrshq.errors import UserError

TABLES = ("masks", "tracks", "tokens", "errors")
_RUN = "run.json"
_MANIFEST = "manifest/manifest.parquet"
# Rows in a row group of the manifest: what one read task takes.
_MANIFEST_ROWS = 16384


class RunDirectoryError(UserError, ValueError):
    """The folder cannot be used as the directory of this run. The message names the reason."""


class ConfigurationDiffers(RunDirectoryError):  # noqa: N818 - reads as the sentence that it is
    """The run directory belongs to a run with other settings. The message lists each differing key."""


class RunDirectory:
    """A run directory at `uri` (a path or `s3://...`). Storage failures are `StorageError`s, after `patience_s` of tries."""

    def __init__(self, uri: str, patience_s: float = PATIENCE_S) -> None:
        self.folder = Folder(uri, patience_s)
        self.uri = self.folder.uri

    def open(self, identity: Mapping[str, Any], details: Mapping[str, Any]) -> bool:
        """Begins the run, or continues an existing one.

        Args:
            identity: JSON-able settings that determine the content of the tables. They must be the same each time.
            details: JSON-able facts about this command (version, machine). Those of the first command are kept.

        Returns:
            whether the run existed already.

        Raises:
            ConfigurationDiffers: `run.json` exists with another identity.
            RunDirectoryError: the folder is not empty and is not a run directory.
            StorageError: the folder cannot be written.
        """
        self.folder.check_writable()
        if self.check(identity):
            self.folder.remove_abandoned()
            return True
        given = json.loads(_canonical(identity))
        self.write_json(_RUN, {"identity": given, "identity_sha256": identity_hash(identity), "details": details})
        return False

    def check(self, identity: Mapping[str, Any]) -> bool:
        """Refuses what `open` refuses, and writes nothing.

        Returns:
            whether the run exists already.

        Raises:
            ConfigurationDiffers, RunDirectoryError: as for `open`.
            StorageError: the folder cannot be read.
        """
        try:
            before = self.read_json(_RUN)
        except StorageNotFoundError:
            if self.folder.is_empty():
                return False
            raise RunDirectoryError(
                f"{self.uri} is not empty and has no {_RUN}, so it is not a run directory; "
                "give an empty or new folder as --output"
            ) from None
        old = before.get("identity") if isinstance(before, dict) else None
        if not isinstance(old, dict):
            raise RunDirectoryError(f"{self.uri}/{_RUN} was not written by this program; give another --output")
        if identity_hash(old) != identity_hash(identity):
            differing = "\n".join(f"  {line}" for line in differences(old, json.loads(_canonical(identity))))
            raise ConfigurationDiffers(
                f"{self.uri} holds a run with other settings (its own -> this command's):\n{differing}\n"
                "Use another --output for these settings, or the same settings as before to continue that run."
            )
        return True

    def has_manifest(self) -> bool:
        """Whether the manifest was written."""
        return self.folder.exists(_MANIFEST)

    def write_manifest(self, table: pa.Table) -> None:
        """Writes the units (one row each, with a `unit_id`) in the given order. Replaces an existing manifest."""
        self.folder.write_bytes(_MANIFEST, parquet_bytes(table, row_group_size=_MANIFEST_ROWS))

    def read_manifest(self) -> pa.Table:
        """The units in the order of writing. Raises StorageNotFoundError if there is no manifest yet."""
        try:
            content = self.folder.read_bytes(_MANIFEST)
        except StorageNotFoundError as error:
            what = "holds a run that has not begun" if self.folder.exists(_RUN) else "is not a run directory"
            raise StorageNotFoundError(
                f"{self.uri} {what} (it has no {_MANIFEST}); expected the --output of vrshq label"
            ) from error
        return pq.read_table(pa.BufferReader(content))

    def write_part(self, table_name: str, unit_id: str, table: pa.Table, schema: pa.Schema) -> int:
        """Writes one unit's rows of one table, cast to `schema`, whole or not at all.

        Returns the part's size in bytes. Raises ValueError where the table does not fit the schema.
        """
        content = parquet_bytes(conformed(table_name, unit_id, table, schema))
        self.folder.write_bytes(part_name(table_name, unit_id), content)
        return len(content)

    def commit_unit(self, unit_id: str, tables: Mapping[str, pa.Table], windows: Windows | None = None) -> int:
        """Writes all of a unit's tables; when this returns, the unit is finished. Returns the bytes written.

        `tables` must contain `tracks`. Each other table is written if it has rows; otherwise its part of an earlier attempt
        is removed. `tracks` is written last: a reader that sees it sees the rest.

        Args:
            unit_id: the unit.
            tables: its tables, by name.
            windows: where they hold the unit's masks; `tables` has none then. Without them, those of an earlier attempt that
                ended in errors are removed.
        """
        unknown = sorted(set(tables) - set(TABLES))
        if unknown or "tracks" not in tables:
            raise ValueError(f"unit {unit_id}: expected tables out of {TABLES} and tracks among them, got {[*tables]}")
        if windows is None and "errors" in tables and tables["errors"].num_rows:
            Windows(self.folder, unit_id).discard()
        written = 0
        for name in TABLES:
            if name != "tracks":
                table = tables.get(name)
                if table is not None and table.num_rows:
                    written += self.write_part(name, unit_id, table, table.schema)
                else:
                    self.folder.remove(part_name(name, unit_id))
        written += self.write_part("tracks", unit_id, tables["tracks"], tables["tracks"].schema)
        if windows is not None:
            windows.forget_state()
        return written

    def finished_units(self) -> set[str]:
        """Ids of the finished units, with any outcome. Lists `tracks/` and opens no part."""
        return self._units("tracks")

    def commit_together(self, call: Sequence[str], units: Mapping[str, Mapping[str, pa.Table]]) -> tuple[str, int]:
        """Commits several units without errors in one part a table; see `vrshq.cluster.storage.shared.commit_shared`."""
        self.folder.remove_all(part_name("errors", unit) for unit in units)  # of earlier attempts
        return commit_shared(self.folder, call, units)

    def finished_among(self, unit_ids: Sequence[str]) -> set[str]:
        """Those of a call's units that are finished and not merged yet. A request for each, whatever the run's size."""
        together = committed(self.folder, unit_ids)
        alone = (unit for unit in unit_ids if unit not in together)
        return together.union(unit for unit in alone if self.folder.exists(part_name("tracks", unit)))

    def errored_units(self) -> set[str]:
        """Ids of the units that have error rows. Lists `errors/` and opens no file."""
        return self._units("errors")

    def compact(
        self, unit_ids: Sequence[str], *, to_the_end: bool, check: Check = proceed, spread: Spread = one_by_one
    ) -> dict[str, tuple[int, int]]:
        """Merges parts into larger files, in the order of `unit_ids`; see `Compaction.merge`."""
        return Compaction(self.folder).merge(unit_ids, to_the_end=to_the_end, check=check, spread=spread)

    def forget_states(self) -> None:
        """Removes what is left of the states of long units. Call it when all units are finished."""
        self.folder.remove_all(self.folder.list("state"))

    def forget(self, unit_ids: Iterable[str]) -> None:
        """Makes units with error rows unfinished again: removes their parts, those of `tracks` before any other.

        Killed at any point, the units without a `tracks` part are unfinished, and the next attempt replaces their other parts.
        """
        units = [*unit_ids]
        self.folder.remove_all(part_name("tracks", unit) for unit in units)
        discard_windows(self.folder, units)
        for name in TABLES:
            if name != "tracks":
                self.folder.remove_all(part_name(name, unit) for unit in units)

    def reader(self, table_name: str, schema: pa.Schema) -> TableReader:
        """A reader of a table, which lists it once for many reads.

        Args:
            table_name: one of `TABLES`.
            schema: the table's schema.
        """
        return TableReader(self.folder, _table(table_name), schema)

    def read(
        self,
        table_name: str,
        schema: pa.Schema,
        columns: Sequence[str] | None = None,
        unit_ids: Iterable[str] | None = None,
    ) -> pa.Table:
        """The rows of a table, read once; for several reads take a `reader`. Arguments and result as for `TableReader.read`.

        Holds them in memory. For `masks` of a large run give `columns`, or read the folder with a query engine.
        """
        return self.reader(table_name, schema).read(unit_ids, columns)

    def read_json(self, name: str) -> Any:
        """The content of a JSON file. Raises StorageNotFoundError if there is none, ValueError if it is not JSON."""
        try:
            return json.loads(self.folder.read_bytes(name))
        except ValueError as error:
            raise RunDirectoryError(f"{self.folder.uri_of(name)} is not JSON: {error}") from error

    def write_json(self, name: str, content: Any) -> None:
        """Writes a JSON file, whole or not at all."""
        text = json.dumps(content, indent=2, sort_keys=True, ensure_ascii=False, default=str)
        self.folder.write_bytes(name, text.encode() + b"\n")

    def _units(self, table_name: str) -> set[str]:
        return listed(self.folder, table_name)[1].units()


def identity_hash(identity: Mapping[str, Any]) -> str:
    """SHA-256 (hex) of the identity's canonical JSON: sorted keys, no spaces, UTF-8."""
    return hashlib.sha256(_canonical(identity).encode()).hexdigest()


def part_name(table_name: str, unit_id: str) -> str:
    """The name of a unit's part inside the run directory."""
    return f"{_table(table_name)}/part-{checked_unit(unit_id)}.parquet"


def _table(name: str) -> str:
    if name not in TABLES:
        raise ValueError(f"no table {name!r}; expected one of {', '.join(TABLES)}")
    return name


def _canonical(identity: Mapping[str, Any]) -> str:
    return json.dumps(identity, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)

"""The files of an instruction table: one file, a folder of parts as Spark, Ray Data and Daft write it, or a pattern."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from fsspec.utils import glob_translate

from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_remote, local_path
from vrshq.pipelines.label.asked.table_formats import COMPRESSIONS, FORMATS, decompress, one_line, read_format
from vrshq.pipelines.label.tables.carried import json_string
from vrshq.pipelines.label.tables.errors import InstructionTableError

EXPECTED = ".parquet, .jsonl (.ndjson), .json, .csv or .tsv, with .gz or .zst if it is compressed"
_MAGIC = re.compile(r"[*?\[]")
_WEB = ("http://", "https://")
# A folder whose files are not all part of the table: its log says which of them are.
_LOGS = {"_delta_log": "Delta Lake", ".hoodie": "Hudi"}
# Hive's name of a null in a folder's name.
_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"


@dataclass(frozen=True)
class TableFiles:
    """The rows of an instruction table as its files hold them, with all columns, unchecked.

    Attributes:
        table: the rows of all files, file after file.
        parts: the name and the number of rows of each file.
    """

    table: pa.Table
    parts: list[tuple[str, int]]

    def row(self, index: int) -> str:
        """The place of a row for messages, counted from 1, without the header: "row 7", or "row 3 of part-1.parquet"."""
        for name, rows in self.parts:
            if index < rows:
                return f"row {index + 1} of {name}" if len(self.parts) > 1 else f"row {index + 1}"
            index -= rows
        raise IndexError(index)

    def rows(self, first: int, second: int) -> str:
        """The places of two rows for messages."""
        if len(self.parts) == 1:
            return f"rows {first + 1} and {second + 1}"
        return f"{self.row(first)} and {self.row(second)}"


def read_files(uri: str) -> TableFiles:
    """Reads the file, the folder of parts, or the files of the pattern at `uri`, local or in a bucket.

    In a folder, names that begin with a dot or an underscore and `.crc` files are left out, as Spark does; folders like
    `split=val` become string columns. `*`, `?` and `[...]` of a pattern stay inside a folder, `**` does not.

    Raises:
        InstructionTableError: no such file, one of another format, or one that is damaged. StorageError: it cannot be read.
    """
    folder, names = _find(uri)
    tables = []
    for name in names:
        try:
            suffixes = _suffixes(name)
            data = folder.read_bytes(name)
            for compression in suffixes[1:]:
                data = decompress(compression, data)
            if len(names) > 1 and not data.strip() and suffixes[0] != ".parquet":
                continue  # Spark's part without rows
            tables.append((name, _with_hive_columns(read_format(suffixes[0], data), name)))
        except InstructionTableError as error:
            raise InstructionTableError(f"{name}: {error}" if len(names) > 1 else str(error)) from error
    if not tables:
        raise InstructionTableError("the table is empty")
    parts = [(name, table.num_rows) for name, table in tables]
    return TableFiles(_joined([table for _, table in tables]), parts)


def table_folder(uri: str) -> str:
    """The uri of the folder in which the table lies: that of the file or the folder of parts, or of a pattern's fixed part."""
    uri = _absolute(uri)
    parent, name = _split(uri)
    if not _MAGIC.search(uri) or uri.startswith(_WEB) or (name and Folder(parent).exists(name)):
        return parent
    return _split_pattern(uri)[0] if Folder(uri).is_empty() else parent


def _find(uri: str) -> tuple[Folder, list[str]]:
    """The folder of the table's files, and their names inside it, sorted."""
    uri = _absolute(uri)
    parent, name = _split(uri)
    if name and (uri.startswith(_WEB) or Folder(parent).exists(name)):
        _suffixes(name)
        return Folder(parent), [name]
    whole = Folder(uri)
    names = whole.list()
    if not names:
        if not is_remote(uri) and Path(whole.uri).is_dir():
            raise InstructionTableError("the folder has no files; expected the parts of a table")
        if _MAGIC.search(uri):
            return _matching(uri)
        raise StorageNotFoundError(f"{uri}: cannot read: no such file or folder")
    for log, kind in _LOGS.items():
        if any(part.startswith(f"{log}/") for part in names):
            raise InstructionTableError(f"it is a {kind} table; expected plain files: write its rows as Parquet first")
    return whole, _parts(names)


def _absolute(uri: str) -> str:
    return uri if is_remote(uri) else str(local_path(uri))


def _split(uri: str) -> tuple[str, str]:
    """The folder of a file or folder, and its name in there; a whole bucket has no name."""
    given = uri.rstrip("/")
    parent, _, name = given.rpartition("/")
    if is_remote(uri) and parent.endswith(":/"):
        return given, ""
    return parent or "/", name


def _split_pattern(uri: str) -> tuple[str, str]:
    """The folder before the first wildcard, and the pattern in there. A folder that exists has no wildcards in its name."""
    steps = uri.split("/")
    for end in range(len(steps) - 1, 0, -1):
        base = "/".join(steps[:end])
        if not _MAGIC.search(base) or not Folder(base).is_empty():
            return base or "/", "/".join(steps[end:])
    raise InstructionTableError("a wildcard stands in the name of the bucket; expected it after that")


def _matching(uri: str) -> tuple[Folder, list[str]]:
    """The files that a pattern means, found by listing the folder before its first wildcard; also folders of parts."""
    base, given = _split_pattern(uri)
    folder, pattern = Folder(base), re.compile(glob_translate(given.rstrip("/")))

    def fits(name: str) -> bool:
        steps = name.split("/")
        return any(pattern.match("/".join(steps[:end])) for end in range(1, len(steps) + 1))

    found = [name for name in folder.list() if fits(name)]
    if not found:
        raise InstructionTableError("no file matches the pattern")
    return folder, _parts(found)


def _parts(names: Iterable[str]) -> list[str]:
    """The names of a listing that hold rows. All must have the same format."""
    parts = sorted(name for name in names if not name.endswith(".crc") and not re.search(r"(^|/)[._]", name))
    if not parts:
        raise InstructionTableError("it holds no parts of a table")
    formats: dict[str, str] = {}
    for name in parts:
        formats.setdefault(_suffixes(name)[0], name)
    if len(formats) > 1:
        one, other, *_ = formats.values()
        raise InstructionTableError(f"it holds files of several formats, {one} and {other}; expected one format")
    return parts


def _suffixes(name: str) -> list[str]:
    """The format's suffix, and that of the compression if there is one; InstructionTableError for other names."""
    stem = name.partition("?")[0].lower()
    found = []
    suffix = Path(stem).suffix
    if suffix in COMPRESSIONS:
        found = [suffix]
        suffix = Path(stem.removesuffix(suffix)).suffix
    if suffix not in FORMATS:
        raise InstructionTableError(f"the suffix of {name} is unknown; expected an instruction table as {EXPECTED}")
    return [suffix, *found]


def _with_hive_columns(table: pa.Table, name: str) -> pa.Table:
    """The table with a column for each folder `key=value` of its name that is not a column already."""
    for step in name.split("/")[:-1]:
        key, equals, value = step.partition("=")
        if equals and key and unquote(key) not in table.column_names:
            content = None if value == _HIVE_NULL else unquote(value)
            table = table.append_column(unquote(key), pa.repeat(pa.scalar(content, pa.string()), table.num_rows))
    return table


def _joined(tables: list[pa.Table]) -> pa.Table:
    """The rows of all tables. A column that one of them lacks is null there; values of several types become their JSON."""
    if len(tables) == 1:
        return tables[0]
    try:
        return pa.concat_tables(tables, promote_options="permissive")
    except (pa.ArrowException, ValueError) as error:
        names = list(dict.fromkeys(name for table in tables for name in table.column_names))
        for table in tables:
            if len(set(table.column_names)) < table.num_columns:
                raise InstructionTableError(f"the parts cannot be joined: {one_line(error)}") from error
    return pa.table({name: _joined_column([_column(table, name) for table in tables]) for name in names})


def _column(table: pa.Table, name: str) -> pa.ChunkedArray:
    return table[name] if name in table.column_names else pa.chunked_array([pa.nulls(table.num_rows)])


def _joined_column(columns: list[pa.ChunkedArray]) -> pa.ChunkedArray:
    tables = [pa.table({"": column}) for column in columns]
    try:
        return pa.concat_tables(tables, promote_options="permissive")[""]
    except pa.ArrowException:
        values: list[Any] = [value for column in columns for value in column.to_pylist()]
        return pa.chunked_array([pa.array([json_string(_plain(value)) for value in values], pa.string())])


def _plain(value: Any) -> Any:
    """The value, or its text where JSON has no form for it."""
    try:
        json.dumps(value)
    except (TypeError, ValueError):
        return str(value)
    return value

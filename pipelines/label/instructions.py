"""The instruction table: read, checked, and divided into the manifest's units.

The columns that vrshq knows are `video_uri`, `instruction_id`, `text` and, if given, `video_id`. All others are *carried*:
they travel through the run as one JSON string per instruction and come out again as columns of `tracks/`.

A table with a mistake is refused before work starts, in one line that names the item. The content of a *text* is never
a mistake: an empty text, a very long one, HTML or a path is data.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet

from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import join_uri
from vrshq.errors import UserError
from vrshq.pipelines.label.schema import MANIFEST, TRACKS

KNOWN_COLUMNS = ("video_id", "video_uri", "instruction_id", "text")
REQUIRED_COLUMNS = ("video_uri", "instruction_id", "text")

# Rows turned into Python objects at a time: bounds the memory of a table of millions.
SLICE_ROWS = 50_000

# One JSON text per value. Unit ids are hashes of such texts, so this must never change.
_COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


class InstructionTableError(UserError, ValueError):
    """The instruction table cannot be used; one line that names the file, the column or the rows."""


def read_instructions(uri: str) -> pa.Table:
    """The instruction table at `uri`, checked, in the same form for all formats.

    Args:
        uri: a `.parquet`, `.jsonl`, `.ndjson` or `.csv` file, local or remote.

    Returns:
        Rows in the file's order: `video_id`, `video_uri`, `instruction_id`, `text` (all string, none null), then the
        table's other columns as they are. A missing `video_id` is the `video_uri` as given, a missing text is "". Integer
        ids become strings. CSV has no types, so its other columns are strings ("007" stays "007"); a JSONL column with
        values of several types becomes their JSON.

    Raises:
        InstructionTableError: the file cannot be read or is no table; a column is missing, doubled or named like a column
            of `tracks/`; an id or uri is null or empty; a (video_id, instruction_id) occurs twice; a video_id has two
            uris; or the table has no row. Rows count from 1, without the header.
    """
    suffix = Path(uri).suffix.lower()
    if suffix not in _READERS:
        raise InstructionTableError(f"{uri}: expected an instruction table as .parquet, .jsonl (.ndjson) or .csv")
    try:
        folder, _, name = uri.rpartition("/")
        table = _READERS[suffix](Folder(folder or ("/" if uri.startswith("/") else ".")).read_bytes(name))
    except InstructionTableError as error:
        raise InstructionTableError(f"{uri}: {error}") from None
    except StorageError as error:
        raise InstructionTableError(str(error)) from error
    except (ValueError, pa.ArrowException) as error:
        raise InstructionTableError(f"{uri}: not a {suffix} table: {_one_line(error)}") from error
    try:
        return _checked(table)
    except InstructionTableError as error:
        raise InstructionTableError(f"{uri}: {error}") from None


def build_manifest(table: pa.Table, *, videos_root: str | None, base: str, max_instructions_per_unit: int) -> pa.Table:
    """The units of a table from `read_instructions`. A unit is one video with up to N of its instructions.

    Args:
        table: rows in any order; the manifest does not depend on it.
        videos_root: root of relative video uris; None for `base`.
        base: the folder of the instruction table.
        max_instructions_per_unit: N, at least 1.

    Returns:
        `vrshq.pipelines.label.schema.MANIFEST`, ordered by video_id and then instruction_id, both in plain string order
        (by UTF-8 bytes, so "10" comes before "2"). `unit_id` is 16 hex digits of the SHA-256 of the video_id and the
        (instruction_id, text) pairs; neither uris nor carried columns enter it.

    Raises:
        InstructionTableError: two units with the same id.
    """
    if max_instructions_per_unit < 1:
        raise ValueError(f"max_instructions_per_unit must be at least 1, not {max_instructions_per_unit}")
    order = pc.sort_indices(table, sort_keys=[("video_id", "ascending"), ("instruction_id", "ascending")])
    starts = _unit_starts(table["video_id"].take(order), max_instructions_per_unit)
    root = videos_root or base or "."  # join_uri leaves paths relative where the root is empty
    batches = [
        _units(table.take(order[first:last]), unit_starts - first, root)
        for first, last, unit_starts in _slices(starts, table.num_rows)
    ]
    manifest = pa.Table.from_batches(batches, schema=MANIFEST)
    if pc.count_distinct(manifest["unit_id"]).as_py() != manifest.num_rows:
        raise InstructionTableError("two units have the same unit_id; rename an instruction_id to tell them apart")
    return manifest


def carried_schema(table: pa.Table) -> pa.Schema:
    """The fields of `tracks/` for the table's other columns.

    The types bool, int, float, string and lists of those are kept; all others become string.

    Raises:
        InstructionTableError: a column named like one of `vrshq.pipelines.label.schema.TRACKS`.
    """
    fields = [field for field in table.schema if field.name not in KNOWN_COLUMNS]
    for field in fields:
        if field.name in TRACKS.names:
            raise InstructionTableError(f"column {field.name!r} has the name of a column of tracks/; rename it")
    return pa.schema([pa.field(field.name, _carried_type(field.type)) for field in fields])


def carried_columns(carried: list[str], schema: pa.Schema) -> dict[str, pa.Array]:
    """The columns of `schema` (from `carried_schema`) out of the manifest's `carried` JSON strings, one row per string."""
    rows = [json.loads(row) for row in carried]
    return {
        field.name: pa.array([_restored(row.get(field.name), field.type) for row in rows], field.type)
        for field in schema
    }


def _read_parquet(data: bytes) -> pa.Table:
    return pa.parquet.read_table(pa.BufferReader(data))


def _read_csv(data: bytes) -> pa.Table:
    parse = pa.csv.ParseOptions(newlines_in_values=True)
    # One line may hold a very long text; Arrow refuses lines beyond its block.
    read = pa.csv.ReadOptions(block_size=16 << 20)
    if not data.strip():
        raise InstructionTableError("the table is empty")
    with pa.csv.open_csv(io.BytesIO(data), read, parse) as head:
        names = head.schema.names
    # All columns are declared strings: inference would turn the id "007" into 7, and the text "NA" into null.
    convert = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names}, strings_can_be_null=False)
    return pa.csv.read_csv(io.BytesIO(data), read, parse, convert)


def _read_jsonl(data: bytes) -> pa.Table:
    # Not with Arrow's reader: it turns date-like texts into timestamps and refuses ids of mixed types.
    columns: dict[str, list[Any]] = {}
    count = 0
    for number, line in enumerate(io.TextIOWrapper(io.BytesIO(data), encoding="utf-8-sig", newline="\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise InstructionTableError(f"line {number} is not JSON: {_one_line(error)}") from None
        if not isinstance(row, dict):
            raise InstructionTableError(f"line {number} is not a JSON object")
        columns |= {name: [None] * count for name in row if name not in columns}
        for name, values in columns.items():
            values.append(row.get(name))
        count += 1
    return pa.table({name: _json_array(columns[name]) for name in columns})


_READERS: dict[str, Callable[[bytes], pa.Table]] = {
    ".parquet": _read_parquet,
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".csv": _read_csv,
}


def _json_array(values: list[Any]) -> pa.Array:
    """Values of one simple type as an array of that type; all others as an array of strings.

    Values that are not strings become their JSON. This concerns objects (Arrow would give each of them the keys of all),
    values of several types, and numbers too big for Arrow.
    """
    try:
        array = pa.array(values)
        if pa.types.is_null(array.type) or _carried_type(array.type) == array.type:
            return array
    except (pa.ArrowException, OverflowError, UnicodeEncodeError):
        pass
    return pa.array([_encodable(_json_string(value)) for value in values], pa.string())


def _json_string(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _encodable(text: str | None) -> str | None:
    """The text with lone surrogates replaced, which JSON can spell but UTF-8 cannot encode."""
    return text and text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def _checked(table: pa.Table) -> pa.Table:
    """The table in the form of `read_instructions`; raises InstructionTableError for its first mistake."""
    names = table.column_names
    if table.num_rows == 0:
        raise InstructionTableError("the table is empty")
    for name in names:
        if names.count(name) > 1:
            raise InstructionTableError(f"column {name!r} occurs {names.count(name)} times")
    for name in REQUIRED_COLUMNS:
        if name not in names:
            raise InstructionTableError(f"column {name!r} is missing; found {', '.join(map(repr, names))}")
    uris = _string_column(table, "video_uri", numbers=False)
    ids = _string_column(table, "instruction_id")
    texts = _string_column(table, "text").fill_null("")
    for name, column in (("video_uri", uris), ("instruction_id", ids)):
        blank = pc.index(pc.equal(column.fill_null(""), ""), True).as_py()
        if blank >= 0:
            raise InstructionTableError(f"row {blank + 1}: {name} is {'empty' if column[blank].is_valid else 'null'}")
    video_ids = uris
    if "video_id" in names:
        given = _string_column(table, "video_id")
        video_ids = pc.if_else(pc.equal(given.fill_null(""), ""), uris, given)
    known = pa.table({"video_id": video_ids, "video_uri": uris, "instruction_id": ids, "text": texts})
    _check_unique(known)
    for field in carried_schema(table):
        known = known.append_column(field.name, table[field.name])
    return known


def _string_column(table: pa.Table, name: str, *, numbers: bool = True) -> pa.ChunkedArray:
    column = table[name]
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (_is_string(kind) or pa.types.is_null(kind) or (numbers and pa.types.is_integer(kind))):
        expected = "string or integer" if numbers else "string"
        raise InstructionTableError(f"column {name!r} is of type {kind}; expected {expected}")
    return column.cast(pa.string())


def _check_unique(known: pa.Table) -> None:
    """Raises InstructionTableError for a (video_id, instruction_id) that occurs twice, and for a video_id with two uris."""
    rows = known.select(["video_id", "video_uri", "instruction_id"]).append_column(
        "row", pa.array(range(known.num_rows))
    )
    groups = rows.group_by(["video_id", "instruction_id"]).aggregate([("row", "min"), ("row", "count")])
    twice = groups.filter(pc.greater(groups["row_count"], 1))
    if twice.num_rows:
        first, video, instruction = _earliest(twice, "video_id", "instruction_id")
        same = pc.and_(pc.equal(rows["video_id"], video), pc.equal(rows["instruction_id"], instruction))
        second = rows.filter(same)["row"][1].as_py()
        raise InstructionTableError(
            f"rows {first + 1} and {second + 1} have the same video_id {_short(video)} "
            f"and instruction_id {_short(instruction)}"
        )
    videos = rows.group_by("video_id").aggregate([("row", "min"), ("video_uri", "count_distinct")])
    torn = videos.filter(pc.greater(videos["video_uri_count_distinct"], 1))
    if torn.num_rows:
        first, video = _earliest(torn, "video_id")
        uri = known["video_uri"][first]
        other = rows.filter(pc.and_(pc.equal(rows["video_id"], video), pc.not_equal(rows["video_uri"], uri)))
        raise InstructionTableError(
            f"rows {first + 1} and {other['row'][0].as_py() + 1} give video_id {_short(video)} two uris: "
            f"{_short(uri.as_py())} and {_short(other['video_uri'][0].as_py())}"
        )


def _earliest(groups: pa.Table, *columns: str) -> list[Any]:
    """`row_min` and the given columns of the group with the smallest `row_min`."""
    group = groups.sort_by("row_min").slice(0, 1)
    return [group[column][0].as_py() for column in ("row_min", *columns)]


def _unit_starts(video_ids: pa.ChunkedArray, size: int) -> np.ndarray:
    """The row at which each unit begins, (U,) int64, for sorted video ids."""
    codes = pc.dictionary_encode(video_ids.combine_chunks()).indices.to_numpy()
    rows = np.arange(len(codes))
    video_starts = np.flatnonzero(np.r_[True, codes[1:] != codes[:-1]])
    within = rows - np.repeat(video_starts, np.diff(np.r_[video_starts, len(codes)]))
    starts: np.ndarray = rows[within % size == 0]
    return starts


def _slices(starts: np.ndarray, num_rows: int) -> Iterator[tuple[int, int, np.ndarray]]:
    """Slices of whole units, of about `SLICE_ROWS` rows: (first row, row after the last, first rows of the units)."""
    begin = 0
    while begin < len(starts):
        end = max(begin + 1, int(np.searchsorted(starts, starts[begin] + SLICE_ROWS)))
        last = int(starts[end]) if end < len(starts) else num_rows
        yield int(starts[begin]), last, starts[begin:end]
        begin = end


def _units(rows: pa.Table, starts: np.ndarray, root: str) -> pa.RecordBatch:
    """The manifest of sorted rows, whose units begin at `starts`."""
    ends = [*starts[1:].tolist(), rows.num_rows]
    offsets = pa.array([0, *ends], pa.int32())
    videos = rows.select(["video_id", "video_uri"]).take(pa.array(starts)).to_pydict()
    ids, texts = rows["instruction_id"].to_pylist(), rows["text"].to_pylist()
    units = zip(videos["video_id"], starts.tolist(), ends, strict=True)
    columns = [
        pa.array([_unit_id(video, ids[first:last], texts[first:last]) for video, first, last in units]),
        pa.array(videos["video_id"]),
        pa.array([join_uri(root, uri) for uri in videos["video_uri"]]),
        *(pa.ListArray.from_arrays(offsets, pa.array(values, pa.string())) for values in (ids, texts, _carried(rows))),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=MANIFEST)


def _unit_id(video_id: str, instruction_ids: list[str], texts: list[str]) -> str:
    content = _COMPACT.encode([video_id, list(zip(instruction_ids, texts, strict=True))])
    return hashlib.sha256(content.encode()).hexdigest()[:16]


def _carried(rows: pa.Table) -> list[str]:
    """One JSON object per row, with the columns that vrshq does not know."""
    names = [name for name in rows.column_names if name not in KNOWN_COLUMNS]
    if not names:
        return ["{}"] * rows.num_rows
    columns = [[_jsonable(value) for value in _readable(rows[name]).to_pylist()] for name in names]
    return [_COMPACT.encode(dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


def _readable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Times and decimals as Arrow prints them, because Python's types would lose nanoseconds."""
    exact = pa.types.is_temporal(column.type) or pa.types.is_decimal(column.type)
    return column.cast(pa.string()) if exact else column


def _jsonable(value: Any) -> Any:
    """The value in types of strict JSON; a value of another type becomes a string."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, list | tuple):
        return [_jsonable(item) for item in value]
    if isinstance(value, dict):
        return {str(key): _jsonable(item) for key, item in value.items()}
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _restored(value: Any, kind: pa.DataType) -> Any:
    """The inverse of `_jsonable` for a value of a carried type."""
    if value is None:
        return None
    if pa.types.is_list(kind):
        return [_restored(item, kind.value_type) for item in value]
    if pa.types.is_floating(kind):
        return float(value)
    return _json_string(value) if pa.types.is_string(kind) else value


def _carried_type(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _carried_type(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = kind.value_type
        return pa.list_(_carried_type(item)) if _is_scalar(item) else pa.string()
    return kind if _is_scalar(kind) and not _is_string(kind) else pa.string()


def _is_scalar(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or _is_string(kind))


def _is_string(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _short(text: str) -> str:
    """The text quoted, on one line, cut to 80 characters."""
    return repr(text if len(text) <= 80 else text[:77] + "...")


def _one_line(error: Exception) -> str:
    return (" ".join(str(error).split()) or type(error).__name__)[:300]

"""The instruction table's columns that vrshq does not know: from the table to the manifest's JSON, and on to `tracks/`."""

from __future__ import annotations

import json
import math
from typing import Any

import pyarrow as pa

from vrshq.pipelines.label.tables.errors import InstructionTableError
from vrshq.pipelines.label.tables.schema import TRACKS

SPAN_COLUMNS = ("start", "end")
KNOWN_COLUMNS = ("video_id", "video_uri", "instruction_id", "text", *SPAN_COLUMNS)

# One JSON text per value. Unit ids are hashes of such texts, so this must never change.
COMPACT = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def carried_schema(table: pa.Table) -> pa.Schema:
    """The fields of `tracks/` for the table's other columns.

    The types bool, int, float, string and lists of those are kept; all others become string.

    Raises:
        InstructionTableError: a column named like one of `vrshq.pipelines.label.tables.schema.TRACKS`.
    """
    fields = [field for field in table.schema if field.name not in KNOWN_COLUMNS]
    for field in fields:
        if field.name in TRACKS.names:
            raise InstructionTableError(f"column {field.name!r} has the name of a column of tracks/; rename it")
    return pa.schema([pa.field(field.name, carried_type(field.type)) for field in fields])


def carried_columns(carried: list[str], schema: pa.Schema) -> dict[str, pa.Array]:
    """The columns of `schema` (from `carried_schema`) out of the manifest's `carried` JSON strings, one row per string."""
    rows = [json.loads(row) for row in carried]
    return {
        field.name: pa.array([_restored(row.get(field.name), field.type) for row in rows], field.type)
        for field in schema
    }


def carried_json(rows: pa.Table) -> list[str]:
    """One JSON object per row, with the columns that vrshq does not know."""
    names = [name for name in rows.column_names if name not in KNOWN_COLUMNS]
    if not names:
        return ["{}"] * rows.num_rows
    columns = [[_jsonable(value) for value in _readable(rows[name]).to_pylist()] for name in names]
    return [COMPACT.encode(dict(zip(names, values, strict=True))) for values in zip(*columns, strict=True)]


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


def json_string(value: Any) -> str | None:
    """A string or None as it is; any other value as its JSON."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _restored(value: Any, kind: pa.DataType) -> Any:
    """The inverse of `_jsonable` for a value of a carried type."""
    if value is None:
        return None
    if pa.types.is_list(kind):
        return [_restored(item, kind.value_type) for item in value]
    if pa.types.is_floating(kind):
        return float(value)
    return json_string(value) if pa.types.is_string(kind) else value


def carried_type(kind: pa.DataType) -> pa.DataType:
    """The type in `tracks/` of a column of the given type."""
    if pa.types.is_dictionary(kind):
        return carried_type(kind.value_type)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        item = kind.value_type
        return pa.list_(carried_type(item)) if _is_scalar(item) else pa.string()
    return kind if _is_scalar(kind) and not is_string(kind) else pa.string()


def _is_scalar(kind: pa.DataType) -> bool:
    types = pa.types
    return bool(types.is_boolean(kind) or types.is_integer(kind) or types.is_floating(kind) or is_string(kind))


def is_string(kind: pa.DataType) -> bool:
    """Whether it is one of Arrow's string types."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))

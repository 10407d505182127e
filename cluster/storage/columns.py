"""Tables in today's columns: what older versions did not write, what does not fit, and a table as a file."""

from __future__ import annotations

import io
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

# Metadata of a field: the value that all rows of an older version, which did not write the column, have.
VALUE_BEFORE = b"value_before"


def in_schema(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The rows with the schema's columns. Of those that an older version did not write, nullable ones are null."""
    columns = [
        table[field.name] if field.name in table.column_names else _column_before(field, len(table), table)
        for field in schema
    ]
    return pa.table(columns, names=schema.names).cast(schema)


def conformed(table_name: str, unit_id: str, table: pa.Table, schema: pa.Schema) -> pa.Table:
    """A unit's rows of a table, cast to `schema`. Raises ValueError, which names both, where they do not fit."""
    missing = [name for name in schema.names if name not in table.column_names]
    if missing:
        raise ValueError(f"{table_name} of unit {unit_id} lacks the columns {', '.join(missing)}")
    try:
        return table.select(schema.names).cast(schema)
    except (ValueError, pa.ArrowException) as error:
        raise ValueError(f"{table_name} of unit {unit_id} does not fit its schema: {error}") from error


def parquet_bytes(table: pa.Table, row_group_size: int | None = None) -> bytes:
    """The table as a Parquet file. The same rows give the same bytes, however they were chunked before."""
    sink = io.BytesIO()
    pq.write_table(table.combine_chunks(), sink, compression="zstd", row_group_size=row_group_size)
    return sink.getvalue()


def _column_before(field: pa.Field, rows: int, table: pa.Table) -> Any:
    value = (field.metadata or {}).get(VALUE_BEFORE)
    if value is not None:
        return pa.repeat(pa.scalar(int(value), field.type), rows)
    return pa.nulls(rows, field.type) if field.nullable else table[field.name]  # which names the column that is missing

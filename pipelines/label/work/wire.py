"""The rows that go from pool to pool and to the driver: units with small columns, and receipts of finished ones."""

from __future__ import annotations

import base64
from typing import Any

import pyarrow as pa

from vrshq.operators.batch import LIVE_COLUMNS, Batch
from vrshq.pipelines.label.tables.schema import MANIFEST, STAGES

_floats = pa.list_(pa.list_(pa.float32()))
_failure = pa.struct([("stage", pa.string()), ("error_type", pa.string()), ("message", pa.string())])

# The columns that cross the object store between pools: some kB per unit, never pixels. One row per unit.
WIRE = pa.schema(
    [
        *MANIFEST,
        ("attempt", pa.int32()),
        ("more", pa.bool_()),
        ("busy", pa.float64()),
        ("decode_passes", pa.int64()),
        ("errors", pa.list_(_failure)),
        ("seconds", pa.struct([(stage, pa.float64()) for stage in STAGES])),
        ("num_frames", pa.int32()),
        ("total_frames", pa.int32()),
        ("frame_range", pa.list_(pa.int32())),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("pixel_aspect", pa.float32()),
        ("video_note", pa.string()),
        ("clip_probs", _floats),
        ("sampled_frames", pa.list_(pa.list_(pa.int32()))),
        ("notes", pa.list_(pa.string())),
        ("seg", _floats),
        ("tak", _floats),
        ("d", pa.int32()),
        ("answers", pa.list_(pa.string())),
        ("similarities", _floats),
        ("prompts", pa.list_(_floats)),
        ("object_scores", pa.list_(_floats)),
        ("keyframes", pa.list_(pa.list_(pa.int32()))),
        ("presence", pa.list_(pa.float32())),
    ]
)

# The counts that the driver receives for each finished unit.
RECEIPT = pa.schema(
    [
        ("unit_id", pa.string()),
        ("frames", pa.int64()),
        ("ok", pa.int64()),
        ("empty", pa.int64()),
        ("errors", pa.int64()),
        ("error_types", pa.list_(pa.string())),
        ("error_example", pa.string()),
        ("masks", pa.int64()),
        ("windows", pa.int64()),
        ("shared", pa.string()),
        ("bytes", pa.int64()),
        ("attempt", pa.int32()),
        ("busy", pa.float64()),
        ("decode_passes", pa.int64()),
        ("encoder_calls", pa.int64()),
        ("seconds", pa.struct([(stage, pa.float64()) for stage in STAGES])),
    ]
)


def receipt(unit: dict[str, Any], tables: dict[str, pa.Table], written: int, *, busy: float = 0.0) -> dict[str, Any]:
    """The row of `RECEIPT` for a written unit: counts and seconds.

    Args:
        unit: its columns after all operators.
        tables: its rows, from `unit_tables`.
        written: size of its parts, in bytes.
        busy: seconds that actors spent on it.
    """
    statuses = tables["tracks"]["status"].to_pylist()
    messages = tables["errors"]["message"]
    return {
        "unit_id": unit["unit_id"],
        "frames": unit.get("num_frames") or 0,
        "ok": statuses.count("ok"),
        "empty": statuses.count("empty"),
        "errors": statuses.count("error"),
        "error_types": tables["errors"]["error_type"].to_pylist(),
        "error_example": messages[0].as_py()[:300] if len(messages) else None,
        "masks": tables["masks"].num_rows + (unit.get("mask_rows") or 0),
        "windows": unit["windows"].count if unit.get("summed") else 0,
        "shared": None,  # the stem of the part, where several units have one
        "bytes": written,
        "attempt": tables["tracks"]["attempts"][0].as_py(),
        "busy": busy,
        "decode_passes": unit.get("decode_passes", 0),
        "encoder_calls": unit.get("encoder_calls", 0),
        "seconds": {stage: unit["seconds"].get(stage) for stage in STAGES},
    }


def rows_of(batch: Batch) -> list[dict[str, Any]]:
    """The batch as one dict per unit."""
    return [{column: values[index] for column, values in batch.items()} for index in range(len(batch["unit_id"]))]


def from_wire(table: pa.Table) -> list[dict[str, Any]]:
    """The units of a table of `MANIFEST` or `WIRE`."""
    units: list[dict[str, Any]] = table.to_pylist()
    for unit in units:
        unit["attempt"] = unit.get("attempt") or 1
        unit["busy"] = unit.get("busy") or 0.0
        unit["decode_passes"] = unit.get("decode_passes") or 0
        if "seconds" in unit:
            unit["seconds"] = {stage: value for stage, value in unit["seconds"].items() if value is not None}
    return units


def to_wire(batch: Batch) -> pa.Table:
    """The batch as a table for the next pool, without live columns."""
    size = len(batch["unit_id"])
    kept = {name: values for name, values in batch.items() if name not in LIVE_COLUMNS | {"encoder_calls"}}
    unknown = sorted(set(kept) - set(WIRE.names))
    if unknown:
        raise RuntimeError(f"columns {', '.join(unknown)} have no type in the wire schema")
    arrays = [pa.array(kept.get(field.name, [None] * size), type=field.type) for field in WIRE]
    return pa.Table.from_arrays(arrays, schema=WIRE)


def encode_schema(schema: pa.Schema) -> str:
    """An Arrow schema as the text that `UnitWorker` takes."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()

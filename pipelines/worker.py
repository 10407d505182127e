"""The actor of one pool: it holds its operators, runs them over a unit, and hands on small columns or writes the tables."""

from __future__ import annotations

import base64
import contextlib
import importlib
import os
import tempfile
from collections.abc import Callable
from typing import Any

import pyarrow as pa

from cluster.run_directory import RunDirectory
from cluster.storage import fetch_to_local
from operators.batch import LIVE_COLUMNS, Batch, Operator, failure, new_batch, run_operators
from pipelines.models import local_model
from pipelines.rows import unit_tables
from pipelines.schema import MANIFEST, STAGES
from pipelines.settings import Settings

OPERATORS = {
    "decode": ("operators.decode", "Decode"),
    "presample": ("operators.presampling", "PreSample"),
    "tokens": ("operators.tokens", "Tokens"),
    "fuse": ("operators.fusion", "Fuse"),
    "keyframe": ("operators.keyframe", "SelectKeyframe"),
    "propagate": ("operators.propagation", "Propagate"),
}
NEED_PIXELS = {"presample", "tokens", "keyframe", "propagate"}

_floats = pa.list_(pa.list_(pa.float32()))
_failure = pa.struct([("stage", pa.string()), ("error_type", pa.string()), ("message", pa.string())])

# What crosses the object store between pools: some kB a unit, never pixels. One row per unit.
WIRE = pa.schema(
    [
        *MANIFEST,
        ("errors", pa.list_(_failure)),
        ("seconds", pa.struct([(stage, pa.float64()) for stage in STAGES])),
        ("num_frames", pa.int32()),
        ("height", pa.int32()),
        ("width", pa.int32()),
        ("clip_probs", _floats),
        ("sampled_frames", pa.list_(pa.list_(pa.int32()))),
        ("notes", pa.list_(pa.string())),
        ("seg", _floats),
        ("tak", _floats),
        ("d", pa.int32()),
        ("similarities", _floats),
        ("fused", _floats),
        ("object_scores", _floats),
        ("keyframe_index", pa.list_(pa.int32())),
        ("presence", pa.list_(pa.float32())),
    ]
)

RECEIPT = pa.schema(
    [
        ("unit_id", pa.string()),
        ("frames", pa.int64()),
        ("ok", pa.int64()),
        ("empty", pa.int64()),
        ("errors", pa.int64()),
        ("error_types", pa.list_(pa.string())),
        ("masks", pa.int64()),
        ("seconds", pa.struct([(stage, pa.float64()) for stage in STAGES])),
    ]
)


class UnitWorker:
    """Runs a pool's operators over units (rows of `MANIFEST` or `WIRE`); the last pool's worker writes their parts.

    Args:
        settings: `Settings` as JSON.
        operators: names of the pool's operators, in order.
        run: uri of the run directory.
        device: torch's name of where the networks run.
        carried: types of the instruction table's other columns, as a serialised Arrow schema in base64.
    """

    def __init__(
        self,
        *,
        settings: str,
        operators: tuple[str, ...],
        run: str,
        device: str,
        carried: str,
    ) -> None:
        import torch

        parsed = Settings.model_validate_json(settings)
        torch.set_num_threads(parsed.resources.threads)
        names = ["decode", *operators] if NEED_PIXELS & set(operators) else list(operators)
        configs = parsed.operator_configs(local_model(parsed.model), device)
        self.operators: list[Operator] = [load_operator(name)(configs[name]) for name in names]
        self.writes = "propagate" in operators
        self.run = RunDirectory(run)
        self.carried = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(carried)))
        self.scratch = os.environ.get("VRSHQ_SCRATCH", tempfile.gettempdir())

    def __call__(self, table: pa.Table) -> pa.Table:
        batch = self._run(new_batch(from_wire(table)))
        if not self.writes:
            return to_wire(batch)
        return pa.Table.from_pylist([self._write(unit) for unit in rows_of(batch)], schema=RECEIPT)

    def _run(self, batch: Batch) -> Batch:
        """The operators over the batch, with remote videos on local scratch meanwhile."""
        from operators.decode import close_videos  # here, because it loads decoders

        given = batch["video_uri"]
        with contextlib.ExitStack() as stack:
            local: list[str] = []
            for index, uri in enumerate(given):
                try:
                    local.append(stack.enter_context(fetch_to_local(uri, self.scratch)))
                except OSError as error:
                    local.append(uri)
                    why = failure("decode", error)
                    batch["errors"][index] = [old or why for old in batch["errors"][index]]
            batch = run_operators(self.operators, {**batch, "video_uri": local})
            close_videos(batch)
        # a failure names the video as the user gave it, not its copy on scratch
        errors = [
            [error and {**error, "message": error["message"].replace(path, uri)} for error in failures]
            for failures, path, uri in zip(batch["errors"], local, given, strict=True)
        ]
        return {**batch, "video_uri": given, "errors": errors}

    def _write(self, unit: dict[str, Any]) -> dict[str, Any]:
        tables = unit_tables(unit, self.carried)
        self.run.commit_unit(unit["unit_id"], tables)
        return receipt(unit, tables)


def receipt(unit: dict[str, Any], tables: dict[str, pa.Table]) -> dict[str, Any]:
    """What the driver needs to know of a unit that was written: counts and seconds, well under 1 kB."""
    status = tables["tracks"]["status"].to_pylist()
    return {
        "unit_id": unit["unit_id"],
        "frames": unit.get("num_frames") or 0,
        "ok": status.count("ok"),
        "empty": status.count("empty"),
        "errors": status.count("error"),
        "error_types": tables["errors"]["error_type"].to_pylist(),
        "masks": tables["masks"].num_rows,
        "seconds": {stage: unit["seconds"].get(stage) for stage in STAGES},
    }


def load_operator(name: str) -> Callable[[Any], Operator]:
    """The operator class of a name; imported here, so that an actor loads only the libraries that it needs."""
    module, attribute = OPERATORS[name]
    loaded: Callable[[Any], Operator] = getattr(importlib.import_module(module), attribute)
    return loaded


def rows_of(batch: Batch) -> list[dict[str, Any]]:
    """The batch as one dict per unit."""
    return [{column: values[index] for column, values in batch.items()} for index in range(len(batch["unit_id"]))]


def from_wire(table: pa.Table) -> list[dict[str, Any]]:
    """The units of a table of `MANIFEST` or `WIRE`."""
    units: list[dict[str, Any]] = table.to_pylist()
    for unit in units:
        if "seconds" in unit:
            unit["seconds"] = {stage: value for stage, value in unit["seconds"].items() if value is not None}
    return units


def to_wire(batch: Batch) -> pa.Table:
    """The batch as a table for the next pool, without live columns."""
    size = len(batch["unit_id"])
    kept = {name: values for name, values in batch.items() if name not in LIVE_COLUMNS}
    unknown = sorted(set(kept) - set(WIRE.names))
    if unknown:
        raise RuntimeError(f"columns {', '.join(unknown)} have no type in the wire schema")
    arrays = [pa.array(kept.get(field.name, [None] * size), type=field.type) for field in WIRE]
    return pa.Table.from_arrays(arrays, schema=WIRE)


def encode_schema(schema: pa.Schema) -> str:
    """An Arrow schema as text, the inverse of what `UnitWorker` reads."""
    return base64.b64encode(schema.serialize().to_pybytes()).decode()

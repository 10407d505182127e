"""A worker of the engine's tests that commits the units of a call together. Ray sends it by reference."""

from __future__ import annotations

import os
from collections.abc import Sequence

import pyarrow as pa

from tests.support.engine_workers import Step
from vrshq.cluster.ray import guard
from vrshq.cluster.storage.run_directory import RunDirectory


class Commits(Step):
    """Commits the units of a call together, in the run directory `run`; dies after the commit of the row `gone`."""

    def __init__(self, name: str, run: str, gone: int, deadly: Sequence[int] = ()) -> None:
        super().__init__(name, deadly)
        self.run, self.gone = RunDirectory(run), gone
        self.held: dict[str, pa.Table] = {}

    def __call__(self, table: pa.Table) -> pa.Table:
        receipts = super().__call__(table)
        for unit in table["unit_id"].to_pylist():
            rows = {"tracks": receipts.select(["unit_id", "number"])}
            if guard.of_several():
                self.held[unit] = rows["tracks"]
            else:
                self.run.commit_unit(unit, rows)
        return receipts

    def end_call(self, unit_ids: list[str], results: list[pa.Table]) -> list[pa.Table]:
        held, self.held = self.held, {}
        empty = pa.table({"unit_id": pa.array([], pa.string())})
        self.run.commit_together(
            unit_ids, {unit: {"masks": empty, "tokens": empty, "tracks": rows} for unit, rows in held.items()}
        )
        if any(self.gone in rows["number"].to_pylist() for rows in held.values()):
            os._exit(1)
        return results

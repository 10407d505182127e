"""`vrshq label`: instructions in, mask tables out.

read and check the instruction table -> manifest of units -> open the run directory -> subtract finished units ->
actor pools over the rest -> account for what is missing -> summary.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa

from cluster.engine import Pool as EnginePool
from cluster.engine import stream_receipts
from cluster.resources import Resources, cluster_resources, local_resources
from cluster.run_directory import RunDirectory
from cluster.session import ray_session
from operators.batch import Failure
from pipelines.instructions import build_manifest, carried_schema, read_instructions
from pipelines.models import open_model
from pipelines.placement import place
from pipelines.rows import unit_tables
from pipelines.schema import SCHEMA_VERSION, STAGES
from pipelines.settings import Pool, Settings
from pipelines.worker import UnitWorker, encode_schema, receipt

Receipts = Iterable[dict[str, Any]]


@dataclass(frozen=True)
class Plan:
    """What a command would do: its units, what is done of them, and where the rest would run."""

    run: RunDirectory
    settings: Settings
    manifest: pa.Table
    carried: pa.Schema
    identity: dict[str, Any]
    finished: set[str]
    pools: list[Pool]
    available: Resources
    model_name: str

    @property
    def todo(self) -> pa.Table:
        """The manifest's rows that are not finished."""
        if not self.finished:
            return self.manifest
        left = pa.array([unit_id not in self.finished for unit_id in self.manifest["unit_id"].to_pylist()])
        return self.manifest.filter(left)


@dataclass
class Summary:
    """What a run did: counts of units, frames, ok, empty, errors and masks, error types, and seconds by stage."""

    units: int
    already_finished: int
    elapsed: float = 0.0
    counts: Counter[str] = field(default_factory=Counter)
    error_types: Counter[str] = field(default_factory=Counter)
    seconds: Counter[str] = field(default_factory=Counter)
    incomplete: int = 0

    def error_rate(self) -> float:
        """Share of this command's instructions that ended in an error."""
        total = self.counts["ok"] + self.counts["empty"] + self.counts["errors"]
        return self.counts["errors"] / total if total else 0.0


def make_plan(
    instructions: str, output: str, settings: Settings, *, videos: str | None = None, available: Resources | None = None
) -> Plan:
    """Reads and checks everything that can be checked before work starts; writes nothing.

    Raises:
        InstructionTableError, SettingsError, CheckpointError, StorageError: one line each, naming the item.
    """
    table = read_instructions(instructions)
    base = instructions.rpartition("/")[0] or "."
    manifest = build_manifest(
        table, videos_root=videos, base=base, max_instructions_per_unit=settings.max_instructions_per_unit
    )
    bundle = open_model(settings.model)
    identity = {
        "schema_version": SCHEMA_VERSION,
        "model": {"name": bundle.name, "fingerprint": bundle.fingerprint},
        "manifest_sha256": _manifest_hash(manifest),
        "settings": settings.identity(),
    }
    available = available or local_resources()
    run = RunDirectory(output)
    return Plan(
        run=run,
        settings=settings,
        manifest=manifest,
        carried=carried_schema(table),
        identity=identity,
        finished=run.finished_units() & set(manifest["unit_id"].to_pylist()),
        pools=place(settings, available, manifest.num_rows),
        available=available,
        model_name=bundle.name,
    )


def label(
    instructions: str,
    output: str,
    settings: Settings | None = None,
    *,
    videos: str | None = None,
    address: str | None = None,
    retry_errors: bool = False,
    use_ray: bool = True,
    on_plan: Callable[[Plan], None] = lambda _: None,
    on_receipt: Callable[[dict[str, Any]], None] = lambda _: None,
) -> Summary:
    """Labels every instruction of a table; the same call again continues where an earlier one was stopped.

    Args:
        instructions: uri of the table: Parquet, JSONL or CSV with `video_uri`, `instruction_id`, `text`.
        output: uri of the run directory.
        settings: default `Settings()`.
        videos: root of relative `video_uri`s; default: the table's folder.
        address: Ray cluster; default: RAY_ADDRESS, the cluster of the surrounding job, else one on this machine.
        retry_errors: also run the units that have error rows again.
        use_ray: False runs the same operators in this process, one unit after the other.
        on_plan, on_receipt: called with the plan before work starts, and with each finished unit's counts.

    Returns:
        the counts of this call.
    """
    settings = settings or Settings()
    plan = make_plan(instructions, output, settings, videos=videos)
    plan.run.open(plan.identity, {"version": importlib.metadata.version("vrshq"), "model": settings.model})
    if not plan.run.has_manifest():
        plan.run.write_manifest(plan.manifest)
    if retry_errors:
        again = plan.run.errored_units() & plan.finished
        for unit_id in again:
            plan.run.forget_unit(unit_id)
        plan = replace(plan, finished=plan.finished - again)
    summary = Summary(units=plan.manifest.num_rows, already_finished=len(plan.finished))
    if plan.todo.num_rows == 0:
        on_plan(plan)
        return _finish(plan, summary)
    begin = time.monotonic()
    receipts = _on_ray(plan, address, on_plan) if use_ray else _in_process(plan, on_plan)
    seen: set[str] = set()
    for one in receipts:
        seen.add(one["unit_id"])
        _count(summary, one)
        on_receipt(one)
    for unit in _lost(plan, seen):
        one = _record_lost(plan, unit)
        _count(summary, one)
        on_receipt(one)
    summary.elapsed = time.monotonic() - begin
    return _finish(plan, summary)


def _on_ray(plan: Plan, address: str | None, on_plan: Callable[[Plan], None]) -> Iterator[dict[str, Any]]:
    with ray_session(address, num_cpus=max(2, int(plan.available.cpus))):  # one for the actors, one to feed them
        available = cluster_resources()
        todo = plan.todo
        plan = replace(plan, available=available, pools=place(plan.settings, available, todo.num_rows))
        on_plan(plan)
        engine_pools = [
            EnginePool(
                name="+".join(pool.operators),
                worker=UnitWorker,
                arguments=worker_arguments(plan, pool),
                actors=pool.actors,
                num_cpus=pool.cpus,
                num_gpus=pool.gpus,
            )
            for pool in plan.pools
        ]
        # a fresh run is fed from its manifest's file; what is left of another one is a table already
        source = todo if plan.finished else plan.run.manifest_uri
        yield from stream_receipts(source, engine_pools, max_retries=plan.settings.resources.attempts - 1)


def _in_process(plan: Plan, on_plan: Callable[[Plan], None]) -> Iterator[dict[str, Any]]:
    """The for-loop: every pool's worker over one unit after the other, in this process."""
    plan = replace(plan, pools=place(plan.settings, plan.available, units=1))
    on_plan(plan)
    workers = [UnitWorker(**worker_arguments(plan, pool)) for pool in plan.pools]
    todo = plan.todo
    for row in range(todo.num_rows):
        table = todo.slice(row, 1)
        for worker in workers:
            table = worker(table)
        yield from table.to_pylist()


def worker_arguments(plan: Plan, pool: Pool) -> dict[str, Any]:
    """What a pool's `UnitWorker` is made with: some kB, no model and no table."""
    wanted = plan.settings.resources.device
    device = ("cuda" if pool.gpus > 0 else "cpu") if wanted == "auto" else wanted
    return {
        "settings": plan.settings.model_dump_json(),
        "operators": pool.operators,
        "run": plan.run.uri,
        "device": device,
        "carried": encode_schema(plan.carried),
    }


def _lost(plan: Plan, seen: set[str]) -> list[dict[str, Any]]:
    """Units that neither sent a receipt nor were written: a worker may die between writing its unit and saying so."""
    missing = [unit for unit in plan.todo.to_pylist() if unit["unit_id"] not in seen]
    written = plan.run.finished_units() if missing else set()
    return [unit for unit in missing if unit["unit_id"] not in written]


def _record_lost(plan: Plan, unit: dict[str, Any]) -> dict[str, Any]:
    """Writes error rows for a unit whose worker died with it, each time it was tried."""
    attempts = plan.settings.resources.attempts
    message = f"the worker process died while it held this unit, {attempts} times (killed, out of memory, or crashed)"
    lost = Failure(stage="worker", error_type="WorkerDied", message=message)
    unit = {**unit, "errors": [lost] * len(unit["texts"]), "seconds": {}}
    tables = unit_tables(unit, plan.carried, attempts)
    plan.run.commit_unit(unit["unit_id"], tables)
    return receipt(unit, tables)


def _count(summary: Summary, one: dict[str, Any]) -> None:
    summary.counts["units"] += 1
    for name in ("frames", "ok", "empty", "errors", "masks"):
        summary.counts[name] += one[name]
    summary.error_types.update(one["error_types"])
    summary.seconds.update({stage: value for stage, value in one["seconds"].items() if value})


def _finish(plan: Plan, summary: Summary) -> Summary:
    summary.incomplete = plan.manifest.num_rows - len(
        plan.run.finished_units() & set(plan.manifest["unit_id"].to_pylist())
    )
    plan.run.write_json(
        "stats.json",
        {
            "units": summary.units,
            "units_finished_before": summary.already_finished,
            "counts": dict(summary.counts),
            "error_types": dict(summary.error_types),
            "seconds_by_stage": {stage: round(summary.seconds[stage], 3) for stage in STAGES},
        },
    )
    return summary


def _manifest_hash(manifest: pa.Table) -> str:
    """SHA-256 of what is asked of which video, in manifest order; where the videos lie does not matter."""
    digest = hashlib.sha256()
    columns = [manifest[name].to_pylist() for name in ("unit_id", "carried")]
    for unit_id, carried in zip(*columns, strict=True):
        digest.update(json.dumps([unit_id, carried]).encode())
    return digest.hexdigest()

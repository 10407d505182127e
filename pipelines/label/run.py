"""`vrshq label`: instructions in, mask tables out.

read and check the instruction table -> manifest of units -> open the run directory -> subtract finished units ->
actor pools over the rest -> account for what is missing -> summary.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import time
from collections import Counter
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.ray.engine import Lost, lacking, stream_receipts
from vrshq.cluster.ray.engine import Pool as EnginePool
from vrshq.cluster.ray.metrics import RunMetrics
from vrshq.cluster.ray.resources import Resources, cluster_machines, local_resources, may_grow, total
from vrshq.cluster.ray.session import ray_session
from vrshq.cluster.storage.lease import Lease
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.batch import Failure
from vrshq.pipelines.label.costs import Estimate, estimate
from vrshq.pipelines.label.instructions import build_manifest, carried_schema, read_instructions
from vrshq.pipelines.label.placement import place, wanted_device
from vrshq.pipelines.label.rows import unit_tables
from vrshq.pipelines.label.schema import MANIFEST, SCHEMA_VERSION, STAGES
from vrshq.pipelines.label.settings import Pool, Settings
from vrshq.pipelines.label.worker import PATIENCE_S, UnitWorker, encode_schema, receipt
from vrshq.pipelines.models.locate import open_model

STATS = "stats.json"
COUNTED = ("frames", "ok", "empty", "errors", "masks", "bytes", "decode_passes", "encoder_calls")
# How sure a run must be that too many instructions fail before it stops early: one-sided 99.95 %, from this many on.
_SURE, _ENOUGH = 3.29, 16
_HASHED_ROWS = 65536
# What a `Lost` unit's reason says, and the error type that it becomes.
_LOSSES = {"took longer": "DeadlineExceeded", "for memory": "OutOfMemory", "process died": "WorkerDied"}


@dataclass(frozen=True)
class Plan:
    """What a command would do: its units, what is done of them, where the rest would run, and what that takes.

    Attributes:
        commands: what `stats.json` says of the run's earlier commands.
        machines: those that there are. grows: whether an autoscaler may bring more.
        expected: what a unit of the rest takes; None if it was never measured.
        missing: what the machines lack for the pools, a line each.
    """

    run: RunDirectory
    settings: Settings
    manifest: pa.Table
    carried: pa.Schema
    identity: dict[str, Any]
    finished: set[str]
    model_name: str
    commands: list[dict[str, Any]]
    machines: Sequence[Resources] = ()
    grows: bool = False
    pools: list[Pool] = field(default_factory=list)
    expected: Estimate | None = None
    missing: list[str] = field(default_factory=list)

    @property
    def todo(self) -> pa.Table:
        """The manifest's rows that are not finished."""
        if not self.finished:
            return self.manifest
        return self.manifest.filter(pc.invert(pc.is_in(self.manifest["unit_id"], pa.array(self.finished, pa.string()))))


@dataclass
class Summary:
    """What a command did.

    Attributes:
        units, already_finished: of the run, and finished before this command.
        elapsed: seconds of work. workers: actors in all pools.
        device: torch's name of where the networks ran. pools: the operators of each pool.
        counts: units, retries (attempts beyond a unit's first), frames, ok, empty, errors and masks (rows), bytes
            (written), decode_passes, encoder_calls (frames through SAM2's image encoder).
        busy: seconds that actors spent on units.
        error_types: errors by type. error_example: the message of the first.
        seconds: by stage.
        incomplete: units that are still not finished.
        stopped: why the run was ended early, or None.
    """

    units: int
    already_finished: int
    elapsed: float = 0.0
    workers: int = 0
    device: str = "cpu"
    pools: list[list[str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    busy: float = 0.0
    error_types: Counter[str] = field(default_factory=Counter)
    error_example: str | None = None
    seconds: Counter[str] = field(default_factory=Counter)
    incomplete: int = 0
    stopped: str | None = None

    def placed(self, plan: Plan) -> None:
        """Takes down where the work is done."""
        self.workers = sum(min(pool.actors, plan.todo.num_rows) for pool in plan.pools)
        self.device = wanted_device(plan.settings, plan.machines)
        self.pools = [list(pool.operators) for pool in plan.pools]

    def error_rate(self) -> float:
        """Share of this command's instructions that ended in an error."""
        total = self.counts["ok"] + self.counts["empty"] + self.counts["errors"]
        return self.counts["errors"] / total if total else 0.0

    def idle_share(self) -> float:
        """Share of the workers' time in which they had no unit: start-up, loading of weights, waiting; 0..1."""
        return max(0.0, 1 - self.busy / (self.elapsed * self.workers)) if self.elapsed and self.workers else 0.0

    def add(self, receipt: dict[str, Any]) -> None:
        """Counts one finished unit (a row of `vrshq.pipelines.label.worker.RECEIPT`)."""
        self.counts["units"] += 1
        self.counts["retries"] += receipt["attempt"] - 1
        for name in COUNTED:
            self.counts[name] += receipt[name]
        self.busy += receipt["busy"]
        self.error_types.update(receipt["error_types"])
        self.error_example = self.error_example or receipt["error_example"]
        self.seconds.update({stage: value for stage, value in receipt["seconds"].items() if value})


def make_plan(instructions: str, output: str, settings: Settings, *, videos: str | None = None) -> Plan:
    """Reads and checks everything that can be checked before work starts, for this machine; writes nothing.

    Raises:
        InstructionTableError, SettingsError, CheckpointError, StorageError: one line each, naming the item.
    """
    table = read_instructions(instructions)
    base = instructions.rpartition("/")[0] or "."
    manifest = build_manifest(
        table, videos_root=videos, base=base, max_instructions_per_unit=settings.max_instructions_per_unit
    )
    bundle = open_model(settings.model)
    settings = settings.for_bundle(bundle.presence)
    identity = {
        "schema_version": SCHEMA_VERSION,
        "model": {"name": bundle.name, "fingerprint": bundle.fingerprint},
        "manifest_sha256": _manifest_hash(manifest),
        "settings": settings.identity(),
    }
    run = RunDirectory(output)
    plan = Plan(
        run=run,
        settings=settings,
        manifest=manifest,
        carried=carried_schema(table),
        identity=identity,
        finished=_finished(run, manifest),
        model_name=bundle.name,
        commands=_commands(run),
    )
    return _placed(plan, [local_resources()])


def plan_for(plan: Plan, address: str | None = None) -> Plan:
    """The plan for the cluster that `label` would use: `address`, RAY_ADDRESS, else this machine as it is.

    Raises:
        ConnectionError: no cluster answers at the address.
    """
    if not (address or os.environ.get("RAY_ADDRESS")):
        return plan
    with ray_session(address):
        return _placed(plan, cluster_machines(), grows=may_grow())


def _placed(plan: Plan, machines: Sequence[Resources], *, grows: bool = False) -> Plan:
    """The plan with the pools for what is to do on these machines."""
    todo, settings = plan.todo, plan.settings
    per_unit = (pc.mean(pc.list_value_length(todo["instruction_ids"])).as_py() if todo.num_rows else None) or 1.0
    device = wanted_device(settings, machines)
    expected = estimate(plan.model_name, device, settings.dtype, per_unit, plan.commands)
    plan = replace(plan, machines=machines, grows=grows, expected=expected)
    plan = replace(plan, pools=place(settings, machines, todo.num_rows, expected))
    missing = lacking(_engine_pools(plan), machines) if todo.num_rows else []
    return replace(plan, missing=missing)


def _engine_pools(plan: Plan) -> list[EnginePool]:
    """The engine's pools, with no more actors than units."""
    return [
        EnginePool(
            name="+".join(pool.operators),
            worker=UnitWorker,
            arguments={**worker_arguments(plan, pool), "log_units": True},
            actors=min(pool.actors, plan.todo.num_rows),
            max_actors=pool.max_actors,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
            deadline_s=plan.settings.resources.deadline_seconds,
        )
        for pool in plan.pools
    ]


def _commands(run: RunDirectory) -> list[dict[str, Any]]:
    """What `stats.json` says of the run's earlier commands."""
    found: list[dict[str, Any]] = run.read_json(STATS)["commands"] if run.folder.exists(STATS) else []
    return found


def label(
    instructions: str,
    output: str,
    settings: Settings | None = None,
    *,
    videos: str | None = None,
    address: str | None = None,
    retry_errors: bool = False,
    max_error_rate: float = 1.0,
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
        max_error_rate: a run is stopped as soon as it is clear that a larger share of the instructions fails.
        use_ray: False runs the same operators in this process, one unit after the other.
        on_plan, on_receipt: called with the plan before work starts, and with each finished unit's counts.

    Returns:
        the counts of this call.
    """
    settings = settings or Settings()
    plan = make_plan(instructions, output, settings, videos=videos)
    plan.run.open(plan.identity, {"version": importlib.metadata.version("vrshq"), "model": settings.model})
    with Lease(plan.run.folder, "label"):
        if not plan.run.has_manifest():
            plan.run.write_manifest(plan.manifest)
        plan = replace(plan, finished=_finished(plan.run, plan.manifest))  # another command may have just ended
        if retry_errors:
            again = plan.run.errored_units() & plan.finished
            for unit_id in again:
                plan.run.forget_unit(unit_id)
            plan = replace(plan, finished=plan.finished - again)
        plan = replace(plan, run=RunDirectory(output, patience_s=PATIENCE_S))
        return _run(plan, address, max_error_rate, use_ray=use_ray, on_plan=on_plan, on_receipt=on_receipt)


def _run(
    plan: Plan,
    address: str | None,
    max_error_rate: float,
    *,
    use_ray: bool,
    on_plan: Callable[[Plan], None],
    on_receipt: Callable[[dict[str, Any]], None],
) -> Summary:
    summary = Summary(units=plan.manifest.num_rows, already_finished=len(plan.finished))
    if plan.todo.num_rows == 0:
        on_plan(plan)
        return _finish(plan, summary)
    begin = time.monotonic()
    receipts = _on_ray(plan, address, summary, on_plan) if use_ray else _in_process(plan, summary, on_plan)
    for one in receipts:
        summary.add(one)
        on_receipt(one)
        summary.stopped = _failing(summary, max_error_rate)
        if summary.stopped:
            receipts.close()
            break
    summary.elapsed = time.monotonic() - begin
    return _finish(plan, summary)


def _on_ray(
    plan: Plan, address: str | None, summary: Summary, on_plan: Callable[[Plan], None]
) -> Generator[dict[str, Any]]:
    with ray_session(address, num_cpus=max(1, int(total(plan.machines).cpus))):
        plan = _placed(plan, cluster_machines(), grows=may_grow())
        on_plan(plan)
        todo = plan.todo
        # a fresh run is fed from its manifest's file; what is left of another one is a table already
        source = todo if plan.finished else plan.run.manifest_uri
        attempts = plan.settings.resources.attempts
        summary.placed(plan)
        metrics = RunMetrics(waiting=todo.num_rows)
        for one in stream_receipts(source, _engine_pools(plan), attempts=attempts, finished=plan.run.finished_units):
            done = _record_lost(plan, one) if isinstance(one, Lost) else one
            metrics.unit(
                statuses={"ok": done["ok"], "empty": done["empty"], "error": done["errors"]},
                frames=done["frames"],
                error_types=done["error_types"],
                attempt=done["attempt"],
                seconds=done["busy"],
                stage_seconds=done["seconds"],
            )
            yield done


def _in_process(plan: Plan, summary: Summary, on_plan: Callable[[Plan], None]) -> Generator[dict[str, Any]]:
    """The for-loop: every pool's worker over one unit after the other, in this process."""
    plan = replace(plan, pools=place(plan.settings, plan.machines, units=1), missing=[])
    on_plan(plan)
    workers = [UnitWorker(**worker_arguments(plan, pool)) for pool in plan.pools]
    summary.placed(plan)
    summary.workers = 1
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


def _record_lost(plan: Plan, lost: Lost) -> dict[str, Any]:
    """Writes error rows for a unit that no attempt brought through."""
    unit = {name: lost.row[name] for name in MANIFEST.names}
    tries = "1 attempt" if lost.attempts == 1 else f"{lost.attempts} attempts"
    error_type = next((name for words, name in _LOSSES.items() if words in lost.reason), "WorkerError")
    why = Failure(stage="worker", error_type=error_type, message=f"given up after {tries}: {lost.reason}")
    unit |= {"errors": [why] * len(unit["texts"]), "seconds": {}}
    tables = unit_tables(unit, plan.carried, lost.attempts)
    return receipt(unit, tables, plan.run.commit_unit(unit["unit_id"], tables))


def _failing(summary: Summary, max_error_rate: float) -> str | None:
    """Why to stop, if it is all but certain that a larger share of instructions fails than is allowed.

    Compares the lower bound of Wilson's score interval for the share of errors so far.
    """
    errors, total = summary.counts["errors"], sum(summary.counts[name] for name in ("ok", "empty", "errors"))
    if total < _ENOUGH or max_error_rate >= 1:
        return None
    share, spread = errors / total, _SURE**2 / total
    lower = (share + spread / 2 - _SURE * math.sqrt(share * (1 - share) / total + spread / (4 * total))) / (1 + spread)
    if lower <= max_error_rate:
        return None
    error_type, number = summary.error_types.most_common(1)[0]
    return (
        f"{errors} of the first {total} instructions failed, more than --max-error-rate {max_error_rate:g} allows; "
        f"{number} x {error_type}, the first error: {summary.error_example}"
    )


def _finished(run: RunDirectory, manifest: pa.Table) -> set[str]:
    found = pa.array(run.finished_units(), pa.string())
    return set(manifest["unit_id"].filter(pc.is_in(manifest["unit_id"], found)).to_pylist())


def _finish(plan: Plan, summary: Summary) -> Summary:
    summary.incomplete = plan.manifest.num_rows - len(_finished(plan.run, plan.manifest))
    before = _commands(plan.run)
    command = {
        "units_finished_before": summary.already_finished,
        "elapsed_seconds": round(summary.elapsed, 3),
        "workers": summary.workers,
        "device": summary.device,
        "pools": summary.pools,
        "busy_seconds": round(summary.busy, 3),
        "idle_share": round(summary.idle_share(), 4),
        "counts": dict(summary.counts),
        "error_types": dict(summary.error_types),
        "seconds_by_stage": {stage: round(summary.seconds[stage], 3) for stage in STAGES},
        "stopped": summary.stopped,
    }
    content = {"units": summary.units, "unfinished": summary.incomplete, "commands": [*before, command]}
    plan.run.write_json(STATS, content)
    if plan.settings.resources.compact and not summary.incomplete:
        plan.run.compact(plan.manifest["unit_id"].to_pylist(), to_the_end=True)
    return summary


def _manifest_hash(manifest: pa.Table) -> str:
    """SHA-256 of what is asked of which video, in manifest order; where the videos lie does not matter."""
    digest = hashlib.sha256()
    asked = manifest.select(["unit_id", "carried"])
    for row in range(0, asked.num_rows, _HASHED_ROWS):
        digest.update(json.dumps(asked.slice(row, _HASHED_ROWS).to_pydict()).encode())
    return digest.hexdigest()

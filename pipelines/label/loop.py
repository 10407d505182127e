"""The two ways to work through a plan's units: actor pools on Ray, and the for-loop in this process."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from vrshq.cluster.ray.crew import Starting
from vrshq.cluster.ray.engine import Lost, stream_receipts
from vrshq.cluster.ray.errors import ProcessUnusable, one_line
from vrshq.cluster.ray.metrics import RunMetrics
from vrshq.cluster.ray.needs import startable
from vrshq.cluster.ray.resources import cluster_machines, may_grow, total
from vrshq.cluster.ray.schedule import first_rows
from vrshq.cluster.ray.session import is_connected, ray_session
from vrshq.operators.batch import Failure, Made
from vrshq.pipelines.label.planning.order import RELATIVE, costliest_first
from vrshq.pipelines.label.planning.placement import network_device
from vrshq.pipelines.label.planning.plan import (
    Plan,
    actor_pools,
    in_this_process,
    on_machines,
    refuse,
    worker_arguments,
)
from vrshq.pipelines.label.tables.rows import unit_tables
from vrshq.pipelines.label.tables.schema import MANIFEST, STAGES
from vrshq.pipelines.label.tables.summary import RunSummary
from vrshq.pipelines.label.watcher import Watcher
from vrshq.pipelines.label.work.wire import receipt
from vrshq.pipelines.label.work.worker import UnitWorker, parts_of
from vrshq.pipelines.models.locate import announce_fetching

# Units with equal values here share an open video.
_SAME_VIDEO = ("video_uri", "start", "end")
# Words of a `Lost` unit's reason -> error type of its error rows.
_LOSSES = {
    "took longer": "DeadlineExceeded",
    "for memory": "OutOfMemory",
    "out of device memory": "OutOfMemory",
    "process died": "WorkerDied",
}


def connect(plan: Plan, address: str | None, watcher: Watcher, session: contextlib.ExitStack) -> None:
    """Connects to Ray for the time of `session`, unless this process is connected. Arguments as for `on_ray`."""
    if not is_connected():
        watcher.waits("connecting to Ray" if address or os.environ.get("RAY_ADDRESS") else "starting Ray")
    session.enter_context(ray_session(address, num_cpus=max(1, int(total(plan.machines).cpus))))


def on_ray(
    plan: Plan,
    address: str | None,
    summary: RunSummary,
    watcher: Watcher,
    session: contextlib.ExitStack,
    check: Callable[[], None],
) -> Generator[dict[str, Any]]:
    """Runs the unfinished units in actor pools; yields the receipt of each, lost units included.

    Args:
        plan: of any machines; it is made again for those of the cluster.
        address: Ray cluster; default: RAY_ADDRESS, the cluster of the surrounding job, else one on this machine.
        summary: where the placement is noted.
        watcher: receives the final plan, and what the run waits for.
        session: keeps the connection to Ray.
        check: called now and then; raises to end the run, whatever its units are doing.
    """
    connect(plan, address, watcher, session)
    plan = on_machines(plan, cluster_machines(), grows=may_grow())
    if plan.model is not None:
        announce_fetching(plan.model, parts_of(STAGES, plan.settings))
    watcher.planned(plan)
    refuse(plan)
    _note_placement(summary, plan)
    todo = costliest_first(
        plan.todo, plan.lengths.by_uri if plan.lengths else {}, plan.expected.terms if plan.expected else RELATIVE
    )
    attempts = plan.settings.resources.attempts
    metrics = RunMetrics(waiting=todo.num_rows)
    pools, finished = actor_pools(plan), plan.run.finished_among
    if plan.settings.resources.pools is None:
        # a machine may have gone since the plan was made; pools that were asked for are refused
        pools = startable(pools)

    def on_start(now: Starting) -> None:
        watcher.waits(starting_line(now))

    for one in stream_receipts(
        todo, pools, attempts=attempts, finished=finished, together=_SAME_VIDEO, on_start=on_start, check=check
    ):
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


def starting_line(now: Starting) -> str:
    """How far the actors have started, in words; "" once all are ready."""
    if now.ready >= now.actors:
        return ""
    loading = f"{now.loading} loading weights, " if now.loading else ""
    return f"starting {now.actors} {'actor' if now.actors == 1 else 'actors'}: {loading}{now.ready} ready"


def in_process(plan: Plan, summary: RunSummary, watcher: Watcher) -> Generator[dict[str, Any]]:
    """The for-loop: each pool's worker over one unit after the other, in this process; yields the receipts."""
    plan = in_this_process(plan)
    watcher.planned(plan)
    refuse(plan)
    watcher.waits("loading weights")
    workers = [UnitWorker(**worker_arguments(plan, pool)) for pool in plan.pools]
    watcher.waits("")
    _note_placement(summary, plan)
    summary.workers = 1
    with _told(watcher):
        for one in one_by_one(workers, _with_more(plan.todo)):
            yield _record_lost(plan, one) if isinstance(one, Lost) else one


def _with_more(units: pa.Table) -> pa.Table:
    """The units with the column `more` that the engine adds on Ray."""
    more = np.ones(units.num_rows + 1, bool)
    more[first_rows(units, _SAME_VIDEO)] = more[-1] = False
    return units.append_column("more", pa.array(more[1:]))


@contextlib.contextmanager
def _told(watcher: Watcher) -> Iterator[None]:
    """A context in which the watcher hears once a second how many masks this process has made: a unit may take minutes."""
    begin, before, ended = time.monotonic(), Made.masks, threading.Event()

    def tell() -> None:
        while not ended.wait(1):
            watcher.works(Made.masks - before, time.monotonic() - begin)

    teller = threading.Thread(target=tell, name="progress", daemon=True)
    teller.start()
    try:
        yield
    finally:
        ended.set()
        teller.join()


def one_by_one(workers: Sequence[Callable[[pa.Table], pa.Table]], units: pa.Table) -> Iterator[dict[str, Any] | Lost]:
    """The rows that the last worker returns for each unit; `Lost` where one raised, which costs only that unit, as on Ray."""
    for row in range(units.num_rows):
        table = unit = units.slice(row, 1)
        try:
            for worker in workers:
                table = worker(table)
        except ProcessUnusable:  # every later unit would fail in the same way
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the other units go on
            yield Lost(unit.to_pylist()[0], attempts=1, reason=one_line(error))
        else:
            yield from table.to_pylist()


def _note_placement(summary: RunSummary, plan: Plan) -> None:
    summary.workers = sum(min(pool.actors, plan.todo.num_rows) for pool in plan.pools)
    summary.device = network_device(plan.settings, plan.machines)
    summary.pools = [list(pool.operators) for pool in plan.pools]


def _record_lost(plan: Plan, lost: Lost) -> dict[str, Any]:
    """Writes the error rows of a unit whose attempts are used up, and returns its receipt."""
    unit = {name: lost.row[name] for name in MANIFEST.names}
    tries = "1 attempt" if lost.attempts == 1 else f"{lost.attempts} attempts"
    error_type = next((name for words, name in _LOSSES.items() if words in lost.reason), "WorkerError")
    failure = Failure(stage="worker", error_type=error_type, message=f"given up after {tries}: {lost.reason}")
    unit |= {"errors": [failure] * len(unit["texts"]), "seconds": {}}
    tables = unit_tables(unit, plan.carried, lost.attempts)
    return receipt(unit, tables, plan.run.commit_unit(unit["unit_id"], tables))

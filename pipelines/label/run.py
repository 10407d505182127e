"""`vrshq label`: instructions in, mask tables out.

read and check the instruction table -> manifest of units -> open the run directory -> subtract finished units ->
label the pieces of very long videos, a run of its own -> actor pools over the rest, whose parts are merged meanwhile ->
account for every unit -> stats and merged parts.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any

from vrshq.cluster.storage.lease import Lease
from vrshq.pipelines.label.asked.instructions import Instructions
from vrshq.pipelines.label.beside import merging_beside
from vrshq.pipelines.label.ending import end
from vrshq.pipelines.label.error_policy import ErrorPolicy
from vrshq.pipelines.label.loop import connect, in_process, on_ray
from vrshq.pipelines.label.origin import open_run
from vrshq.pipelines.label.pieces import pieces_of
from vrshq.pipelines.label.planning.plan import begun, check_plan
from vrshq.pipelines.label.planning.types import cluster_of
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.summary import RunSummary
from vrshq.pipelines.label.watcher import Watcher


def label(
    instructions: Instructions,
    output: str,
    settings: Settings | None = None,
    *,
    videos: str | None = None,
    address: str | None = None,
    use_ray: bool = True,
    errors: ErrorPolicy | None = None,
    watcher: Watcher | None = None,
    grow: bool = False,
) -> RunSummary:
    """Labels every instruction of a table. The same call again continues an interrupted run.

    Args:
        instructions: the table, as for `read_instructions`.
        output: uri of the run directory.
        settings: default `Settings()`.
        videos: root of relative `video_uri`s; default: the table's folder, else the current one.
        address: Ray cluster; default: RAY_ADDRESS, the cluster of the surrounding job, else one on this machine.
        use_ray: False runs the same operators in this process, one unit after the other.
        errors: retries of earlier errors, and the share of errors that stops the run; default `ErrorPolicy()`.
        watcher: receives the plan before work starts, the receipt of each finished unit, and the summary.
        grow: adds the rows that the table has and the run directory does not have; its own rows must be as they were.

    Returns:
        The counts of this call; `outcome` holds those of the run.

    Raises:
        UserError: the table, the settings, the model or the run directory cannot be used; see `check_plan`.
        LeaseLostError: another command has taken the run directory over.
    """
    settings, errors, watcher = settings or Settings(), errors or ErrorPolicy(), watcher or Watcher()
    cluster = cluster_of(address, use_ray=use_ray)
    plan = check_plan(
        instructions, output, settings, videos=videos, shown=watcher.shows_plan, grow=grow, cluster=cluster
    )
    open_run(plan)
    with Lease(plan.run.folder, "label") as lease, contextlib.ExitStack() as session:
        plan = begun(plan, retry_errors=errors.retry)
        summary = RunSummary(units=plan.manifest.num_rows, already_finished=len(plan.finished))
        finished = set(plan.finished)
        begin = time.monotonic()
        if pieces := pieces_of(plan, watcher):
            if use_ray:
                connect(plan, address, watcher, session)  # the pieces and the run share the connection
            how: dict[str, Any] = {"address": address, "use_ray": use_ray, "errors": errors, "grow": True}
            how["watcher"] = pieces.watcher(watcher, lease.check)
            summary.include(label(pieces.table, pieces.output, pieces.settings, **how))
        if plan.todo.num_rows and not summary.stopped:
            if use_ray:
                work = on_ray(plan, address, summary, watcher, session, lease.check)
            else:
                work = in_process(plan, summary, watcher)
            with contextlib.closing(work) as receipts, merging_beside(plan, lease.check) as may_merge:
                for receipt in receipts:
                    summary.add(receipt)
                    may_merge(receipt)
                    finished.add(receipt["unit_id"])
                    watcher.unit_finished(receipt)
                    lease.check()
                    summary.stopped = errors.reason_to_stop(summary)
                    if summary.stopped:
                        break
            summary.elapsed = time.monotonic() - begin
        else:
            watcher.planned(plan)
        end(plan, summary, finished, lease)
    watcher.finished(summary)
    return summary

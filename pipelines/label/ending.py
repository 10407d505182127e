"""The end of a labelling command: what the run holds now, its statistics, and the merging of its parts."""

from __future__ import annotations

from vrshq.cluster.ray.merges import where_it_pays
from vrshq.cluster.storage.lease import Lease
from vrshq.pipelines.label.pieces import forget_pieces
from vrshq.pipelines.label.planning.plan import Plan, finished_units
from vrshq.pipelines.label.tables.outcome import read_outcome
from vrshq.pipelines.label.tables.stats import add_command
from vrshq.pipelines.label.tables.summary import RunSummary


def end(plan: Plan, summary: RunSummary, finished: set[str], lease: Lease) -> None:
    """Counts what the run holds and lacks, writes `stats.json`, and merges the parts of a complete run.

    Args:
        plan: of the run.
        summary: the command's counts; receives those of the run.
        finished: ids of the units that were finished before, and of those with a receipt. Where some are missing, a receipt
            may be lost.
        lease: the command's.
    """
    if len(finished) < plan.manifest.num_rows:
        finished = finished_units(plan.run, plan.manifest)
    summary.incomplete = plan.manifest.num_rows - len(finished)
    summary.outcome = read_outcome(plan.run, plan.manifest, finished)
    lease.check()
    add_command(plan.run, summary)
    if summary.incomplete:
        return
    forget_pieces(plan.run)
    plan.run.forget_states()
    if plan.settings.resources.compact:
        unit_ids = plan.manifest["unit_id"].to_pylist()
        plan.run.compact(unit_ids, to_the_end=True, check=lease.check, spread=where_it_pays)

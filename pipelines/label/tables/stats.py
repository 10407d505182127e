"""`stats.json` of a run directory: one entry for each labelling command."""

from __future__ import annotations

from typing import Any

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.tables.schema import STAGES
from vrshq.pipelines.label.tables.summary import RunSummary

STATS = "stats.json"


def read_commands(run: RunDirectory) -> list[dict[str, Any]]:
    """The entries of the run's earlier commands, oldest first."""
    if not run.folder.exists(STATS):
        return []
    commands: list[dict[str, Any]] = run.read_json(STATS)["commands"]
    return commands


def add_command(run: RunDirectory, summary: RunSummary) -> None:
    """Appends the entry of a command that has ended."""
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
    commands = [*read_commands(run), command]
    run.write_json(STATS, {"units": summary.units, "unfinished": summary.incomplete, "commands": commands})

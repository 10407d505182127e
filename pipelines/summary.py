"""What a command prints: its plan before, one screen of results after."""

from __future__ import annotations

import sys

import pyarrow.compute as pc
from rich.console import Console
from rich.table import Table

from pipelines.label import Plan, Summary
from pipelines.schema import STAGES


def print_plan(console: Console, plan: Plan) -> None:
    """Units, what is done of them, where the rest runs and what it needs."""
    instructions = pc.sum(pc.list_value_length(plan.manifest["instruction_ids"])).as_py() or 0
    videos = pc.count_distinct(plan.manifest["video_id"]).as_py()
    todo = plan.todo.num_rows
    grid = Table.grid(padding=(0, 2))
    grid.add_row("run", plan.run.uri)
    grid.add_row("work", f"{instructions} instructions on {videos} videos in {plan.manifest.num_rows} units")
    grid.add_row("done", f"{plan.manifest.num_rows - todo} units, {todo} to do")
    grid.add_row(
        "model", f"{plan.model_name}, {plan.settings.dtype}, fingerprint {plan.identity['model']['fingerprint']}"
    )
    for pool in plan.pools:
        gpus = f", {pool.gpus:g} GPU each" if pool.gpus else ""
        most = f" to {pool.max_actors}" if pool.max_actors else ""
        grid.add_row("pool", f"{' + '.join(pool.operators)}: {pool.actors}{most} actors, {pool.cpus:g} CPU each{gpus}")
    needs_gpus = sum(pool.actors * pool.gpus for pool in plan.pools)
    if needs_gpus > plan.available.gpus:
        grid.add_row("missing", f"[red]needs {needs_gpus:g} GPUs, there are {plan.available.gpus:g}[/red]")
    console.print(grid, highlight=False)


def print_summary(console: Console, summary: Summary, output: str) -> None:
    """Counts, speed, where the time went, and what failed."""
    counts = summary.counts
    grid = Table.grid(padding=(0, 2))
    grid.add_row("units", f"{counts['units']} done now, {summary.already_finished} before, of {summary.units}")
    grid.add_row("instructions", f"{counts['ok']} ok, {counts['empty']} empty, {counts['errors']} errors")
    rate = counts["frames"] / summary.elapsed if summary.elapsed else 0.0
    grid.add_row(
        "masks", f"{counts['masks']} rows, {counts['frames']} frames in {summary.elapsed:.1f} s ({rate:.1f} frames/s)"
    )
    total = sum(summary.seconds.values())
    if total:
        spent = ", ".join(f"{stage} {summary.seconds[stage] / total:.0%}" for stage in STAGES if summary.seconds[stage])
        grid.add_row("time in stages", spent)
    for error_type, number in summary.error_types.most_common(5):
        grid.add_row("errors", f"{number} x {error_type}")
    if summary.counts["retries"]:
        grid.add_row("retries", f"{summary.counts['retries']} attempts beyond a unit's first")
    if summary.incomplete:
        grid.add_row("incomplete", f"{summary.incomplete} units; run the same command again")
    console.print(grid, highlight=False)
    if summary.stopped:
        print(
            f"stopped: {summary.stopped}. When that is put right, run the same line with --retry-errors",
            file=sys.stderr,
        )
    console.print(f"tables in {output}", markup=False, highlight=False)

"""The screens of a labelling run: the plan before, progress during, one screen of results after."""

from __future__ import annotations

import logging
import sys
from typing import Any

import pyarrow.compute as pc
from rich.status import Status
from rich.table import Table
from rich.text import Text

from vrshq.cluster.ray.resources import total
from vrshq.pipelines.cli.progress import RunProgress
from vrshq.pipelines.cli.terminal import console, say
from vrshq.pipelines.estimate.memory import in_parts
from vrshq.pipelines.label.planning.bill import bill_of
from vrshq.pipelines.label.planning.costs import Estimate
from vrshq.pipelines.label.planning.device import pool_memory
from vrshq.pipelines.label.planning.placement import actor_memory, device_of, wall_seconds
from vrshq.pipelines.label.planning.plan import Plan
from vrshq.pipelines.label.tables.schema import STAGES
from vrshq.pipelines.label.tables.summary import RunSummary
from vrshq.pipelines.label.watcher import Watcher
from vrshq.pipelines.label.work.worker import parts_of
from vrshq.pipelines.models.known import human_bytes
from vrshq.pipelines.models.locate import DescribedModel

logger = logging.getLogger("vrshq.run")


class RunDisplay(Watcher):
    """Prints the plan, then shows progress until the labelling ends. A context manager, so that an error ends it too."""

    def __init__(self, *, plan: bool = True) -> None:
        self.shows_plan = plan
        self._progress: RunProgress | None = None
        self._status: Status | None = None  # before the number of units is known
        self._waits = ""
        self._units = self._finished = 0

    def waits(self, reason: str) -> None:
        """Shows what the run waits for: in the progress display, else beside a spinner, and as lines without a terminal."""
        if reason == self._waits:
            return
        self._waits = reason
        if self._progress:
            self._progress.waits(reason)
        elif not console.is_terminal and reason:
            say(reason)
        elif self._status:
            self._status.update(reason)
        elif reason:
            self._status = console.status(reason)
            self._status.start()

    def planned(self, plan: Plan) -> None:
        """Prints the plan and starts the progress display."""
        self._stop()
        self._waits = ""
        if self.shows_plan:
            print_plan(plan)
        self._units, self._finished = plan.manifest.num_rows, len(plan.finished)
        self._progress = RunProgress(plan.todo.num_rows)
        self._progress.start()

    def works(self, masks: int, seconds: float) -> None:
        """Shows the masks of the unit in progress, on a terminal."""
        if self._progress:
            self._progress.works(masks, seconds)

    def unit_finished(self, receipt: dict[str, Any]) -> None:
        """Counts and logs the unit."""
        self._finished += 1
        logger.info(
            "unit %(unit_id)s: %(ok)d ok, %(empty)d empty, %(errors)d errors, %(frames)d frames, attempt %(attempt)d, "
            "%(busy).1f s in actors",
            receipt,
        )
        if self._progress:
            self._progress.add(receipt)

    def so_far(self) -> str:
        """What is finished, for the line after Ctrl-C."""
        return f"{self._finished} of {self._units} units are finished" if self._units else "no unit was begun"

    def finished(self, summary: RunSummary) -> None:  # noqa: ARG002 - the command prints it
        """Ends the progress display."""
        self._stop()

    def __enter__(self) -> RunDisplay:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def _stop(self) -> None:
        for shown in (self._progress, self._status):
            if shown:
                shown.stop()
        self._progress = self._status = None


def print_plan(plan: Plan) -> None:
    """The units, the finished ones among them, the actor pools for the rest, and the missing resources."""
    instructions = pc.sum(pc.list_value_length(plan.manifest["instruction_ids"])).as_py() or 0
    videos = pc.count_distinct(plan.manifest["video_id"]).as_py()
    todo = plan.todo.num_rows
    grid = Table.grid(padding=(0, 2))
    grid.add_row("run", plan.run.uri)
    grid.add_row("work", f"{instructions} instructions on {videos} videos in {plan.manifest.num_rows} units")
    if plan.added.num_rows:
        new = pc.sum(pc.list_value_length(plan.added["instruction_ids"])).as_py()
        grid.add_row("grows", f"by {new} instructions in {plan.added.num_rows} units")
    grid.add_row("done", f"{plan.manifest.num_rows - todo} units, {todo} to do")
    grid.add_row(
        "model", f"{plan.model_name}, {plan.settings.dtype}, fingerprint {plan.identity['model']['fingerprint']}"
    )
    _add_model(grid, plan)
    if todo:
        _add_placement(grid, plan, todo)
    console.print(grid, highlight=False)


def _add_model(grid: Table, plan: Plan) -> None:
    """Adds the licence of the model, the memory of its weights, and what a machine fetches, as far as they are known."""
    model = plan.model
    if model is None:
        return
    known, remote = model.known, model.remote
    if remote is not None:
        grid.add_row("licence", f"{remote.licence} ({remote.uri})")
    if known is not None:
        sizes = ", ".join(f"{human_bytes(size)} in {dtype}" for dtype, size in known.memory.items())
        grid.add_row("memory", f"the weights take {sizes}; frames and features come on top")
    if remote is not None:
        parts = parts_of([operator for pool in plan.pools for operator in pool.operators], plan.settings)
        whole, absent = model.weights(parts), model.weights(parts, absent=True)
        here = f"this machine lacks {human_bytes(absent)} of them" if absent else "this machine has them"
        grid.add_row("weights", f"{human_bytes(whole)}, fetched once on each machine that needs them; {here}")


def _fetches(model: DescribedModel, parts: set[str]) -> str:
    """What an actor with these parts of the model fetches, in words."""
    size = human_bytes(model.weights(parts))
    return f"fetches {size}" if model.weights(parts, absent=True) else f"whose {size} are here"


def _add_placement(grid: Table, plan: Plan, todo: int) -> None:
    """Adds the machines, the pools on them, the expected cost, and the missing resources."""
    there = total(plan.machines)
    machines = "1 machine" if there.nodes == 1 else f"{there.nodes} machines"
    grows = "; an autoscaler may bring more" if plan.grows else ""
    memory = f"{there.memory_bytes / 2**30:.1f} GiB of memory"
    grid.add_row("on", f"{machines} with {there.cpus:g} CPUs, {there.gpus:g} GPUs, {memory}{grows}")
    for pool in plan.pools:
        share = f"1/{round(1 / pool.gpus)}" if 0 < pool.gpus < 1 else f"{pool.gpus:g}"
        gpus = f", {share} GPU" if pool.gpus else ""
        most = f" to {pool.max_actors}" if pool.max_actors else ""
        host = actor_memory(plan.settings, pool.operators, device_of(plan.settings, pool), pool.units)
        memory = f"about {host / 2**30:.1f} GiB and the weights"
        if plan.model and plan.model.remote:
            memory += f", {_fetches(plan.model, parts_of(pool.operators, plan.settings))}"
        actors = f"{pool.actors}{most} {'actor' if pool.actors == 1 and not most else 'actors'}"
        if plan.sizes and device_of(plan.settings, pool) == "cuda":
            grid.add_row("gpu", in_parts(pool_memory(plan.sizes, plan.settings, pool)))
        grid.add_row("pool", f"{' + '.join(pool.operators)}: {actors}, each {pool.cpus:g} CPU{gpus}, {memory}")
    expected = plan.expected
    if expected is None:
        grid.add_row("cost", f"not measured for {plan.model_name} in {plan.settings.dtype} on this device")
    else:
        grid.add_row("cost", cost_in_words(expected))
        whole = duration(wall_seconds(plan.pools, expected, todo))
        grid.add_row("whole", f"about {whole} for {todo} units of this length, and the start")
    if (bill := bill_of(plan)) is not None:
        grid.add_row(
            "storage",
            f"about {bill.writes:,} writes and {bill.reads:,} reads of objects, ${bill.dollars:.2g} at S3's prices; "
            f"{human_bytes(bill.nbytes)} of tables, ${bill.dollars_a_month:.2g} a month",
        )
    for line in (*plan.missing, *plan.too_small):
        grid.add_row("missing", Text(line, style="yellow" if plan.grows else "red"))


def _origin(expected: Estimate) -> str:
    """Where the average length comes from, in brackets; nothing where finished units tell it."""
    if expected.known:
        return ""
    if expected.lengths is None:
        return " (assumed)"
    return f" (headers of {expected.lengths.looked} of {expected.lengths.videos:,} videos)"


def cost_in_words(expected: Estimate) -> str:
    """The seconds of each stage, of a unit of what length, and the origin of these numbers."""
    seconds = ((stage, expected.seconds[stage]) for stage in STAGES)
    each = ", ".join(f"{stage} {time:.0f} s" if time >= 100 else f"{stage} {time:.2g} s" for stage, time in seconds)
    return f"{each}, of a unit of {expected.frames:.0f} frames{_origin(expected)}; {expected.source}"


def duration(seconds: float) -> str:
    """A time in words: 3.5 h."""
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:.2g} {unit}"
    return f"{seconds:.2g} s"


def print_summary(summary: RunSummary, output: str) -> None:
    """Counts of the command and of the run, speed, shares of the stages in the time, and the commonest errors."""
    counts, outcome = summary.counts, summary.outcome
    grid = Table.grid(padding=(0, 2))
    grid.add_row("units", f"{counts['units']} done now, {summary.already_finished} before, of {summary.units}")
    by_this = " by this command" if summary.already_finished else ""
    grid.add_row("instructions", f"{counts['ok']} ok, {counts['empty']} empty, {counts['errors']} errors{by_this}")
    if outcome and by_this:
        answered = f"{outcome.finished - outcome.errors} answered, {outcome.errors} errors"
        grid.add_row("whole run", f"{answered}, of {outcome.instructions} instructions")
    rate = counts["frames"] / summary.elapsed if summary.elapsed else 0.0
    grid.add_row(
        "masks", f"{counts['masks']} rows, {counts['frames']} frames in {summary.elapsed:.1f} s ({rate:.1f} frames/s)"
    )
    total = sum(summary.seconds.values())
    if total:
        spent = ", ".join(f"{stage} {summary.seconds[stage] / total:.0%}" for stage in STAGES if summary.seconds[stage])
        grid.add_row("time in stages", spent)
    if summary.counts["retries"]:
        grid.add_row("retries", f"{summary.counts['retries']} attempts beyond a unit's first")
    if summary.incomplete:
        grid.add_row("incomplete", f"{summary.incomplete} units; run the same command again")
    console.print(grid, highlight=False)
    if outcome and outcome.errors:  # not in the grid, which would break a path
        for failures in outcome.commonest:
            say(failures.line())
        say(
            f"each error is a row of {output.rstrip('/')}/errors; the same command with --retry-errors tries them again"
        )
    if summary.stopped:
        print(
            f"stopped: {summary.stopped}. After the cause is fixed, run the same command with --retry-errors",
            file=sys.stderr,
        )
    say(f"tables in {output}")

"""`vrshq label`, `vrshq plan`, `vrshq compact`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from vrshq.pipelines.cli.options import (
    Address,
    Config,
    Grow,
    Instructions,
    MaxErrorRate,
    Model,
    On,
    Output,
    RetryErrors,
    Run,
    Set,
    UseRay,
    Videos,
)
from vrshq.pipelines.cli.terminal import INCOMPLETE, TOO_MANY_ERRORS, continues, say

if TYPE_CHECKING:
    from vrshq.pipelines.label.settings import Settings


def label(
    instructions: Instructions,
    output: Output,
    videos: Videos = None,
    model: Model = None,
    config: Config = None,
    set_: Set = None,
    address: Address = None,
    ray: UseRay = True,
    max_error_rate: MaxErrorRate = 1.0,
    retry_errors: RetryErrors = False,
    grow: Grow = False,
) -> None:
    """Answer every instruction with a mask for each frame of its video."""
    from vrshq.pipelines.cli.run_display import RunDisplay, print_summary
    from vrshq.pipelines.label.error_policy import ErrorPolicy
    from vrshq.pipelines.label.run import label as run_label
    from vrshq.pipelines.label.settings import load_settings

    settings = load_settings(config, set_ or [], model=model)
    errors = ErrorPolicy(max_error_rate, retry_errors)
    display = RunDisplay()
    with continues(display.so_far), display:
        summary = run_label(
            instructions,
            output,
            settings,
            videos=videos,
            address=address,
            use_ray=ray,
            errors=errors,
            watcher=display,
            grow=grow,
        )
    print_summary(summary, output)
    if summary.stopped or summary.error_rate() > max_error_rate:
        if summary.outcome and not summary.stopped:
            shares = f"{summary.outcome.errors} of {summary.outcome.finished} instructions of the run failed"
            say(f"{shares}, more than --max-error-rate {max_error_rate:g} allows")
        raise typer.Exit(TOO_MANY_ERRORS)
    if summary.incomplete:
        raise typer.Exit(INCOMPLETE)


def plan(
    instructions: Instructions,
    output: Output,
    videos: Videos = None,
    model: Model = None,
    config: Config = None,
    set_: Set = None,
    address: Address = None,
    ray: UseRay = True,
    max_error_rate: MaxErrorRate = 1.0,  # noqa: ARG001 - so that a line of `label` can be planned as it is
    retry_errors: RetryErrors = False,
    grow: Grow = False,
    on: On = None,
) -> None:
    """Show the units, actor pools, cost and missing resources of a `label` command; run nothing."""
    from vrshq.cluster.ray.errors import NotEnoughResources
    from vrshq.pipelines.cli.run_display import print_plan
    from vrshq.pipelines.label.planning.plan import in_this_process, make_plan, plan_for
    from vrshq.pipelines.label.planning.types import cluster_of
    from vrshq.pipelines.label.settings import load_settings

    settings = load_settings(config, set_ or [], model=model)
    if on:
        _plan_elsewhere(on, instructions, output, settings, videos)
        return
    made = make_plan(
        instructions,
        output,
        settings,
        videos=videos,
        shown=True,
        grow=grow,
        retry_errors=retry_errors,
        cluster=cluster_of(address, use_ray=ray),
    )
    made = plan_for(made, address) if ray else in_this_process(made)
    print_plan(made)
    if (made.missing or made.too_small) and not made.grows:
        raise NotEnoughResources("; ".join([*made.missing, *made.too_small]))


def _plan_elsewhere(on: list[str], instructions: str, output: str, settings: Settings, videos: str | None) -> None:
    """Prints what the run needs on each named machine. Raises NotEnoughResources if it fits on none."""
    from vrshq.cluster.ray.errors import NotEnoughResources
    from vrshq.pipelines.cli.forecast_display import print_forecasts
    from vrshq.pipelines.label.planning.forecast import cheapest, corpus_of, forecasts, named_machine

    for name in on:
        named_machine(name)
    corpus = corpus_of(instructions, output, settings, videos)
    made = forecasts(on, settings, corpus)
    print_forecasts(made, settings.model, corpus)
    if cheapest(made) is None:
        raise NotEnoughResources("; ".join(f"{one.name}: {one.refused}" for one in made))


def compact(run: Run, address: Address = None, ray: UseRay = True) -> None:
    """Merge a run's parts into larger files. An interrupted command can be run again at any point."""
    from vrshq.pipelines.label.compact import compact as run_compact

    with continues(lambda: "no part is lost"):
        done = run_compact(run, address=address, use_ray=ray)
    for table, (parts, files) in done.tables.items():
        say(f"{table}: {parts} parts into {files} files")
    for line in done.left():
        say(line)

"""`vrshq report`, `vrshq export`."""

from __future__ import annotations

from typing import Annotated

import typer

from vrshq.pipelines.cli.options import Run, Set
from vrshq.pipelines.cli.terminal import INCOMPLETE, say


def report(
    run: Run,
    output: Annotated[str | None, typer.Option(help="Folder to write to; default: the run directory.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="Largest number of contact sheets.")] = 200,
    set_: Set = None,
) -> None:
    """Draw a contact sheet per instruction, and one page with all of them."""
    from vrshq.pipelines.label.settings import load_settings
    from vrshq.pipelines.report.run import write_report

    for path in write_report(run, output, limit=limit, limits=load_settings(None, set_ or []).limits):
        say(path)


def export(
    run: Run,
    format_: Annotated[str, typer.Option("--format", help="An unknown format lists the known ones.")],
    output: Annotated[str, typer.Option("--output", help="New local folder.")],
) -> None:
    """Write a run's masks in the formats of other tools and of the benchmarks' servers."""
    from vrshq.pipelines.export.run import export as run_export

    summary = run_export(run, format_, output)
    for line in summary.lines():
        say(line)
    say(f"{format_} in {output}; details in its export.json")
    if summary.unfinished:
        raise typer.Exit(INCOMPLETE)

"""`vrshq report`, `vrshq export`."""

from __future__ import annotations

from typing import Annotated

import typer

from vrshq.pipelines.cli.options import MovedVideos, Only, Run, Set, Without
from vrshq.pipelines.cli.terminal import INCOMPLETE, say
from vrshq.pipelines.label.tables.doubt import Sort


def report(
    run: Run,
    output: Annotated[
        str | None, typer.Option(metavar="URI", help="Folder to write to; default: the run directory.")
    ] = None,
    limit: Annotated[int, typer.Option(metavar="COUNT", min=1, help="Largest number of contact sheets.")] = 200,
    videos: MovedVideos = None,
    sort: Annotated[
        Sort,
        typer.Option(metavar="NAME", help="Order of the sheets: id, or least-trusted, the doubtful answers first."),
    ] = "id",
    video: Annotated[bool, typer.Option("--video", help="Write an overlay video beside each sheet, too.")] = False,
    set_: Set = None,
) -> None:
    """Draw a contact sheet per instruction, and one page with all of them."""
    from vrshq.pipelines.label.settings import load_settings
    from vrshq.pipelines.report.run import write_report

    limits = load_settings(None, set_ or []).limits
    for path in write_report(run, output, limit=limit, limits=limits, videos=videos, sort=sort, films=video):
        say(path)


def export(
    run: Run,
    format_: Annotated[
        str,
        typer.Option(
            "--format",
            metavar="FORMAT",
            help="png-tree (or png), mevis-zip (mevis), refytvos-zip (ref-youtube-vos), davis-official (davis), palette-png "
            "(palette), coco-rle (coco), ytvis-json (ytvis), revos-json (revos), cvat, fiftyone, yolo-seg (yolo), overlay-mp4 "
            "(overlay), mask-mp4 (mask-video), cutout (cutout-png) or cutout-webm.",
        ),
    ],
    output: Annotated[str, typer.Option("--output", metavar="FOLDER", help="New local folder.")],
    videos: MovedVideos = None,
    only: Only = None,
    without: Without = None,
) -> None:
    """Write a run's masks in the formats of other tools and of the benchmarks' servers."""
    from vrshq.pipelines.export.run import export as run_export
    from vrshq.pipelines.label.tables.reviews import ByOutcome

    summary = run_export(run, format_, output, videos=videos, judged=ByOutcome(only, without))
    for line in summary.lines():
        say(line)
    say(f"{summary.format} in {output}; details in its export.json")
    if summary.unfinished:
        raise typer.Exit(INCOMPLETE)

"""`vrshq ask`."""

from __future__ import annotations

import webbrowser
from pathlib import PurePosixPath
from typing import Annotated

import typer

from vrshq.pipelines.cli.options import Config, Model, Set
from vrshq.pipelines.cli.terminal import TOO_MANY_ERRORS, continues, say


def ask(
    video: Annotated[
        str, typer.Argument(metavar="VIDEO", help="A video file or a folder of frames, local or in a bucket.")
    ],
    texts: Annotated[list[str], typer.Argument(metavar="TEXT...", help="What to segment, a sentence for each mask.")],
    output: Annotated[
        str | None, typer.Option("--output", metavar="RUN", help="Run directory; default: ask-NAME of the video.")
    ] = None,
    model: Model = None,
    start: Annotated[int | None, typer.Option(metavar="FRAME", min=0, help="First frame; default: 0.")] = None,
    end: Annotated[
        int | None, typer.Option(metavar="FRAME", min=1, help="The frame after the last one; default: the end.")
    ] = None,
    every: Annotated[int | None, typer.Option(metavar="COUNT", min=1, help="Label every n-th frame.")] = None,
    open_: Annotated[bool, typer.Option("--open", help="Open the first overlay when it is there.")] = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Answer sentences about one video, without a table: masks, an overlay video and a contact sheet."""
    from vrshq.pipelines.ask.run import ask as run_ask
    from vrshq.pipelines.cli.run_display import RunDisplay
    from vrshq.pipelines.label.settings import load_settings

    assignments = [*(set_ or []), *([f"decode.every={every}"] if every else [])]
    settings = load_settings(config, assignments, model=model)
    target = output or f"ask-{PurePosixPath(video.rstrip('/')).stem}"
    say(f"{video}: {len(texts)} {'text' if len(texts) == 1 else 'texts'}, into {target}")
    display = RunDisplay(plan=False)
    with continues(display.so_far), display:
        replies = run_ask(video, texts, target, settings, start=start, end=end, watcher=display)
    for reply in replies:
        track = reply.track
        say(f"\n{track['text'] or '(no text)'}")
        if track["status"] == "error":
            say(f"  error: {track['error_type']}: {track['error_message']}")
        else:
            if track["answer"] is not None:
                say(f"  answer: {track['answer']}")
            presence = "" if track["presence"] is None else f"presence {track['presence']:.2f}, "
            objects = "" if track["num_objects"] in (None, 1) else f"{track['num_objects']} objects, "
            keyframe = f"keyframe {track['keyframe_index']}, " if track["keyframe_index"] is not None else ""
            say(f"  {track['status']}, {objects}{presence}{keyframe}a mask on {reply.share:.0%} of the frames")
        for uri in filter(None, (reply.overlay, reply.sheet)):
            say(f"  {uri}")
    say(f"\ntables in {target}, all sheets in {target}/report.html")
    shown = next((reply.overlay for reply in replies if reply.overlay), None)
    if open_ and shown:
        webbrowser.open(shown)
    if all(reply.track["status"] == "error" for reply in replies):
        raise typer.Exit(TOO_MANY_ERRORS)

"""`vrshq app`."""

from __future__ import annotations

import getpass
import webbrowser
from typing import Annotated

import typer

from vrshq.pipelines.cli.options import Config, Model, Set
from vrshq.pipelines.cli.terminal import say

_MIB = 1 << 20


def app(
    run: Annotated[
        str | None,
        typer.Argument(metavar="RUN", help="Run directory to look through, local or in a bucket; default: none."),
    ] = None,
    model: Model = None,
    videos: Annotated[
        list[str] | None,
        typer.Option(
            "--videos",
            metavar="URI",
            help="Folder below which videos may be opened; default: those of the run where it found them, and for questions "
            "the current folder. Repeatable.",
        ),
    ] = None,
    questions: Annotated[
        str,
        typer.Option("--questions", metavar="FOLDER", help="Local folder for the runs of questions and for uploads."),
    ] = "app-questions",
    judge: Annotated[
        str | None, typer.Option("--judge", metavar="NAME", help="Who judges; default: the name of the user.")
    ] = None,
    host: Annotated[
        str,
        typer.Option(
            "--host",
            metavar="ADDRESS",
            help="Address to listen on. Other than 127.0.0.1 lets other machines in, unencrypted.",
        ),
    ] = "127.0.0.1",
    port: Annotated[
        int | None, typer.Option("--port", metavar="PORT", min=0, max=65535, help="Default: 8765, or any free one.")
    ] = None,
    max_upload: Annotated[
        int, typer.Option("--max-upload", metavar="MIB", min=1, help="Largest upload, in MiB.")
    ] = 1024,
    open_: Annotated[bool, typer.Option("--open", help="Open the page in the browser.")] = False,
    config: Config = None,
    set_: Set = None,
) -> None:
    """Serve a page on this machine: look through a run, accept or reject its masks, ask about a video."""
    from vrshq.pipelines.app.run import check_packages, serve

    check_packages()
    from vrshq.pipelines.app.guard import is_loopback
    from vrshq.pipelines.app.state import Options
    from vrshq.pipelines.label.settings import load_settings

    settings = load_settings(config, set_ or [], model=model)
    options = Options(run, settings, tuple(videos or ()), questions, judge or _user(), max_upload * _MIB)
    if run:
        say(f"run {run}; judgements go to its reviews/")
    say(
        f"questions: model {settings.model}, videos inside {', '.join(videos or ['the current folder'])}, into {questions}"
    )

    def ready(address: str) -> None:
        say(f"open {address}")
        if not is_loopback(host):
            say(f"other machines reach it at {host}, and the way there is not encrypted")
        say("the address has a secret: who has it may look and judge; Ctrl-C ends the app")
        if open_:
            webbrowser.open(address)

    serve(options, host, port, ready)


def _user() -> str:
    try:
        return getpass.getuser()
    except (OSError, KeyError):  # a container without a user's name
        return ""

"""The command line `vrshq`: every command, and how a command ends."""

from __future__ import annotations

import atexit
import gc
import sys
from importlib.metadata import version
from typing import Annotated

import typer

from vrshq.cluster.ray.streams import open_closed_streams
from vrshq.errors import UserError
from vrshq.pipelines.cli import app as serving
from vrshq.pipelines.cli import asking, bundles, evaluation, jobs, labelling, results, settings, training
from vrshq.pipelines.cli.common import command
from vrshq.pipelines.cli.terminal import DONE, INTERRUPTED, USER_ERROR, Interrupted

# click's UsageError, which typer re-exports only as the base of its own class
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(
    no_args_is_help=True, pretty_exceptions_enable=False, context_settings={"help_option_names": ["-h", "--help"]}
)

_COMMANDS = (
    *(asking.ask, serving.app, labelling.label, labelling.plan, labelling.compact, results.report, results.export),
    *(evaluation.evaluate, evaluation.ablate, evaluation.compare, training.synth, training.train),
    *(settings.settings, bundles.models, bundles.convert, bundles.publish),
)
for function in _COMMANDS:
    app.command()(command(function))
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(command(jobs.submit))


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"vrshq {version('vrshq')}")
        raise typer.Exit


@app.callback()
def about(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Video reasoning segmentation at corpus scale: videos and instructions in, mask tables out."""


def main() -> None:
    """Runs the command of `sys.argv` and exits. A user's error ends in one line and exit code 1, without a traceback."""
    open_closed_streams()
    # An import makes hundreds of thousands of objects that live to the end. Python's default of a collection after each
    # 700 walks them again and again, and once more at the exit.
    gc.set_threshold(50_000, 20, 50)
    atexit.register(gc.freeze)
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="vrshq", standalone_mode=False)
    except (UserError, ConnectionError) as error:  # Ray raises ConnectionError where no cluster answers
        message = str(error)
    except _USAGE_ERROR as error:
        message = error.format_message()  # type: ignore[attr-defined]
    except (typer.Abort, Interrupted) as interruption:
        said = f"interrupted: {interruption}" if str(interruption) else "interrupted"
        print(said, file=sys.stderr)
        sys.exit(INTERRUPTED)
    else:
        # typer turns Ctrl-C into this code; `submit` has said what becomes of its job
        if code == INTERRUPTED and sys.argv[1:2] != ["submit"]:
            print("interrupted", file=sys.stderr)
        sys.exit(code or DONE)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USER_ERROR)

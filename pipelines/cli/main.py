"""The command line `vrshq`: every command, and how a command ends."""

from __future__ import annotations

import sys

import typer

from vrshq.cluster.ray.streams import open_closed_streams
from vrshq.errors import UserError
from vrshq.pipelines.cli import bundles, evaluation, jobs, labelling, results, training
from vrshq.pipelines.cli.terminal import DONE, INTERRUPTED, USER_ERROR, Interrupted

# click's UsageError, which typer re-exports only as the base of its own class
_USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[1]

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)

app.command()(labelling.label)
app.command()(labelling.plan)
app.command()(labelling.compact)
app.command()(bundles.models)
app.command()(bundles.convert)
app.command()(bundles.publish)
app.command()(results.report)
app.command()(results.export)
app.command()(evaluation.evaluate)
app.command()(evaluation.ablate)
app.command()(evaluation.compare)
app.command()(training.synth)
app.command()(training.train)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(jobs.submit)


def main() -> None:
    """Runs the command of `sys.argv` and exits. A user's error ends in one line and exit code 1, without a traceback."""
    open_closed_streams()
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

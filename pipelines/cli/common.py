"""The options that every command has, and how a function becomes a command."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from vrshq.pipelines.cli.terminal import output

Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print errors and warnings alone.")]
Verbose = Annotated[bool, typer.Option("--verbose", help="Print the log of the program on stderr.")]
LogFile = Annotated[
    str | None, typer.Option("--log-file", metavar="FILE", help="Add what is printed, and the log, to a local file.")
]

_SHARED = {"quiet": (Quiet, False), "verbose": (Verbose, False), "log_file": (LogFile, None)}


def command(function: Callable[..., None]) -> Callable[..., None]:
    """The function with the parameters `quiet`, `verbose` and `log_file` behind its own, which it does not receive."""
    own = inspect.signature(function, eval_str=True).parameters
    shared = {
        name: inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=kind)
        for name, (kind, default) in _SHARED.items()
    }

    def run(*, quiet: bool, verbose: bool, log_file: str | None, **arguments: Any) -> None:
        with output(quiet=quiet, verbose=verbose, log_file=log_file):
            function(**arguments)

    parameters = own | shared
    run.__name__, run.__doc__, run.__module__ = function.__name__, function.__doc__, function.__module__
    run.__annotations__ = {name: parameter.annotation for name, parameter in parameters.items()}
    run.__signature__ = inspect.Signature(list(parameters.values()))  # type: ignore[attr-defined] # typer reads it
    return run

"""The terminal: the console, plain lines, and the exit codes of all commands."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console

DONE, USER_ERROR, INCOMPLETE, TOO_MANY_ERRORS, INTERRUPTED = 0, 1, 2, 3, 130

# What users give (paths, ids, texts, names of models) is printed as it is, in lines and in tables: brackets are no markup,
# and ":cat:" is no picture. A style is given as an argument or by `rich.text.Text`.
console = Console(soft_wrap=True, markup=False, emoji=False)


def say(line: str) -> None:
    """Prints a line as it is: numbers and paths get no colours."""
    console.print(line, highlight=False)


class Interrupted(Exception):  # noqa: N818 - an end, not an error
    """Ctrl-C in a command that can continue. The message says what is finished."""


@contextlib.contextmanager
def continues(finished: Callable[[], str]) -> Iterator[None]:
    """Ctrl-C inside the `with` becomes `Interrupted` with what is finished, for a command that the same line continues."""
    try:
        yield
    except KeyboardInterrupt:
        raise Interrupted(f"{finished()}; the same command continues") from None

"""The terminal: the console, plain lines, and the exit codes of all commands."""

from __future__ import annotations

from rich.console import Console

DONE, USER_ERROR, INCOMPLETE, TOO_MANY_ERRORS, INTERRUPTED = 0, 1, 2, 3, 130

console = Console(soft_wrap=True)


def say(line: str) -> None:
    """Prints a line literally: brackets are no markup, numbers and paths get no colours."""
    console.print(line, markup=False, highlight=False)

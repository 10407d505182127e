"""The terminal: the console, plain lines, and the exit codes of all commands."""

from __future__ import annotations

from rich.console import Console

DONE, USER_ERROR, INCOMPLETE, TOO_MANY_ERRORS, INTERRUPTED = 0, 1, 2, 3, 130

# What users give (paths, ids, texts, names of models) is printed as it is, in lines and in tables: brackets are no markup,
# and ":cat:" is no picture. A style is given as an argument or by `rich.text.Text`.
console = Console(soft_wrap=True, markup=False, emoji=False)


def say(line: str) -> None:
    """Prints a line as it is: numbers and paths get no colours."""
    console.print(line, highlight=False)

"""The terminal: the console, plain lines, the log file, and the exit codes of all commands."""

from __future__ import annotations

import contextlib
import io
import logging
import sys
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console, ConsoleDimensions

from vrshq.errors import UserError

DONE, USER_ERROR, INCOMPLETE, TOO_MANY_ERRORS, INTERRUPTED = 0, 1, 2, 3, 130

# Width of lines that go to a file or to another program, which would rather have whole lines than wrapped ones.
_UNWRAPPED = 100_000

_program = logging.getLogger("vrshq")
_printed = logging.getLogger("vrshq.printed")


class _Console(Console):
    """A console whose lines a log file receives, too."""

    @property
    def size(self) -> ConsoleDimensions:
        """Columns and lines of the terminal. Without one, and without COLUMNS, lines are not wrapped."""
        found = super().size
        wrapped = self.is_terminal or self._width is not None  # rich sets it by COLUMNS
        return found if wrapped else ConsoleDimensions(_UNWRAPPED, found.height)

    @size.setter
    def size(self, size: tuple[int, int]) -> None:
        self._width, self._height = size

    def print(self, *objects: Any, **options: Any) -> None:
        """Prints as rich does on a terminal, and elsewhere the same lines without styles and padding; logs those, too."""
        if self.is_terminal:
            super().print(*objects, **options)
        if self.is_terminal and not _program.handlers:
            return
        sink = io.StringIO()
        plain = Console(file=sink, width=self.width, soft_wrap=True, markup=False, emoji=False, highlight=False)
        plain.print(*objects, **options)
        for line in sink.getvalue().splitlines():
            if not self.is_terminal:
                super().print(line.rstrip(), highlight=False)
            _printed.info("%s", line.rstrip())


# What users give (paths, ids, texts, names of models) is printed as it is, in lines and in tables: brackets are no markup,
# and ":cat:" is no picture. A style is given as an argument or by `rich.text.Text`.
console = _Console(soft_wrap=True, markup=False, emoji=False)


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


@contextlib.contextmanager
def output(*, quiet: bool, verbose: bool, log_file: str | None) -> Iterator[None]:
    """What a command prints, and where, for the time of a `with`.

    Args:
        quiet: whether only errors and warnings are printed.
        verbose: whether the program's log goes to stderr; that of Ray and its workers stays in Ray's own files.
        log_file: local file to which the printed lines, the program's log and the error that ends the command are added.

    Raises:
        UserError: the log file cannot be written.
    """
    with contextlib.ExitStack() as stack:
        if verbose or log_file is not None:
            stack.enter_context(_logging(verbose=verbose, log_file=log_file))
        console.quiet = quiet
        stack.callback(setattr, console, "quiet", False)
        try:
            yield
        except Exception as error:
            if str(error) and _program.handlers:
                _printed.error("%s", error)
            raise


@contextlib.contextmanager
def _logging(*, verbose: bool, log_file: str | None) -> Iterator[None]:
    shown = logging.StreamHandler(sys.stderr)
    shown.setLevel(logging.DEBUG if verbose else logging.WARNING)
    shown.addFilter(lambda record: record.name != _printed.name)  # the terminal has these lines
    handlers: list[logging.Handler] = [shown]
    if log_file is not None:
        try:
            written = logging.FileHandler(log_file, encoding="utf-8")
        except OSError as error:
            raise UserError(f"--log-file {log_file}: {error.strerror or error}; expected a local file") from error
        written.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
        handlers.append(written)
    before = _program.level
    _program.setLevel(logging.DEBUG if verbose else logging.INFO)
    for handler in handlers:
        _program.addHandler(handler)
    try:
        yield
    finally:
        _program.setLevel(before)
        for handler in handlers:
            _program.removeHandler(handler)
            handler.close()

"""The standard streams of this process: those that the caller closed, and stderr while libraries chat."""

from __future__ import annotations

import contextlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator

_MOST_HELD = 2**16  # bytes that are given back


def open_closed_streams() -> None:
    """Makes a standard stream that the caller closed (`2>&-`) lead nowhere.

    Python has None for such a stream, on which a print or a flush fails. Its number would also go to the next file that is
    opened, and what libraries write to stderr would end up in there.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        if getattr(sys, name) is not None:
            continue
        nowhere = os.open(os.devnull, os.O_RDWR)
        if nowhere != number and not _is_open(number):
            os.dup2(nowhere, number)  # for the C++ parts of this process, and for its children
            os.close(nowhere)
            nowhere = number
        os.set_inheritable(nowhere, True)
        setattr(sys, name, open(nowhere, mode, closefd=False))  # noqa: SIM115 - stays open as the others do


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


@contextlib.contextmanager
def silent_stderr() -> Iterator[None]:
    """Discards everything that this process, C++ included, writes to stderr."""
    with held_stderr():
        yield


@contextlib.contextmanager
def held_stderr() -> Iterator[Callable[[], str]]:
    """Keeps everything that this process, C++ included, writes to stderr, and gives a function that returns it."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as held:
        try:
            os.dup2(held.fileno(), 2)
            yield lambda: os.pread(held.fileno(), _MOST_HELD, 0).decode(errors="replace")
        finally:
            os.dup2(kept, 2)
            os.close(kept)

"""Errors of storage. Each message is one line that names the uri and the reason."""

from __future__ import annotations

from vrshq.errors import UserError


class StorageError(UserError, OSError):
    """A file or folder cannot be read or written. The one-line message names its uri and the reason."""


class StorageNotFoundError(StorageError, FileNotFoundError):
    """The file, the folder or the bucket does not exist."""


class TornError(ConnectionError):
    """Fewer bytes arrived than the object has, or the object changed while it was read. Another try may succeed."""


def one_line(error: BaseException) -> str:
    """The message of `error` on one line of at most 500 characters; the name of its type if it has no message."""
    return " ".join(str(error).split())[:500] or type(error).__name__

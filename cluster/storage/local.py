"""Local disk: files are written atomically, and folders are walked entry by entry."""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_PARTIAL = re.compile(r"^\..+\.[0-9a-f]{16}\.partial$")
_ABANDONED_AFTER_SECONDS = 24 * 3600


def partial_name(name: str) -> str:
    """A new file name for writing `name`, in the same folder. `is_partial` recognizes it."""
    return f".{name}.{secrets.token_hex(8)}.partial"


def is_partial(name: str) -> bool:
    """Whether a file name is that of a file that is being written, or that a killed process left."""
    return _PARTIAL.match(name) is not None


def write_atomically(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    """Writes a file whole or not at all: `fill` writes a partial file, which is synced and then renamed to `path`.

    Makes the folders on the way.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / partial_name(path.name)
    try:
        with partial.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # The folder is synced too, so that files reach the disk in the order of the writes, even after a power cut.
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def walk(root: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields the name (relative to `root`) and the entry of each file under `root/prefix`, in no order.

    Links to folders are not followed. A folder that does not exist has no files.
    """
    pending = [prefix]
    while pending:
        inside = pending.pop()
        try:
            entries = os.scandir(root / inside)
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                if entry.is_dir(follow_symlinks=False):
                    pending.append(name)
                elif not entry.is_symlink() or not entry.is_dir():
                    yield name, entry


def remove_abandoned(root: Path) -> None:
    """Removes partial files that are older than a day; killed processes leave them."""
    for name, entry in walk(root, ""):
        if is_partial(entry.name):
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_mtime < time.time() - _ABANDONED_AFTER_SECONDS:
                    (root / name).unlink()

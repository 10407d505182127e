"""Local disk: files are written atomically, and folders are walked entry by entry."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import secrets
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

_PARTIAL = re.compile(r"^\..+\.[0-9a-f]{16}\.partial$")
_Identity = tuple[int, int]  # device and inode of a folder
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
    with _partial(path, fill) as partial:
        partial.replace(path)
    _sync_folder(path)


def create_atomically(path: Path, data: bytes) -> bool:
    """Writes a file whole if there is none of that name; returns whether it did. Makes the folders on the way.

    A hard link to the whole content is made, which the kernel and file servers refuse where the name is taken. On a file
    system without hard links it replaces the file and returns True.
    """
    with _partial(path, lambda file: file.write(data)) as partial:
        try:
            path.hardlink_to(partial)
        except FileExistsError:
            return False
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK):
                raise
            partial.replace(path)
    _sync_folder(path)
    return True


@contextlib.contextmanager
def _partial(path: Path, fill: Callable[[BinaryIO], object]) -> Iterator[Path]:
    """A synced partial file beside `path`, which is gone after the `with`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / partial_name(path.name)
    try:
        with partial.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        yield partial
    finally:
        partial.unlink(missing_ok=True)


def _sync_folder(path: Path) -> None:
    """Syncs the folder of `path`, so that files reach the disk in the order of the writes, even after a power cut."""
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def walk(root: Path, prefix: str, *, links: bool = True) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Yields the name (relative to `root`) and the entry of each file under `root/prefix`, in no order.

    A link that leads nowhere is yielded as a file. A folder that does not exist has no files.

    Args:
        root: the folder.
        prefix: a folder inside it; "": all of it.
        links: whether linked folders are entered. A link to a folder that holds the link leads round in a circle, so it is
            left out.
    """
    # A folder behind a link comes with the folders around it; without links on the way nothing can lead round.
    pending: list[tuple[str, frozenset[_Identity] | None]] = [(prefix, None)]
    while pending:
        inside, around = pending.pop()
        try:
            entries = os.scandir(root / inside)
        except FileNotFoundError:
            continue
        with entries:
            for entry in entries:
                name = f"{inside}/{entry.name}" if inside else entry.name
                if entry.is_dir(follow_symlinks=False):
                    if around is None:
                        pending.append((name, None))
                    elif (identity := _identity(entry.stat())) not in around:
                        pending.append((name, around | {identity}))
                elif (
                    not entry.is_symlink() or not Path(entry.path).is_dir()
                ):  # entry.is_dir raises for a link to itself
                    yield name, entry
                elif links:
                    outside = around or _around(Path(entry.path).parent)
                    if _identity(entry.stat()) not in outside:
                        pending.append((name, outside | _around(Path(entry.path))))


def _around(path: Path) -> frozenset[_Identity]:
    """A folder and those that it lies in, on the way of its name and where it really is."""
    real = path.resolve()
    return frozenset(_identity(folder.stat()) for folder in (path, *path.parents, real, *real.parents))


def _identity(status: os.stat_result) -> _Identity:
    return status.st_dev, status.st_ino


def remove_abandoned(root: Path) -> None:
    """Removes partial files that are older than a day; killed processes leave them."""
    for name, entry in walk(root, "", links=False):
        if is_partial(entry.name):
            with contextlib.suppress(FileNotFoundError):
                if entry.stat().st_mtime < time.time() - _ABANDONED_AFTER_SECONDS:
                    (root / name).unlink()

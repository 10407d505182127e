"""Fetches a remote file or a folder of frames to local disk for the time of a `with`."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from vrshq.cluster.storage.errors import StorageNotFoundError, TornError
from vrshq.cluster.storage.listing import files_in, size_of, stamp_of
from vrshq.cluster.storage.retry import PATIENCE_S, retry
from vrshq.cluster.storage.uris import filesystem, has_protocol, is_remote, local_path
from vrshq.cluster.storage.web import NO_ACCESS, WebAccess, download

_SUFFIX = re.compile(r"^\.[A-Za-z0-9]{1,8}$")
# Larger objects are downloaded in ranges of this size, a few at the same time, so that a cut connection costs one range.
_RANGE_BYTES = 16 * 2**20
_AT_ONCE = 4
_UNFIT = re.compile(r"[/\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_LONGEST_NAME, _LONGEST_TEXT = 255, 40  # bytes, characters


@dataclass(frozen=True)
class Wanted:
    """What may be fetched, judged by names and sizes before the first byte.

    Attributes:
        name: whether a file of a folder is wanted, by its name.
        check: is called with the number of files and of bytes that would be fetched, and raises a UserError when they are
            too many. While a folder is listed it is called with 0 bytes, so that a listing ends at too many files. A web server
            may state no size: it is called with the bytes that have come, too.
        access: which web servers may be called; none by default.
    """

    name: Callable[[str], bool] = lambda _: True
    check: Callable[[int, int], object] = lambda *_: None
    access: WebAccess = NO_ACCESS


ANYTHING = Wanted()
# For what the user names on the command line, who may call any server that he reaches.
GIVEN_BY_USER = Wanted(access=WebAccess(allowed=True, private=True))


@contextlib.contextmanager
def fetch_to_local(
    uri: str, scratch: str | os.PathLike[str], patience_s: float = PATIENCE_S, wanted: Wanted = ANYTHING
) -> Iterator[str]:
    """Gives a local path for `uri`: its own path if it is local, else a copy under `scratch` that is removed at the end.

    Also removes copies under `scratch` that belong to killed processes.

    Args:
        uri: a file, or a folder whose wanted files (first level, such as numbered frames) are fetched together. A folder of a
            web server cannot be fetched.
        scratch: a local folder with enough free space. It is made if needed. The name of the copy keeps only the suffix
            of `uri`; files of a folder keep their names where local disk takes them, see `local_name`.
        patience_s: as for `Folder`; it applies to each file of a folder and to each range of a large file.
        wanted: bounds what is fetched.

    Yields:
        the path, as str. A local `uri` is not checked: the reader finds out that it is missing.

    Raises:
        StorageNotFoundError: the file or folder does not exist. StorageError: it cannot be fetched. What `wanted` raises.
    """
    if not is_remote(uri):
        yield str(local_path(uri))
        return
    fs, path = filesystem(uri)
    with contextlib.ExitStack() as stack:
        place = retry(uri, "fetch", 0, lambda: stack.enter_context(_scratch_place(Path(scratch))))
        if has_protocol(fs, "http"):
            copy = _named(place, urlsplit(uri).path)
            download(uri, copy, patience_s, access=wanted.access, check=wanted.check)
        else:
            copy = _download(fs, path, uri, place, patience_s, wanted)
        yield str(copy)


def local_name(name: str) -> str:
    """`name` where local disk takes it as the name of a file, else one that it takes.

    Numbers and the suffix stay, so that the order of frames does, and equal texts around them stay equal. Different names
    stay different.
    """
    # Frames 9 and 10 of a series get the same treatment: lengths are judged as if each number had 20 digits.
    if _fits(name) and _fits(re.sub(r"\d+", "0" * 20, name, flags=re.ASCII)):
        return name
    suffix = PurePosixPath(name).suffix
    suffix = suffix if _SUFFIX.match(suffix) else ""
    parts = re.split(r"(\d+)", name.removesuffix(suffix), flags=re.ASCII)
    short = "".join(part if place % 2 else _plain(part) for place, part in enumerate(parts))
    return (short if _fits(short + suffix) else _letters(name)) + suffix


def _fits(name: str) -> bool:
    # Escapes of terminals are kept out of messages as well; half surrogates are no text.
    fits = name not in ("", ".", "..") and _UNFIT.search(name) is None
    return fits and len(name.encode()) <= _LONGEST_NAME


def _plain(text: str) -> str:
    """A text without digits as it is, or as its beginning and letters that stand for all of it."""
    if len(text) <= _LONGEST_TEXT and not _UNFIT.search(text):
        return text
    return f"{_UNFIT.sub('_', text[:_LONGEST_TEXT])}_{_letters(text)}"


def _letters(text: str) -> str:
    digest = hashlib.sha256(text.encode(errors="surrogatepass")).hexdigest()[:16]
    return digest.translate(str.maketrans("0123456789", "ghijklmnop"))


@contextlib.contextmanager
def _scratch_place(scratch: Path) -> Iterator[Path]:
    """Makes a new folder under `scratch`. This process removes it at the end; if it is killed, a later process does.

    The owner holds a lock on a file inside the folder, which the kernel releases when the process dies. (A process id would
    not do: ids are reused, and containers that share a folder do not see each other's.) A folder takes its final name
    after it is locked, so every `fetch-*` folder whose lock is free is abandoned.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    for owner in scratch.glob("fetch-*/.owner"):
        with contextlib.suppress(OSError), owner.open("r+b") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(owner.parent, ignore_errors=True)
    unnamed = Path(tempfile.mkdtemp(prefix=".fetch-", dir=scratch))
    place = scratch / unnamed.name[1:]
    with (unnamed / ".owner").open("w+b") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        unnamed.rename(place)
        try:
            (place / "copy").mkdir()
            yield place / "copy"
        finally:
            shutil.rmtree(place, ignore_errors=True)


def _named(place: Path, path: str) -> Path:
    suffix = PurePosixPath(path).suffix
    return place / f"video{suffix if _SUFFIX.match(suffix) else ''}"


def _download(fs: Any, path: str, uri: str, place: Path, patience_s: float, wanted: Wanted) -> Path:
    """Copies a file, or the wanted files of a folder, into `place`. Returns the path of the copy."""
    about: dict[str, Any] = retry(uri, "fetch", patience_s, lambda: fs.info(path))
    if about["type"] == "file":
        wanted.check(1, about.get("size") or 0)
        _download_file(fs, path, about.get("size"), uri, target := _named(place, path), patience_s)
        return target
    sizes: dict[str, int] = {}
    empty = True
    for name, listed in files_in(fs, path, uri, patience_s):
        empty = False
        if wanted.name(name):
            sizes[name] = size_of(listed)
            wanted.check(len(sizes), 0)
    if empty:
        raise StorageNotFoundError(f"{uri}: cannot fetch: no such file or folder")
    wanted.check(len(sizes), sum(sizes.values()))
    folder = place / "frames"
    folder.mkdir()
    with ThreadPoolExecutor(2 * _AT_ONCE) as pool:
        jobs = []
        for name, size in sizes.items():
            target = folder / local_name(name)
            jobs.append(pool.submit(_download_file, fs, f"{path}/{name}", size, f"{uri}/{name}", target, patience_s))
        _wait_for_all(jobs, pool)
    return folder


def _download_file(fs: Any, path: str, size: int | None, uri: str, target: Path, patience_s: float) -> None:
    """Copies one object into a local file, whole or not at all. `size` is what the store said a moment ago, in bytes."""

    def whole() -> None:
        fs.get_file(path, str(target))
        if size is not None and target.stat().st_size != size:
            now = fs.info(path).get("size")
            if target.stat().st_size != now:
                raise TornError(f"{target.stat().st_size} of {now} bytes came")

    def one_range(start: int, stop: int) -> None:
        data = fs.cat_file(path, start=start, end=stop)
        if len(data) != stop - start:
            raise TornError(f"{len(data)} of {stop - start} bytes came")
        with target.open("r+b") as file:
            file.seek(start)
            file.write(data)

    def all_ranges() -> None:
        before = fs.info(path)
        target.touch()
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            jobs = []
            for start in range(0, before["size"], _RANGE_BYTES):
                act = functools.partial(one_range, start, min(start + _RANGE_BYTES, before["size"]))
                jobs.append(pool.submit(retry, uri, "fetch", patience_s, act))
            _wait_for_all(jobs, pool)
        if stamp_of(fs.info(path)) != stamp_of(before):
            raise TornError("it was replaced while it was fetched")

    in_ranges = size is not None and size > _RANGE_BYTES
    retry(uri, "fetch", patience_s, all_ranges if in_ranges else whole)


def _wait_for_all(jobs: list[Future[None]], pool: ThreadPoolExecutor) -> None:
    """Waits for the jobs of a pool. The first failure cancels those that have not begun, and is raised."""
    try:
        for job in jobs:
            job.result()
    except BaseException:
        pool.shutdown(cancel_futures=True)
        raise

"""Fetches a remote file or a folder of frames to local disk for the time of a `with`."""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any

from vrshq.cluster.storage.errors import StorageNotFoundError, TornError
from vrshq.cluster.storage.listing import stamp_of
from vrshq.cluster.storage.retry import PATIENCE_S, retry
from vrshq.cluster.storage.uris import checked_name, filesystem, has_protocol, is_remote, local_path

_SUFFIX = re.compile(r"^\.[A-Za-z0-9]{1,8}$")
# Larger objects are downloaded in ranges of this size, a few at the same time, so that a cut connection costs one range.
_RANGE_BYTES = 16 * 2**20
_AT_ONCE = 4


@contextlib.contextmanager
def fetch_to_local(uri: str, scratch: str | os.PathLike[str], patience_s: float = PATIENCE_S) -> Iterator[str]:
    """Gives a local path for `uri`: its own path if it is local, else a copy under `scratch` that is removed at the end.

    Also removes copies under `scratch` that belong to killed processes.

    Args:
        uri: a file, or a folder whose files (first level, such as numbered frames) are fetched together.
        scratch: a local folder with enough free space. It is made if needed. The name of the copy keeps only the suffix
            of `uri`.
        patience_s: as for `Folder`; it applies to each file of a folder and to each range of a large file.

    Yields:
        the path, as str. A local `uri` is not checked: the reader finds out that it is missing.

    Raises:
        StorageNotFoundError: the file or folder does not exist. StorageError: it cannot be fetched.
    """
    if not is_remote(uri):
        yield str(local_path(uri))
        return
    fs, path = filesystem(uri)
    with contextlib.ExitStack() as stack:
        place = retry(uri, "fetch", 0, lambda: stack.enter_context(_scratch_place(Path(scratch))))
        yield str(_download(fs, path, uri, place, patience_s))


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


def _download(fs: Any, path: str, uri: str, place: Path, patience_s: float) -> Path:
    """Copies a file or a folder of files into `place`. Returns the path of the copy."""
    about: dict[str, Any] = retry(uri, "fetch", patience_s, lambda: fs.info(path))
    if about["type"] == "file":
        suffix = PurePosixPath(path).suffix
        target = place / f"video{suffix if _SUFFIX.match(suffix) else ''}"
        _download_file(fs, about | {"name": path}, uri, target, patience_s)
        return target
    found = retry(uri, "fetch", patience_s, lambda: fs.ls(path, detail=True))
    files = {str(item["name"]).rpartition("/")[2]: item for item in found if item["type"] == "file"}
    files.pop("", None)  # a store may list the folder itself under an empty name
    if not files:
        raise StorageNotFoundError(f"{uri}: cannot fetch: no such file or folder")
    folder = place / "frames"
    folder.mkdir()
    with ThreadPoolExecutor(2 * _AT_ONCE) as pool:
        jobs = [
            pool.submit(_download_file, fs, item, f"{uri}/{name}", folder / checked_name(name), patience_s)
            for name, item in files.items()
        ]
        _wait_for_all(jobs, pool)
    return folder


def _download_file(fs: Any, about: dict[str, Any], uri: str, target: Path, patience_s: float) -> None:
    """Copies one object into a local file, whole or not at all. `about` is a recent description of it by the store."""
    # A web server may answer a range request with the whole file, and may report the size of a compressed form.
    path, size = about["name"], None if has_protocol(fs, "http") else about.get("size")

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

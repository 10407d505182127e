"""All reading and writing of bytes, for a local folder and for a bucket alike, over fsspec.

`Folder` is a place with names in it, `fetch_to_local` brings one video here, `join_uri` resolves a relative video
against a root. Credentials and endpoints come from each store's usual environment (AWS_*, GOOGLE_*, AZURE_*, FSSPEC_*).
Whatever goes wrong is a `StorageError` whose one line names the uri.

What passes by itself (throttling, 5xx, cut or refused connections, timeouts, short answers) is tried again, with pauses
that double up to 10 s and are spread at random. A request goes through three layers that could each retry:

* botocore: up to 3 attempts of a request, a second or two apart (its "standard" mode, set here; its default makes 5).
  They let a file of many parts survive one bad request.
* s3fs: 5 attempts around each of those by default; switched off here, because 5 times 5 times ours is no bound at all.
* this module: the operation (or one range of a download, or one page of a listing) again for `patience_s` after its
  first failure.

So an operation on a store that does not answer ends after `patience_s` and at most one more round of 3 attempts, each cut
off after 5 s without a connection or 15 s without a byte. gcsfs and adlfs keep their own few retries inside ours.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import io
import itertools
import os
import random
import re
import secrets
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, TypeVar, cast

import fsspec

from vrshq.errors import UserError

T = TypeVar("T")

# What a uri may begin with, and the extra that brings its backend. Anything else is refused before fsspec sees it: its
# registry also knows schemes that run programs or open other people's machines, and an instruction table is untrusted.
SCHEMES: dict[str, str | None] = {
    "s3": None,
    "s3a": None,
    "gs": "gcs",
    "gcs": "gcs",
    "az": "azure",
    "abfs": "azure",
    "abfss": "azure",
    "memory": None,
    "http": None,
    "https": None,
}

PATIENCE_S = 20.0

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
_PARTIAL = re.compile(r"^\..+\.[0-9a-f]{16}\.partial$")
_SUFFIX = re.compile(r"^\.[A-Za-z0-9]{1,8}$")
_NO_BUCKET = re.compile(
    r"NoSuchBucket|(bucket|container) (you specified )?(does not exist|was not found)", re.IGNORECASE
)
_ABANDONED_AFTER_SECONDS = 24 * 3600
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.2, 10.0

# Larger objects are downloaded in ranges of this size, a few at the same time, so that a cut costs one range.
_RANGE_BYTES = 16 * 2**20
_AT_ONCE = 4
_READ_BUFFER = 256 * 2**10

# Errors that pass though their HTTP status is not 429 or 5xx. NoSuchUpload: the answer to "complete this upload" was
# lost, and the second request finds it completed; writing all of it again is safe.
_PASSING_CODES = {
    "BadDigest",
    "IncompleteBody",
    "NoSuchUpload",
    "OperationAborted",
    "RequestLimitExceeded",
    "RequestTimeout",
    "SlowDown",
    "Throttling",
    "ThrottlingException",
    "XAmzContentSHA256Mismatch",
}
_LASTING_STATUSES = {501, 505, 507}
# Names rather than classes: the packages that they come from are imported by fsspec, and only when they are needed.
_PASSING_TYPES = {
    "ClientConnectionError",  # aiohttp
    "ClientPayloadError",
    "ConnectionError",  # Python's, and one of botocore's that is no OSError
    "HTTPClientError",  # botocore: reset, cut in the middle, no answer in time
    "IncompleteRead",  # http.client, urllib3
    "IncompleteReadError",  # botocore
    "ResponseParserError",
    "ServiceRequestError",  # azure
    "ServiceResponseError",
    "TimeoutError",  # Python's
    "TransportError",  # google.auth
}


class StorageError(UserError, OSError):
    """A place cannot be read or written; the one-line message names its uri and says why."""


class StorageNotFoundError(StorageError, FileNotFoundError):
    """There is nothing under that name, or the bucket itself does not exist."""


class _TornError(ConnectionError):
    """Fewer bytes came than there are, or the object changed while it was read: worth another try."""


def is_remote(uri: str) -> bool:
    """Whether `uri` names something in a store rather than a path of this machine (`file://` is local)."""
    match = _SCHEME.match(uri)
    return match is not None and match.group(1).lower() not in ("file", "local")


def join_uri(root: str | None, relative: str) -> str:
    """`relative` seen from `root`; what is already absolute, or has a scheme, stays as it is.

    A `root` of None or "" means the current directory, and then `relative` stays as given.
    """
    if not root or is_remote(relative) or _SCHEME.match(relative) or relative.startswith("/"):
        return relative
    if is_remote(root):
        return f"{root.rstrip('/')}/{relative}"
    return str(_local_path(root) / relative)


class Folder:
    """A folder with files in it, by name, local or in a store. Cheap to make and to pickle; creates nothing by itself.

    Names are relative, with "/" between their parts: "tracks/part-0a.parquet". A file appears whole or not at all: on
    local disk it is written beside its place, synced and renamed; in a store it is one PUT (beyond 100 MiB one
    multipart upload, which the store completes as a whole). Whatever is read is whole, too, or an error.

    Args:
        uri: a path, or `file://`, `s3://`, `gs://`, `az://`, `memory://`.
        patience_s: for how many seconds after its first failure an operation is tried again, if the failure is of a
            kind that passes. Work that must outlast the restart of a server takes minutes.
    """

    def __init__(self, uri: str | os.PathLike[str], patience_s: float = PATIENCE_S) -> None:
        given = os.fspath(uri)
        self.patience_s = patience_s
        self._local: Path | None = None
        if is_remote(given):
            self.uri = given.rstrip("/")
            self._fs, self._root = _filesystem(self.uri)
        else:
            self._local = _local_path(given)
            self.uri = str(self._local)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __reduce__(self) -> tuple[type[Folder], tuple[str, float]]:
        return Folder, (self.uri, self.patience_s)

    def child(self, name: str) -> Folder:
        """The folder `name` inside this one."""
        return Folder(f"{self.uri}/{_checked(name)}", self.patience_s)

    def uri_of(self, name: str) -> str:
        """The uri of the file `name`."""
        return f"{self.uri}/{_checked(name)}"

    def read_bytes(self, name: str) -> bytes:
        """The content of a file. Raises StorageNotFoundError where there is none."""

        def read() -> bytes:
            if self._local is not None:
                return (self._local / name).read_bytes()
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))

        return _try(self.uri_of(name), "read", self.patience_s, read)

    def open_read(self, name: str) -> BinaryIO:
        """The content of a file as a seekable binary file, of which only what is read is fetched.

        Reads beyond 256 KiB are one range request each; the file must not change meanwhile (S3 refuses, and so does
        this). Raises StorageNotFoundError where there is none.
        """
        uri = self.uri_of(name)
        if self._local is not None:
            local = self._local / name
            return _try(uri, "read", self.patience_s, lambda: local.open("rb"))
        path = f"{self._root}/{name}"
        file = _try(uri, "read", self.patience_s, lambda: self._fs.open(path, "rb", cache_type="none"))
        return cast(BinaryIO, io.BufferedReader(_PatientFile(file, uri, self.patience_s), _READ_BUFFER))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a file, whole or not at all, over what was there; makes the folders on the way."""

        def write() -> None:
            if self._local is not None:
                _write_local(self._local / name, lambda file: file.write(data))
            else:
                self._fs.pipe_file(f"{self._root}/{name}", data)

        _try(self.uri_of(name), "write", self.patience_s, write)

    def write_file(self, name: str, local_path: str | os.PathLike[str]) -> None:
        """Writes the content of a local file, as `write_bytes` does, without holding all of it in memory.

        The local file stays. Into S3, at most 100 MiB of it and a copy made for sending are in memory.
        """

        def write() -> None:
            if self._local is not None:
                with Path(local_path).open("rb") as source:
                    _write_local(self._local / name, lambda file: shutil.copyfileobj(source, file, 2**20))
            else:
                self._fs.put_file(os.fspath(local_path), f"{self._root}/{name}")

        _try(self.uri_of(name), "write", self.patience_s, write)

    def list(self, prefix: str = "") -> list[str]:
        """Names of all files under the folder `prefix` ("": all), however deep, sorted; [] if there is no such folder.

        The store is asked every time, and half-written files are left out. Costs one request per 1,000 names.
        """
        return self._listed(prefix, lambda found: sorted(name for name, _ in found))

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """The files that `list` finds, sorted by name, with their sizes in bytes; in a store for the same requests."""
        return self._listed(prefix, lambda found: dict(sorted(_each_file(found, _size_of))))

    def stamps(self, prefix: str = "") -> dict[str, str]:
        """The files that `list` finds, sorted by name, each with a text that changes when its content is replaced.

        Made of the size and the store's ETag, or the time of writing where there is none; for the same requests.
        """
        return self._listed(prefix, lambda found: dict(sorted(_each_file(found, _stamp_of))))

    def is_empty(self) -> bool:
        """Whether nothing is in the folder, or there is no such folder. Looks at the first names only."""

        def look() -> bool:
            if self._local is not None:
                try:
                    with os.scandir(self._local) as entries:
                        return all(_PARTIAL.match(entry.name) for entry in entries)
                except FileNotFoundError:
                    return True
            return next(self._walk(""), None) is None

        return _try(self.uri, "list", self.patience_s, look)

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""

        def look() -> bool:
            if self._local is not None:
                return (self._local / name).is_file()
            # Not fsspec's isfile: it takes every failure for a no.
            try:
                return bool(self._fs.info(f"{self._root}/{name}")["type"] == "file")
            except FileNotFoundError as error:
                if _passes(error):
                    raise
                return False

        return _try(self.uri_of(name), "look up", self.patience_s, look)

    def remove(self, name: str) -> None:
        """Removes a file; nothing happens if there is none."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                if self._local is not None:
                    (self._local / name).unlink()
                else:
                    self._fs.rm_file(f"{self._root}/{name}")

        _try(self.uri_of(name), "remove", self.patience_s, remove)

    def check_writable(self) -> None:
        """Writes and removes a small file, so that a wrong bucket or missing rights show before the work starts."""
        probe = f".writable.{secrets.token_hex(8)}.partial"
        self.write_bytes(probe, b"")
        self.remove(probe)

    def remove_abandoned(self) -> None:
        """Removes half-written files that killed writers left on local disk more than a day ago."""
        if self._local is None:
            return
        for name, entry in _walk_local(self._local, ""):
            if _PARTIAL.match(entry.name):
                with contextlib.suppress(FileNotFoundError):
                    if entry.stat().st_mtime < time.time() - _ABANDONED_AFTER_SECONDS:
                        (self._local / name).unlink()

    def _listed(self, prefix: str, take: Callable[[Iterator[tuple[str, Any]]], T]) -> T:
        uri = self.uri_of(prefix) if prefix else self.uri
        return _try(uri, "list", self.patience_s, lambda: take(self._walk(prefix)))

    def _walk(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Names of files and what the listing says of each, one at a time: a million of them must not fill the memory."""
        if self._local is not None:
            found: Iterator[tuple[str, Any]] = _walk_local(self._local, prefix)
        elif _speaks(self._fs, "s3"):
            found = self._walk_s3(prefix)
        else:
            found = self._walk_store(prefix)
        return ((name, about) for name, about in found if not _PARTIAL.match(name.rpartition("/")[2]))

    def _walk_s3(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Page by page, where fsspec's `find` holds a kilobyte for each name at once, and begins anew after a failure."""
        bucket, root, _ = self._fs.split_path(self._root)
        root = f"{root}/" if root else ""
        asked: dict[str, str] = {"Bucket": bucket, "Prefix": root + (f"{prefix}/" if prefix else "")}

        def next_page() -> dict[str, Any]:
            return cast(dict[str, Any], self._fs.call_s3("list_objects_v2", **asked))

        while True:
            page = _try(self.uri, "list", self.patience_s, next_page)
            for about in page.get("Contents", []):
                name = about["Key"].removeprefix(root)
                if name and not name.endswith("/"):  # what consoles make to show an empty folder
                    yield name, about
            if not page.get("IsTruncated"):
                return
            asked["ContinuationToken"] = page["NextContinuationToken"]

    def _walk_store(self, prefix: str) -> Iterator[tuple[str, Any]]:
        try:
            found = self._fs.find(f"{self._root}/{prefix}" if prefix else self._root, detail=True)
        except FileNotFoundError as error:
            bucket = self._root.split("/", 1)[0]
            if _passes(error):
                raise
            if bucket:
                self._fs.info(bucket)  # an empty folder and a wrong bucket look alike, but only one of them may pass
            return
        for path, about in found.items():
            yield path.removeprefix(self._root).lstrip("/"), about


class _PatientFile(io.RawIOBase):
    """A file of a store, read by ranges, each of which is tried as long as an operation of `Folder` is."""

    def __init__(self, file: Any, uri: str, patience_s: float) -> None:
        self._file, self._uri, self._patience_s = file, uri, patience_s
        self._size: int = file.size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        wanted = max(0, min(len(buffer), self._size - self._position))

        def read() -> bytes:
            self._file.seek(self._position)
            data: bytes = self._file.read(wanted)
            if len(data) != wanted:
                raise _TornError(f"{len(data)} of {wanted} bytes came")
            return data

        if wanted:
            buffer[:wanted] = _try(self._uri, "read", self._patience_s, read)
            self._position += wanted
        return wanted

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


@contextlib.contextmanager
def fetch_to_local(uri: str, scratch: str | os.PathLike[str], patience_s: float = PATIENCE_S) -> Iterator[str]:
    """A local path for `uri`: itself if it is local, else a copy under `scratch` that is removed at the end.

    Copies that killed processes left under `scratch` are removed on the way.

    Args:
        uri: a file, or a folder whose files (first level, such as numbered frames) are fetched together.
        scratch: a local folder with room for it; made if needed. The copy's name takes only the suffix of `uri`.
        patience_s: as for `Folder`; for each file of a folder, and each range of a large file.

    Yields:
        the path, as str. A local `uri` is not looked at, so a missing one is for the reader to find.

    Raises:
        StorageNotFoundError: nothing is there. StorageError: it cannot be fetched.
    """
    if not is_remote(uri):
        yield str(_local_path(uri))
        return
    fs, path = _filesystem(uri)
    with contextlib.ExitStack() as stack:
        place = _try(uri, "fetch", 0, lambda: stack.enter_context(_scratch_place(Path(scratch))))
        yield str(_download(fs, path, uri, place, patience_s))


@contextlib.contextmanager
def _scratch_place(scratch: Path) -> Iterator[Path]:
    """A new folder under `scratch`, which is removed at the end: by this process or, if it is killed, by a later one.

    Whose owner lives shows in a lock on a file inside, which the kernel lets go when the process dies. (Process ids would
    not do: they are reused, and containers that share a folder do not see each other's.) A folder takes its final name
    when it is locked, so every `fetch-*` folder whose lock is free is abandoned.
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
    about: dict[str, Any] = _try(uri, "fetch", patience_s, lambda: fs.info(path))
    if about["type"] == "file":
        suffix = PurePosixPath(path).suffix
        target = place / f"video{suffix if _SUFFIX.match(suffix) else ''}"
        _download_file(fs, about | {"name": path}, uri, target, patience_s)
        return target
    found = _try(uri, "fetch", patience_s, lambda: fs.ls(path, detail=True))
    files = {str(item["name"]).rpartition("/")[2]: item for item in found if item["type"] == "file"}
    files.pop("", None)  # a store may show the folder itself as an empty name
    if not files:
        raise StorageNotFoundError(f"{uri}: cannot fetch: no such file or folder")
    folder = place / "frames"
    folder.mkdir()
    with ThreadPoolExecutor(2 * _AT_ONCE) as pool:
        jobs = [
            pool.submit(_download_file, fs, item, f"{uri}/{name}", folder / _checked(name), patience_s)
            for name, item in files.items()
        ]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return folder


def _download_file(fs: Any, about: dict[str, Any], uri: str, target: Path, patience_s: float) -> None:
    """Copies one object into a local file, whole or not at all; `about` is what the store said of it a moment ago."""
    # A web server may answer a range with the whole, and may tell the size of a compressed form.
    path, size = about["name"], None if _speaks(fs, "http") else about.get("size")

    def whole() -> None:
        fs.get_file(path, str(target))
        if size is not None and target.stat().st_size != size:
            now = fs.info(path).get("size")
            if target.stat().st_size != now:
                raise _TornError(f"{target.stat().st_size} of {now} bytes came")

    def one_range(start: int, stop: int) -> None:
        data = fs.cat_file(path, start=start, end=stop)
        if len(data) != stop - start:
            raise _TornError(f"{len(data)} of {stop - start} bytes came")
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
                jobs.append(pool.submit(_try, uri, "fetch", patience_s, act))
            try:
                for job in jobs:
                    job.result()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
        if _stamp_of(fs.info(path)) != _stamp_of(before):
            raise _TornError("it was replaced while it was fetched")

    in_ranges = size is not None and size > _RANGE_BYTES
    _try(uri, "fetch", patience_s, all_ranges if in_ranges else whole)


def _checked(name: str) -> str:
    """`name` if it stays inside its folder, else ValueError."""
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"not a name inside a folder: {name!r}; expected parts joined by '/', without '..'")
    return name


def _local_path(uri: str) -> Path:
    path = _SCHEME.sub("", uri, count=1) if _SCHEME.match(uri) else uri
    if not path:
        raise StorageError("an empty path was given; expected a folder or a file")
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve would follow links, which changes what users gave


def _filesystem(uri: str) -> tuple[Any, str]:
    """The fsspec filesystem of a remote uri, and the path inside it without a slash at the end."""
    match = _SCHEME.match(uri)
    scheme = match.group(1).lower() if match else ""
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise StorageError(f"{uri}: unknown kind of storage {scheme!r}; use a local path or one of {known}")
    extra = SCHEMES[scheme]
    options: dict[str, Any] = {"use_listings_cache": False}  # other processes write to the same folders
    if scheme in ("s3", "s3a"):
        given = fsspec.config.conf.get(scheme, {}).get("config_kwargs", {})
        options["config_kwargs"] = {"retries": {"mode": "standard", "total_max_attempts": 3}} | given
        # One part of 50 MiB in memory at a time, and reads in one request, which cannot mix two versions of an object.
        options["max_concurrency"] = 1
    try:
        fs, path = fsspec.core.url_to_fs(uri, **options)
    except ImportError as error:
        fix = f"pip install vrshq[{extra}]" if extra else f"pip install the package it names ({_one_line(error)})"
        raise StorageError(f"{uri}: reading {scheme}:// needs a package that is not installed; {fix}") from error
    except Exception as error:
        raise StorageError(f"{uri}: cannot open: {_one_line(error)}") from error
    if _speaks(fs, "s3"):
        fs.retries = 1
    return fs, path.rstrip("/")


def _speaks(fs: Any, scheme: str) -> bool:
    return scheme in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _try(uri: str, action: str, patience_s: float, act: Callable[[], T]) -> T:
    """What `act` returns, tried until `patience_s` after its first failure as long as failures are of a kind that passes.

    Raises:
        StorageError: names the uri, the action and the reason, whatever the backends raise (each has its own types).
    """
    started, deadline = time.monotonic(), 0.0
    for attempt in itertools.count():
        try:
            return act()
        except StorageError:
            raise
        except Exception as error:
            now = time.monotonic()
            passes = _passes(error)
            deadline = deadline or now + patience_s
            if not passes or now >= deadline:
                raise _explained(uri, action, error, now - started if passes else None) from error
            pause = min(_LONGEST_PAUSE_S, _FIRST_PAUSE_S * 2 ** min(attempt, 10)) * random.uniform(0.5, 1)
            time.sleep(min(pause, deadline - now))
    raise AssertionError("unreachable: the loop has no end of its own")


def _explained(uri: str, action: str, error: Exception, tried_s: float | None) -> StorageError:
    """One line about `error`; `tried_s` None means that it is of a kind that does not pass."""
    if tried_s is not None:
        return StorageError(f"{uri}: cannot {action}: {_reason(error)}; tried for {tried_s:.0f} s")
    if isinstance(error, FileNotFoundError):
        no_bucket = _NO_BUCKET.search(_one_line(error))
        reason = "the bucket does not exist" if no_bucket and is_remote(uri) else "no such file or folder"
        return StorageNotFoundError(f"{uri}: cannot {action}: {reason}")
    return StorageError(f"{uri}: cannot {action}: {_reason(error)}")


def _passes(error: BaseException) -> bool:
    """Whether trying again may help: what the server said decides, or what became of the connection."""
    causes = [error]
    while (cause := causes[-1].__cause__) is not None and cause not in causes:
        causes.append(cause)
    for cause in causes:
        if "certificate" in str(cause).lower():
            return False
        # Types come first: aiohttp's cut answers carry a made-up status 400.
        if not _PASSING_TYPES.isdisjoint(kind.__name__ for kind in type(cause).__mro__):
            return True
        response = getattr(cause, "response", None)
        if isinstance(response, dict):  # botocore
            code = response.get("Error", {}).get("Code")
            status = response.get("ResponseMetadata", {}).get("HTTPStatusCode")
        else:  # aiohttp, azure, gcsfs
            named = (getattr(cause, name, None) for name in ("status", "status_code", "code"))
            code, status = None, next((value for value in named if isinstance(value, int)), None)
        if code in _PASSING_CODES:
            return True
        if isinstance(status, int) and status >= 300:
            return status in (408, 425, 429) or (status >= 500 and status not in _LASTING_STATUSES)
    return False


def _reason(error: BaseException) -> str:
    kind = type(error).__name__
    if "Credentials" in kind:
        return "no credentials; set them as for the store's own command line (AWS_ACCESS_KEY_ID, AWS_PROFILE, ...)"
    if "EndpointConnection" in kind or "ConnectTimeout" in kind:
        return f"no server answers ({_one_line(error)})"
    if isinstance(error, PermissionError):
        return f"permission denied ({_one_line(error)})"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return f"{kind}: {_one_line(error)}"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:500] or type(error).__name__


def _write_local(path: Path, fill: Callable[[BinaryIO], object]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{secrets.token_hex(8)}.partial"
    try:
        with partial.open("wb") as file:
            fill(file)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    # The folder too, so that files appear on disk in the order in which they were written, even if the power goes.
    handle = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _walk_local(root: Path, prefix: str) -> Iterator[tuple[str, os.DirEntry[str]]]:
    """Names and entries of all files, in no order; links to folders are not followed."""
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


def _each_file(found: Iterator[tuple[str, Any]], tell: Callable[[Any], T]) -> Iterator[tuple[str, T]]:
    for name, about in found:
        try:
            told = tell(about)
        except FileNotFoundError:  # removed since it was listed, or a link to nothing
            continue
        yield name, told


def _size_of(about: os.DirEntry[str] | dict[str, Any]) -> int:
    if isinstance(about, os.DirEntry):
        return about.stat().st_size
    return int(about["size"] if "size" in about else about["Size"])


def _stamp_of(about: os.DirEntry[str] | dict[str, Any]) -> str:
    if isinstance(about, os.DirEntry):
        return f"{about.stat().st_size} {about.stat().st_mtime_ns}"
    keys = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "updated", "created")
    return f"{_size_of(about)} {next((about[key] for key in keys if about.get(key)), '')}"

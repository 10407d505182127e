"""All reading and writing of bytes, for a local folder and for a bucket alike, over fsspec.

`Folder` is a place with names in it, `fetch_to_local` brings one video here, `join_uri` resolves a relative video
against a root. Credentials and endpoints come from each store's usual environment (AWS_*, GOOGLE_*, AZURE_*, FSSPEC_*).
Whatever goes wrong is a `StorageError` whose one line names the uri.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import fsspec

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

_SCHEME = re.compile(r"^([A-Za-z][A-Za-z0-9+.\-]*)://")
_PARTIAL = re.compile(r"^\..+\.[0-9a-f]{16}\.partial$")
_SUFFIX = re.compile(r"^\.[A-Za-z0-9]{1,8}$")
_NO_BUCKET = re.compile(
    r"NoSuchBucket|(bucket|container) (you specified )?(does not exist|was not found)", re.IGNORECASE
)
_ABANDONED_AFTER_SECONDS = 24 * 3600


class StorageError(OSError):
    """A place cannot be read or written; the one-line message names its uri and says why."""


class StorageNotFoundError(StorageError, FileNotFoundError):
    """There is nothing under that name, or the bucket itself does not exist."""


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
    local disk it is written beside its place, synced and renamed; in a store it is one PUT (beyond some 100 MB one
    multipart upload, which the store completes as a whole).

    Args:
        uri: a path, or `file://`, `s3://`, `gs://`, `az://`, `memory://`.
    """

    def __init__(self, uri: str | os.PathLike[str]) -> None:
        given = os.fspath(uri)
        self._local: Path | None = None
        if is_remote(given):
            self.uri = given.rstrip("/")
            self._fs, self._root = _filesystem(self.uri)
        else:
            self._local = _local_path(given)
            self.uri = str(self._local)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __reduce__(self) -> tuple[type[Folder], tuple[str]]:
        return Folder, (self.uri,)

    def child(self, name: str) -> Folder:
        """The folder `name` inside this one."""
        return Folder(f"{self.uri}/{_checked(name)}")

    def uri_of(self, name: str) -> str:
        """The uri of the file `name`."""
        return f"{self.uri}/{_checked(name)}"

    def read_bytes(self, name: str) -> bytes:
        """The content of a file. Raises StorageNotFoundError where there is none."""
        uri = self.uri_of(name)
        with _explained(uri, "read"):
            if self._local is not None:
                return (self._local / name).read_bytes()
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a file, whole or not at all, over what was there; makes the folders on the way."""
        uri = self.uri_of(name)
        with _explained(uri, "write"):
            if self._local is not None:
                _write_local(self._local / name, data)
            else:
                self._fs.pipe_file(f"{self._root}/{name}", data)

    def list(self, prefix: str = "") -> list[str]:
        """Names of all files under the folder `prefix` ("": all), however deep, sorted; [] if there is no such folder.

        The store is asked every time, and half-written files are left out. Costs one request per 1,000 names.
        """
        inside = f"/{_checked(prefix)}" if prefix else ""
        with _explained(self.uri + inside, "list"):
            if self._local is not None:
                names = _walk_local(self._local, prefix)
            else:
                try:
                    found = self._fs.find(self._root + inside)
                except FileNotFoundError:
                    self._check_bucket()
                    return []
                names = [path.removeprefix(self._root).lstrip("/") for path in found]
        return sorted(name for name in names if not _PARTIAL.match(name.rpartition("/")[2]))

    def is_empty(self) -> bool:
        """Whether nothing is in the folder, or there is no such folder. Looks at the first level only."""
        with _explained(self.uri, "list"):
            if self._local is not None:
                try:
                    names = [entry.name for entry in os.scandir(self._local)]
                except FileNotFoundError:
                    return True
            else:
                try:
                    names = [str(path).rpartition("/")[2] for path in self._fs.ls(self._root, detail=False)]
                except FileNotFoundError:
                    self._check_bucket()
                    return True
        # A store may show the folder itself as an empty name.
        return all(not name or _PARTIAL.match(name) for name in names)

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""
        uri = self.uri_of(name)
        with _explained(uri, "look up"):
            if self._local is not None:
                return (self._local / name).is_file()
            return bool(self._fs.isfile(f"{self._root}/{name}"))

    def remove(self, name: str) -> None:
        """Removes a file; nothing happens if there is none."""
        uri = self.uri_of(name)
        with _explained(uri, "remove"), contextlib.suppress(FileNotFoundError):
            if self._local is not None:
                (self._local / name).unlink()
            else:
                self._fs.rm_file(f"{self._root}/{name}")

    def check_writable(self) -> None:
        """Writes and removes a small file, so that a wrong bucket or missing rights show before the work starts."""
        probe = f".writable.{secrets.token_hex(8)}.partial"
        self.write_bytes(probe, b"")
        self.remove(probe)

    def remove_abandoned(self) -> None:
        """Removes half-written files that killed writers left on local disk more than a day ago."""
        if self._local is None:
            return
        for name in _walk_local(self._local, ""):
            if _PARTIAL.match(name.rpartition("/")[2]):
                with contextlib.suppress(FileNotFoundError):
                    if (self._local / name).stat().st_mtime < time.time() - _ABANDONED_AFTER_SECONDS:
                        (self._local / name).unlink()

    def _check_bucket(self) -> None:
        """Raises FileNotFoundError if not even the bucket is there: an empty folder and a wrong bucket look alike."""
        bucket = self._root.split("/", 1)[0]
        if bucket and not self._fs.exists(bucket):
            raise FileNotFoundError("the bucket does not exist")


@contextlib.contextmanager
def fetch_to_local(uri: str, scratch: str | os.PathLike[str]) -> Iterator[str]:
    """A local path for `uri`: itself if it is local, else a copy under `scratch` that is removed at the end.

    Args:
        uri: a file, or a folder whose files (first level, such as numbered frames) are fetched together.
        scratch: a local folder with room for it; made if needed. The copy's name takes only the suffix of `uri`.

    Yields:
        the path, as str. A local `uri` is not looked at, so a missing one is for the reader to find.

    Raises:
        StorageNotFoundError: nothing is there. StorageError: it cannot be fetched.
    """
    if not is_remote(uri):
        yield str(_local_path(uri))
        return
    with _explained(uri, "fetch"):
        fs, path = _filesystem(uri)
        Path(scratch).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=scratch) as place:
        with _explained(uri, "fetch"):
            local = _download(fs, path, Path(place))
        yield str(local)


def _download(fs: Any, path: str, place: Path) -> Path:
    if fs.isfile(path):
        suffix = PurePosixPath(path).suffix
        target = place / f"video{suffix if _SUFFIX.match(suffix) else ''}"
        fs.get_file(path, str(target))
        return target
    files = [entry["name"] for entry in fs.ls(path, detail=True) if entry["type"] == "file"]
    names = [str(name).rpartition("/")[2] for name in files]
    pairs = [(name, file) for name, file in zip(names, files, strict=True) if name]
    if not pairs:
        raise FileNotFoundError("no such file or folder")
    folder = place / "frames"
    folder.mkdir()
    fs.get([file for _, file in pairs], [str(folder / _checked(name)) for name, _ in pairs])
    return folder


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
    try:
        # No listing cache: other processes write to the same folders.
        fs, path = fsspec.core.url_to_fs(uri, use_listings_cache=False)
    except ImportError as error:
        fix = f"pip install vrshq[{extra}]" if extra else f"pip install the package it names ({_one_line(error)})"
        raise StorageError(f"{uri}: reading {scheme}:// needs a package that is not installed; {fix}") from error
    except Exception as error:
        raise StorageError(f"{uri}: cannot open: {_one_line(error)}") from error
    return fs, path.rstrip("/")


@contextlib.contextmanager
def _explained(uri: str, action: str) -> Iterator[None]:
    """Turns what the backends raise (each has its own types) into one StorageError that names the uri."""
    try:
        yield
    except StorageError:
        raise
    except FileNotFoundError as error:
        no_bucket = _NO_BUCKET.search(_one_line(error))
        reason = "the bucket does not exist" if no_bucket and is_remote(uri) else "no such file or folder"
        raise StorageNotFoundError(f"{uri}: cannot {action}: {reason}") from error
    except Exception as error:
        raise StorageError(f"{uri}: cannot {action}: {_reason(error)}") from error


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


def _write_local(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.parent / f".{path.name}.{secrets.token_hex(8)}.partial"
    try:
        with partial.open("wb") as file:
            file.write(data)
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


def _walk_local(root: Path, prefix: str) -> list[str]:
    names: list[str] = []

    def stop(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):
            raise error

    for folder, _, files in os.walk(root / prefix, onerror=stop):
        inside = Path(folder).relative_to(root).as_posix()
        names += files if inside == "." else [f"{inside}/{file}" for file in files]
    return names

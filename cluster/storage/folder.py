"""`Folder`: named files in a local folder or in a bucket, read and written over fsspec.

A failure is a `StorageError` whose one line names the uri. Transient failures are retried (`vrshq.cluster.storage.retry`).
"""

from __future__ import annotations

import contextlib
import functools
import io
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, cast

from vrshq.cluster.storage import local
from vrshq.cluster.storage.deleting import DELETED_AT_ONCE, delete_objects
from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.listing import each_file, size_of, stamp_of, walk_store
from vrshq.cluster.storage.remote_file import RemoteFile
from vrshq.cluster.storage.retry import PATIENCE_S, is_missing, is_refused_creation, is_unsupported, retry
from vrshq.cluster.storage.uris import checked_name, filesystem, has_protocol, is_remote, local_path

T = TypeVar("T")

_READ_BUFFER = 256 * 2**10
_CONDITIONAL = ("s3", "gs", "abfs")  # stores that write on the condition that the object does not exist
_REMOVERS = 16  # requests at a time where a store removes one file for each


class Folder:
    """A folder of named files, local or in a store. Cheap to make and to pickle. Making one creates nothing.

    Names are relative, with "/" between their parts: "tracks/part-0a.parquet". A file appears whole or not at all: on
    local disk it is written to a partial file, synced and renamed; in a store it is one PUT (beyond 100 MiB one multipart
    upload, which the store completes as a whole). A read returns the whole content or raises.

    Args:
        uri: a path, or `file://`, `s3://`, `gs://`, `az://`, `memory://`.
        patience_s: seconds after its first failure during which an operation is retried, if the failure is transient.
            Use minutes for work that must outlast the restart of a server.
    """

    def __init__(self, uri: str | os.PathLike[str], patience_s: float = PATIENCE_S) -> None:
        given = os.fspath(uri)
        self.patience_s = patience_s
        self._local: Path | None = None
        if is_remote(given):
            self.uri = given.rstrip("/")
            self._fs, self._root = filesystem(self.uri)
        else:
            self._local = local_path(given)
            self.uri = str(self._local)

    def __repr__(self) -> str:
        return f"Folder({self.uri!r})"

    def __reduce__(self) -> tuple[type[Folder], tuple[str, float]]:
        return Folder, (self.uri, self.patience_s)

    def child(self, name: str) -> Folder:
        """The folder `name` inside this one."""
        return Folder(f"{self.uri}/{checked_name(name)}", self.patience_s)

    def uri_of(self, name: str) -> str:
        """The uri of the file `name`."""
        return f"{self.uri}/{checked_name(name)}"

    def read_bytes(self, name: str) -> bytes:
        """The content of a file. Raises StorageNotFoundError if it does not exist."""

        def read() -> bytes:
            if self._local is not None:
                return (self._local / name).read_bytes()
            return bytes(self._fs.cat_file(f"{self._root}/{name}"))

        return retry(self.uri_of(name), "read", self.patience_s, read)

    def open_read(self, name: str) -> BinaryIO:
        """The content of a file as a seekable binary file. Only the ranges that are read are fetched.

        A read of more than 256 KiB is one range request. If the file changes meanwhile, the next read raises StorageError
        (S3 refuses it). Raises StorageNotFoundError if the file does not exist.
        """
        uri = self.uri_of(name)
        if self._local is not None:
            file_path = self._local / name
            return retry(uri, "read", self.patience_s, lambda: file_path.open("rb"))
        path = f"{self._root}/{name}"
        file = retry(uri, "read", self.patience_s, lambda: self._fs.open(path, "rb", cache_type="none"))
        return cast(BinaryIO, io.BufferedReader(RemoteFile(file, uri, self.patience_s), _READ_BUFFER))

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a file whole or not at all. Replaces an existing file, and makes the folders on the way."""

        def write() -> None:
            if self._local is not None:
                local.write_atomically(self._local / name, lambda file: file.write(data))
            else:
                self._fs.pipe_file(f"{self._root}/{name}", data)

        retry(self.uri_of(name), "write", self.patience_s, write)

    def create(self, name: str, data: bytes) -> bool:
        """Writes a small file whole, if there is none of that name.

        Args:
            name: the file.
            data: content that no other caller writes, such as one with a random id: it tells this call's file from others
                where the answer to the first try was lost.

        Returns:
            whether the file is this call's. Where `creates_exclusively` is False, two calls at once can both return True.
        """

        def write() -> bool:
            try:
                if self._local is not None:
                    return local.create_atomically(self._local / name, data)
                self._fs.pipe_file(f"{self._root}/{name}", data, mode="create")
            except Exception as error:
                if is_refused_creation(error):
                    return False
                if not is_unsupported(error):
                    raise
                self._fs.pipe_file(f"{self._root}/{name}", data)
            return True

        with contextlib.suppress(StorageNotFoundError):
            return retry(self.uri_of(name), "create", self.patience_s, write) or self.read_bytes(name) == data
        return False

    def creates_exclusively(self, prefix: str) -> bool:
        """Whether `create` is atomic in the folder `prefix`: of any two calls for a name, one returns False.

        Found out by trying, because S3 servers differ: some ignore the condition. Costs three small requests.
        """
        if self._local is None and not any(has_protocol(self._fs, scheme) for scheme in _CONDITIONAL):
            return False
        probe = f"{prefix}/{local.partial_name('create')}"
        self.create(probe, b"first")
        refused = not self.create(probe, b"second")
        self.remove(probe)
        return refused

    def write_file(self, name: str, local_path: str | os.PathLike[str]) -> None:
        """Writes the content of a local file as `write_bytes` does, without holding all of it in memory.

        The local file stays. An upload to S3 holds at most 100 MiB of it, and one copy of those for sending.
        """

        def write() -> None:
            if self._local is not None:
                with Path(local_path).open("rb") as source:
                    local.write_atomically(self._local / name, lambda file: shutil.copyfileobj(source, file, 2**20))
            else:
                self._fs.put_file(os.fspath(local_path), f"{self._root}/{name}")

        retry(self.uri_of(name), "write", self.patience_s, write)

    def list(self, prefix: str = "") -> list[str]:
        """Names of all files under the folder `prefix` ("": all), at any depth, sorted; [] if the folder does not exist.

        Nothing is cached, and partial files are left out. Costs one request per 1,000 names.
        """
        return self._listed(prefix, lambda found: sorted(name for name, _ in found))

    def any_name(self, prefix: str = "") -> str | None:
        """One of the names that `list` finds; None if there is none. Costs one request where the store lists by pages."""
        return self._listed(prefix, lambda found: next(found, (None, None))[0])

    def sizes(self, prefix: str = "") -> dict[str, int]:
        """Name -> size in bytes of the files that `list` finds, sorted by name. Costs the same requests."""
        return self._listed(prefix, lambda found: dict(sorted(each_file(found, size_of))))

    def stamps(self, prefix: str = "") -> dict[str, str]:
        """Name -> version stamp of the files that `list` finds, sorted by name. Costs the same requests.

        A stamp is a text that changes when the content is replaced: the size and the store's ETag, or the time of writing
        where there is no ETag.
        """
        return self._listed(prefix, lambda found: dict(sorted(each_file(found, stamp_of))))

    def is_empty(self) -> bool:
        """Whether there is no file in the folder, or in one inside it. Lists only the first names."""
        return self._listed("", lambda found: next(found, None) is None)

    def exists(self, name: str) -> bool:
        """Whether there is a file of that name."""

        def look() -> bool:
            if self._local is not None:
                return (self._local / name).is_file()
            # fsspec's isfile would return False for every failure.
            try:
                return bool(self._fs.info(f"{self._root}/{name}")["type"] == "file")
            except FileNotFoundError as error:
                if is_missing(error):
                    return False
                raise

        return retry(self.uri_of(name), "look up", self.patience_s, look)

    def remove(self, name: str) -> None:
        """Removes a file. Does nothing if it does not exist."""

        def remove() -> None:
            with contextlib.suppress(FileNotFoundError):
                if self._local is not None:
                    (self._local / name).unlink()
                else:
                    self._fs.rm_file(f"{self._root}/{name}")

        retry(self.uri_of(name), "remove", self.patience_s, remove)

    def remove_all(self, names: Iterable[str]) -> None:
        """Removes files, each as `remove` does and in no certain order. Costs a request for 1,000 of them on S3, else one each.

        Raises StorageError if some could not be removed. The others are gone or still there.
        """
        names = [*names]
        if self._local is None and has_protocol(self._fs, "s3"):
            for start in range(0, len(names), DELETED_AT_ONCE):
                paths = [f"{self._root}/{checked_name(name)}" for name in names[start : start + DELETED_AT_ONCE]]
                retry(self.uri, "remove files", self.patience_s, functools.partial(delete_objects, self._fs, paths))
            return
        with ThreadPoolExecutor(_REMOVERS) as pool:
            list(pool.map(self.remove, names))

    def check_writable(self) -> None:
        """Writes and removes an empty file. Raises StorageError for a wrong bucket or missing rights, before any work."""
        probe = local.partial_name("writable")
        self.write_bytes(probe, b"")
        self.remove(probe)

    def remove_abandoned(self) -> None:
        """Removes partial files on local disk that are older than a day; killed writers leave them."""
        if self._local is not None:
            local.remove_abandoned(self._local)

    def _listed(self, prefix: str, take: Callable[[Iterator[tuple[str, Any]]], T]) -> T:
        uri = self.uri_of(prefix) if prefix else self.uri
        return retry(uri, "list", self.patience_s, lambda: take(self._walk(prefix)))

    def _walk(self, prefix: str) -> Iterator[tuple[str, Any]]:
        """Yields names of files with their listing entries, one at a time: a million entries would fill the memory."""
        found: Iterator[tuple[str, Any]]
        if self._local is not None:
            found = local.walk(self._local, prefix)
        else:
            found = walk_store(self._fs, self._root, prefix, self.uri, self.patience_s)
        return ((name, about) for name, about in found if not local.is_partial(name.rpartition("/")[2]))

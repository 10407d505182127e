"""Listings of stores, name by name, and the size and the version stamp of each listed file."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from typing import Any, TypeVar, cast

from vrshq.cluster.storage.retry import is_missing, retry
from vrshq.cluster.storage.uris import has_protocol

T = TypeVar("T")


def walk_store(fs: Any, root: str, prefix: str, uri: str, patience_s: float) -> Iterator[tuple[str, Any]]:
    """Yields the name (relative to `root`) of each file under `root/prefix`, and the store's description of it.

    Raises FileNotFoundError if the bucket does not exist; a folder that does not exist has no files.
    """
    if has_protocol(fs, "s3"):
        yield from _walk_s3(fs, root, uri, patience_s, prefix=prefix)
    else:
        yield from _walk_other(fs, root, prefix)


def files_in(fs: Any, root: str, uri: str, patience_s: float) -> Iterator[tuple[str, Any]]:
    """Yields the name and the store's description of each file directly in the folder `root`, none of folders inside it."""
    if has_protocol(fs, "s3"):
        yield from _walk_s3(fs, root, uri, patience_s, Delimiter="/")
        return
    for about in retry(uri, "list", patience_s, lambda: fs.ls(root, detail=True)):
        name = str(about["name"]).rpartition("/")[2]
        if about["type"] == "file" and name:  # a store may list the folder itself under an empty name
            yield name, about


def _walk_s3(
    fs: Any, root: str, uri: str, patience_s: float, prefix: str = "", **more: str
) -> Iterator[tuple[str, Any]]:
    """Lists page by page and retries single pages. fsspec's `find` holds 1 KB for each name, and starts again on failure."""
    bucket, path, _ = fs.split_path(root)
    path = f"{path}/" if path else ""
    asked: dict[str, str] = {"Bucket": bucket, "Prefix": path + (f"{prefix}/" if prefix else "")} | more

    def next_page() -> dict[str, Any]:
        return cast(dict[str, Any], fs.call_s3("list_objects_v2", **asked))

    while True:
        page = retry(uri, "list", patience_s, next_page)
        for about in page.get("Contents", []):
            name = about["Key"].removeprefix(path)
            if name and not name.endswith("/"):  # consoles make such objects to show an empty folder
                yield name, about
        if not page.get("IsTruncated"):
            return
        asked["ContinuationToken"] = page["NextContinuationToken"]


def _walk_other(fs: Any, root: str, prefix: str) -> Iterator[tuple[str, Any]]:
    try:
        found = fs.find(f"{root}/{prefix}" if prefix else root, detail=True)
    except FileNotFoundError as error:
        bucket = root.split("/", 1)[0]
        if not is_missing(error):
            raise
        if bucket:
            fs.info(bucket)  # raises for a missing bucket, which the listing cannot tell from an empty folder
        return
    for path, about in found.items():
        yield path.removeprefix(root).lstrip("/"), about


def each_file(found: Iterator[tuple[str, Any]], tell: Callable[[Any], T]) -> Iterator[tuple[str, T]]:
    """Yields each name with `tell(description)`. Leaves out local files that were removed since they were listed."""
    for name, about in found:
        try:
            told = tell(about)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ELOOP):  # removed since it was listed, or a broken link
                continue
            raise
        yield name, told


def size_of(about: os.DirEntry[str] | dict[str, Any]) -> int:
    """The size in bytes of a listed file."""
    if isinstance(about, os.DirEntry):
        return about.stat().st_size
    return int(about["size"] if "size" in about else about["Size"])


def stamp_of(about: os.DirEntry[str] | dict[str, Any]) -> str:
    """A text that changes when the content of a listed file is replaced: its size, and its ETag or time of writing."""
    if isinstance(about, os.DirEntry):
        return f"{about.stat().st_size} {about.stat().st_mtime_ns}"
    keys = ("ETag", "etag", "md5Hash", "LastModified", "last_modified", "mtime", "updated", "created")
    return f"{size_of(about)} {next((about[key] for key in keys if about.get(key)), '')}"

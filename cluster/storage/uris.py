"""Uris: which of them are remote, how names are joined to them, and the fsspec filesystem of each.

Credentials and endpoints come from the usual environment variables of each store (AWS_*, GOOGLE_*, AZURE_*, FSSPEC_*).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import fsspec

from vrshq.cluster.storage.errors import StorageError, one_line

# Allowed schemes, and the extra that installs the backend of each. Other schemes are refused before fsspec sees them: its
# registry also contains schemes that run programs or connect to other machines, and an instruction table is untrusted.
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
# "file:/x" is a uri too (RFC 8089). "file:x" is none, so it is a name.
_FILE = re.compile(r"^file:/", re.IGNORECASE)


def is_remote(uri: str) -> bool:
    """Whether `uri` names an object in a store. A path of this machine and `file://` are local."""
    match = _SCHEME.match(uri)
    return match is not None and match.group(1).lower() not in ("file", "local")


def is_web(uri: str) -> bool:
    """Whether `uri` names a file of a web server, which need not be one that the user knows."""
    match = _SCHEME.match(uri)
    return match is not None and match.group(1).lower() in ("http", "https")


def is_file_uri(uri: str) -> bool:
    """Whether `uri` is a `file:` uri, whose path is percent-encoded, and not a plain path."""
    return _FILE.match(uri) is not None


def join_uri(root: str | None, relative: str) -> str:
    """Resolves `relative` against `root`. An absolute path, and a uri with a scheme, are returned unchanged.

    A `root` of None or "" means the current directory; `relative` is then returned unchanged.
    """
    if not root or _SCHEME.match(relative) or is_file_uri(relative) or relative.startswith("/"):
        return relative
    if is_remote(root):
        return f"{root.rstrip('/')}/{relative}"
    return str(local_path(root) / relative)


def parent_and_name(uri: str) -> tuple[str, str]:
    """The uri of the folder of a file, for `Folder`, and the file's name inside it."""
    if is_remote(uri):
        folder, _, name = uri.rpartition("/")
        return folder, name
    path = local_path(uri)
    return str(path.parent), path.name


def checked_name(name: str) -> str:
    """Returns `name` if it stays inside its folder. Raises ValueError otherwise."""
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"not a name inside a folder: {name!r}; expected parts joined by '/', without '..'")
    return name


def local_path(uri: str) -> Path:
    """The absolute path of a local uri: a path, or `file:/x`, `file:///x`, `file://localhost/x` with percent-encoded bytes.

    Links are not resolved. Raises StorageError where the path is empty, and for a file of another machine.
    """
    path = uri
    if is_file_uri(uri):
        host, path = "", uri[len("file:") :]
        if path.startswith("//"):
            host, slash, rest = path[2:].partition("/")
            path = slash + rest
        if host.lower() not in ("", "localhost"):
            raise StorageError(
                f"{uri}: a file of the machine {host!r} cannot be read; expected file:///PATH for a file of this machine"
            )
        # A name may have bytes that are no text, as any name of a local file.
        path = os.fsdecode(unquote_to_bytes(os.fsencode(path)))
        path = f"/{path.lstrip('/')}" if path else ""
    elif _SCHEME.match(uri):
        path = _SCHEME.sub("", uri, count=1)
    if not path:
        raise StorageError("an empty path was given; expected a folder or a file")
    if "\0" in path:
        raise StorageError(f"{uri!r}: the path has a zero byte; expected the path of a file or folder")
    return Path(os.path.abspath(path))  # noqa: PTH100 - Path.resolve follows links, which changes the user's path


def filesystem(uri: str) -> tuple[Any, str]:
    """Opens the fsspec filesystem of a remote uri.

    Returns:
        the filesystem, and the path inside it without a slash at the end.

    Raises:
        StorageError: the scheme is not in `SCHEMES`, its package is not installed, or the backend refuses the uri.
    """
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
        # At most one part of 50 MiB is in memory. A read is a single request, so it cannot mix two versions of an object.
        options["max_concurrency"] = 1
    try:
        # Not fsspec's url_to_fs: it takes "::" inside a name for a chain of file systems.
        kind = fsspec.get_filesystem_class(scheme)
        fs, path = kind(**{**kind._get_kwargs_from_urls(uri), **options}), kind._strip_protocol(uri)
    except ImportError as error:
        fix = f"pip install vrshq[{extra}]" if extra else f"pip install the package it names ({one_line(error)})"
        raise StorageError(f"{uri}: reading {scheme}:// needs a package that is not installed; {fix}") from error
    except Exception as error:
        raise StorageError(f"{uri}: cannot open: {one_line(error)}") from error
    if has_protocol(fs, "s3"):
        fs.retries = 1  # `retry.py` explains the layers of retries
    return fs, path.rstrip("/")


def has_protocol(fs: Any, scheme: str) -> bool:
    """Whether the fsspec filesystem `fs` serves `scheme`."""
    return scheme in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)

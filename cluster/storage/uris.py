"""Uris: which of them are remote, how names are joined to them, and the fsspec filesystem of each.

Credentials and endpoints come from the usual environment variables of each store (AWS_*, GOOGLE_*, AZURE_*, FSSPEC_*).
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

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


def is_remote(uri: str) -> bool:
    """Whether `uri` names an object in a store. A path of this machine and `file://` are local."""
    match = _SCHEME.match(uri)
    return match is not None and match.group(1).lower() not in ("file", "local")


def join_uri(root: str | None, relative: str) -> str:
    """Resolves `relative` against `root`. An absolute path, and a uri with a scheme, are returned unchanged.

    A `root` of None or "" means the current directory; `relative` is then returned unchanged.
    """
    if not root or is_remote(relative) or _SCHEME.match(relative) or relative.startswith("/"):
        return relative
    if is_remote(root):
        return f"{root.rstrip('/')}/{relative}"
    return str(local_path(root) / relative)


def checked_name(name: str) -> str:
    """Returns `name` if it stays inside its folder. Raises ValueError otherwise."""
    parts = name.split("/")
    if not name or "\\" in name or "\0" in name or any(part in ("", ".", "..") for part in parts):
        raise ValueError(f"not a name inside a folder: {name!r}; expected parts joined by '/', without '..'")
    return name


def local_path(uri: str) -> Path:
    """The absolute path of a local uri. Links are not resolved. Raises StorageError if the path is empty."""
    path = _SCHEME.sub("", uri, count=1) if _SCHEME.match(uri) else uri
    if not path:
        raise StorageError("an empty path was given; expected a folder or a file")
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
        fs, path = fsspec.core.url_to_fs(uri, **options)
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

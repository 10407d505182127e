"""Finds a model by its name on the command line: in the package, in a local folder, in a bucket, or on the hub."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from vrshq.cluster.storage.fetch import GIVEN_BY_USER, fetch_to_local
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_file_uri, is_remote, local_path
from vrshq.operators.models.bundle import DESCRIPTION, Bundle, CheckpointError, bundled_names, open_bundle

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
# Of a hub's or bucket's folder, what a model may consist of; others, such as videos and archives beside it, are not fetched.
_MODEL_FILES = ["*.json", "*.model", "*.txt", "*.safetensors", "pytorch_model*.bin", "clip/*", "*adapter_model.bin"]


def cache_folder() -> Path:
    """The node's folder of fetched models: VRSHQ_CACHE, else `vrshq` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vrshq"
    return Path(os.environ.get("VRSHQ_CACHE") or default)


def local_model(name: str, given_as: str = "--model") -> str:
    """The name of a bundle or the path of a local folder, for `open_bundle`; a remote model is fetched once per node.

    Args:
        name: a bundle's name, a local folder, a bucket uri or a hub id.
        given_as: the option or argument that gave the name, for error messages.

    Raises:
        CheckpointError: no model has that name.
        StorageError: the bucket cannot be read.
    """
    if name in bundled_names() or Path(name).is_dir():
        return name
    if is_file_uri(name):
        return str(local_path(name))
    if is_remote(name):
        return str(_fetch(name, given_as))
    if _HUB_ID.fullmatch(name):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return str(snapshot_download(name, allow_patterns=_MODEL_FILES))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{given_as} {name}: no local folder, and the hub did not give it ({reason})"
            ) from error
    known = ", ".join(bundled_names())
    raise CheckpointError(f"{given_as} {name}: no such bundle; give one of {known}, or a folder, bucket uri or hub id")


def open_model(name: str) -> Bundle:
    """Opens a model of any name that `local_model` takes."""
    return open_bundle(local_model(name))


def _fetch(uri: str, given_as: str) -> Path:
    """Copies the files of a model from a bucket's folder to the node's cache, one by one.

    The cached folder's name depends on the files' versions. The version of a file is its checksum in `bundle.json`; for a
    file that is not listed there it is its size, ETag and time of writing. A changed version gives a new folder. A file
    appears whole, with the listed checksum, or not at all. One process fetches while the others on the node wait. If it is
    killed, the next process continues after the last whole file.
    """
    source = Folder(uri)
    stamps = source.stamps()
    if not stamps:
        raise CheckpointError(f"{given_as} {uri}: no files; expected the folder of a model")
    description = source.read_bytes(DESCRIPTION) if DESCRIPTION in stamps else b""
    listed = _listed_checksums(description)
    wanted = [name for name in stamps if name in listed or any(fnmatch(name, pattern) for pattern in _MODEL_FILES)]
    versions = [(name, listed.get(name, description if name == DESCRIPTION else stamps[name])) for name in wanted]
    cache = cache_folder()
    target = cache / hashlib.sha256(repr((source.uri, versions)).encode()).hexdigest()[:16]
    target.mkdir(parents=True, exist_ok=True)
    with _one_process_at_a_time(target):
        for name in wanted:
            uri_of_file, path = (
                source.uri_of(name),
                target / name,
            )  # uri_of raises for a name that leads outside the folder
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                with fetch_to_local(uri_of_file, cache / "incoming", wanted=GIVEN_BY_USER) as fetched:
                    _check_and_sync(Path(fetched), listed.get(name), f"{given_as} {uri_of_file}")
                    Path(fetched).replace(path)
    return target


def _listed_checksums(description: bytes) -> dict[str, str]:
    """The sha256 of files by name, or {} if the description has none that can be read; opening the bundle reports why."""
    try:
        listed = json.loads(description)["sha256"]
        return {str(name): str(checksum) for name, checksum in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _check_and_sync(path: Path, expected: str | None, named: str) -> None:
    """Compares a file with its checksum, and flushes it to disk, so that a power cut leaves no partial file."""
    with path.open("rb") as file:
        os.fsync(file.fileno())
        found = hashlib.file_digest(file, "sha256").hexdigest() if expected else None
    if found != expected:
        raise CheckpointError(
            f"{named}: sha256 {found}, bundle.json lists {expected}; the file in the bucket is damaged or was replaced"
        )


@contextmanager
def _one_process_at_a_time(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

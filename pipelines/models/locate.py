"""Where a model named on the command line comes from: inside the package, a local folder, a bucket, or a hub."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from vrshq.cluster.storage.fetch import fetch_to_local
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import is_remote
from vrshq.operators.models.bundle import DESCRIPTION, Bundle, CheckpointError, bundled_names, open_bundle

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILES = ["*.json", "*.model", "*.txt", "*.safetensors", "pytorch_model*.bin", "clip/*", "*adapter_model.bin"]


def cache_folder() -> Path:
    """The node-local place of fetched models: VRSHQ_CACHE, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vrshq"
    return Path(os.environ.get("VRSHQ_CACHE") or default)


def local_model(name: str, given_as: str = "--model") -> str:
    """A name that `vrshq.operators.models.bundle.open_bundle` takes: fetches a remote model once per node.

    Args:
        given_as: what error messages call the name, e.g. the option that it was given with.

    Raises:
        CheckpointError: nothing has that name. StorageError: the bucket cannot be read.
    """
    if name in bundled_names() or Path(name).is_dir():
        return name
    if is_remote(name):
        return str(_fetch(name, given_as))
    if _HUB_ID.fullmatch(name):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        try:
            return str(snapshot_download(name, allow_patterns=_HUB_FILES))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(
                f"{given_as} {name}: no local folder, and the hub did not give it ({reason})"
            ) from error
    known = ", ".join(bundled_names())
    raise CheckpointError(f"{given_as} {name}: no such bundle; give one of {known}, or a folder, bucket uri or hub id")


def open_model(name: str) -> Bundle:
    """Opens a model wherever it lies."""
    return open_bundle(local_model(name))


def _fetch(uri: str, given_as: str) -> Path:
    """Copies a bucket's model folder to the node's cache, file by file.

    The cached folder's name depends on `bundle.json`, so a bundle that is replaced in the bucket is fetched anew: its
    checksums differ. Files that it does not list, or that have no `bundle.json` beside them, are fetched anew when their
    size, ETag or time of writing in the bucket changes. A file appears whole, with the listed checksum, or not at all. One
    process fetches while the others on the node wait; if it is killed, the next one goes on after its last whole file.
    """
    source = Folder(uri)
    stamps = source.stamps()
    if not stamps:
        raise CheckpointError(f"{given_as} {uri}: nothing is there; expected the folder of a model")
    description = source.read_bytes(DESCRIPTION) if DESCRIPTION in stamps else b""
    listed = _listed_checksums(description)
    versions = [
        (name, listed.get(name, description if name == DESCRIPTION else stamp)) for name, stamp in stamps.items()
    ]
    cache = cache_folder()
    target = cache / hashlib.sha256(repr((source.uri, versions)).encode()).hexdigest()[:16]
    target.mkdir(parents=True, exist_ok=True)
    with _one_process_at_a_time(target):
        for name in stamps:
            uri_of_file, place = source.uri_of(name), target / name  # uri_of refuses names that leave the folder
            if not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                with fetch_to_local(uri_of_file, cache / "incoming") as fetched:
                    _check_and_sync(Path(fetched), listed.get(name), f"{given_as} {uri_of_file}")
                    Path(fetched).replace(place)
    return target


def _listed_checksums(description: bytes) -> dict[str, str]:
    """The sha256 of files by name; {} if there are none, or none that can be read: opening the bundle says what is wrong."""
    try:
        listed = json.loads(description)["sha256"]
        return {str(name): str(checksum) for name, checksum in listed.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        return {}


def _check_and_sync(path: Path, expected: str | None, named: str) -> None:
    """Compares a file with its checksum, and brings it to disk: after a power cut it must not lie there half."""
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

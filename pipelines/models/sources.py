"""The files of a model in a bucket or on the hub: what their source states of them, and how one is fetched."""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from vrshq.cluster.storage.fetch import GIVEN_BY_USER, fetch_to_local
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.uris import checked_name
from vrshq.operators.models.bundle import DESCRIPTION, CheckpointError
from vrshq.pipelines.models.known import NO_LICENCE

logger = logging.getLogger("vrshq.models")

# Of a hub's or bucket's folder, what a model may consist of; others, such as videos and archives beside it, are not fetched.
DESCRIPTIONS = ("*.json", "*.model", "*.txt")
_MODEL_FILES = (*DESCRIPTIONS, "*.safetensors", "pytorch_model*.bin", "clip/*", "sam2/*", "*adapter_model.bin")


@dataclass(frozen=True)
class RemoteFile:
    """A file of a model that lies elsewhere.

    Attributes:
        uri: where it lies.
        version: a text that changes when its content does: its sha256 where the source states it.
        nbytes: its size.
        fetch: puts it at a path, whole and with the stated sha256, or not at all. Its arguments: the path, and a local
            folder for what is on its way.
    """

    uri: str
    version: str
    nbytes: int
    fetch: Callable[[Path, Path], None]


@dataclass(frozen=True)
class Source:
    """The files of a model in one place, by their names, and the licence that the place states."""

    uri: str
    files: dict[str, RemoteFile]
    licence: str = NO_LICENCE


def cache_folder() -> Path:
    """The node's folder of fetched models: VRSHQ_CACHE, else `vrshq` in the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vrshq"
    return Path(os.environ.get("VRSHQ_CACHE") or default)


def is_description(name: str) -> bool:
    """Whether a file describes weights: sizes, tokenizers, indices of the weights."""
    return any(fnmatch(name, pattern) for pattern in DESCRIPTIONS)


def in_bucket(uri: str, given_as: str) -> Source:
    """A model in a bucket's folder.

    The version of a file is its checksum in `bundle.json`; for a file that is not listed there it is its size, ETag and time
    of writing.

    Raises:
        CheckpointError: there are no files.
        StorageError: the bucket cannot be read.
    """
    folder = Folder(uri)
    stamps = folder.stamps()
    if not stamps:
        raise CheckpointError(f"{given_as} {uri}: no files; expected the folder of a model")
    sizes = folder.sizes()
    described = folder.read_bytes(DESCRIPTION) if DESCRIPTION in stamps else b""
    description = _parsed(described)
    listed = _listed_checksums(description)
    versions = {**stamps, DESCRIPTION: hashlib.sha256(described).hexdigest(), **listed}
    files = {
        name: RemoteFile(
            folder.uri_of(name),  # raises for a name that leads outside the folder
            versions[name],
            sizes.get(name, 0),
            functools.partial(_from_bucket, folder.uri_of(name), listed.get(name), given_as),
        )
        for name in stamps
        if name in listed or _wanted(name)
    }
    return Source(folder.uri, files, str(description.get("licence") or NO_LICENCE))


def _from_bucket(uri: str, checksum: str | None, given_as: str, path: Path, incoming: Path) -> None:
    with fetch_to_local(uri, incoming, wanted=GIVEN_BY_USER) as fetched:
        with Path(fetched).open("rb") as file:
            os.fsync(file.fileno())  # a power cut leaves no partial file
        _check(Path(fetched), checksum, f"{given_as} {uri}", "bundle.json", "the file in the bucket")
        Path(fetched).replace(path)


def on_hub(repository: str, given_as: str, only: Collection[str] = ()) -> Source:
    """A model on the hub, at the revision that is newest now. One request; the files' text is not fetched.

    The version of a file is the sha256 that the hub states for large files, else the hash of its content that git has. Where
    the hub does not answer, the files are those that it stated last, or those that huggingface_hub has in its cache.

    Args:
        repository: the hub id.
        given_as: the option or argument that gave the name, for error messages.
        only: names of the files that are wanted; empty: all that a model may consist of.

    Raises:
        CheckpointError: the hub does not give the model.
    """
    from huggingface_hub import HfApi

    try:
        about = HfApi().model_info(repository, files_metadata=True)
        listing = _Listing(
            str(about.sha),
            str((about.card_data.license if about.card_data else None) or NO_LICENCE),
            [
                (one.rfilename, (one.lfs.sha256 if one.lfs else one.blob_id) or "", one.size or 0)
                for one in about.siblings or []
            ],
        )
        _remember(repository, listing)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        found = _remembered(repository) or _in_hubs_cache(repository)
        if found is None:
            raise CheckpointError(
                f"{given_as} {repository}: no local folder, and the hub did not give it ({reason})"
            ) from error
        logger.warning("%s: the hub does not answer (%s); uses what was fetched before", repository, reason[:100])
        listing = found
    files = {
        checked_name(name): RemoteFile(
            f"{repository}/{name}",
            version,
            nbytes,
            functools.partial(_from_hub, repository, listing.revision, name, version, given_as),
        )
        for name, version, nbytes in listing.files
        if (name in only if only else _wanted(name))
    }
    return Source(repository, files, listing.licence)


@dataclass(frozen=True)
class _Listing:
    """What the hub states of a repository: the revision, the licence, and of each file its name, version and size."""

    revision: str
    licence: str
    files: list[tuple[str, str, int]]


def _place_of_listing(repository: str) -> Path:
    return cache_folder() / "hub" / f"{repository.replace('/', '--')}.json"


def _remember(repository: str, listing: _Listing) -> None:
    place = _place_of_listing(repository)
    place.parent.mkdir(parents=True, exist_ok=True)
    unfinished = place.with_name(f".{place.name}.{os.getpid()}")
    unfinished.write_text(json.dumps(asdict(listing)), encoding="utf-8")
    unfinished.replace(place)


def _remembered(repository: str) -> _Listing | None:
    try:
        return _Listing(**json.loads(_place_of_listing(repository).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return None


def _in_hubs_cache(repository: str) -> _Listing | None:
    """The newest revision in huggingface_hub's cache, with its files: name, version, size. It names contents by version."""
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(repository, local_files_only=True, allow_patterns=["*.json"]))
    except Exception:  # noqa: BLE001 - whatever the reason, nothing is there
        return None
    states = [
        (path.relative_to(folder).as_posix(), _version_in_cache(path), path.stat().st_size)
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
    return _Listing(folder.name, NO_LICENCE, states) if states else None


def _version_in_cache(path: Path) -> str:
    if path.is_symlink():
        return path.readlink().name
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(
    repository: str, revision: str, name: str, version: str, given_as: str, path: Path, _incoming: Path
) -> None:
    """Fetches a file into huggingface_hub's cache, which other programs share, and puts a link to it at `path`."""
    from huggingface_hub import hf_hub_download

    try:
        fetched = Path(hf_hub_download(repository, name, revision=revision)).resolve()
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(f"{given_as} {repository}: the hub did not give {name} ({reason})") from error
    try:
        sha256 = version if len(version) == hashlib.sha256().digest_size * 2 else None
        _check(fetched, sha256, f"{given_as} {repository}/{name}", "the hub", "the file")
    except CheckpointError:
        fetched.unlink()  # so that the next command fetches it again
        raise
    link = path.with_name(f".{path.name}.{os.getpid()}")
    link.unlink(missing_ok=True)
    link.symlink_to(fetched)
    link.replace(path)


def _wanted(name: str) -> bool:
    hidden = any(part.startswith(".") for part in name.split("/"))
    return not hidden and any(fnmatch(name, pattern) for pattern in _MODEL_FILES)


def _parsed(description: bytes) -> dict[str, Any]:
    """The content of a `bundle.json`, or {} if it cannot be read; opening the bundle reports why."""
    try:
        values = json.loads(description)
    except ValueError:
        return {}
    return values if isinstance(values, dict) else {}


def _listed_checksums(description: dict[str, Any]) -> dict[str, str]:
    listed = description.get("sha256")
    return {str(name): str(checksum) for name, checksum in listed.items()} if isinstance(listed, dict) else {}


def _check(path: Path, expected: str | None, named: str, lister: str, what: str) -> None:
    """Compares a file with its checksum, if it has one."""
    if expected is None:
        return
    with path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != expected:
        raise CheckpointError(f"{named}: sha256 {found}, {lister} lists {expected}; {what} is damaged or was replaced")

"""Finds a model by its name on the command line: in the package, in a local folder, in a bucket, or on the hub.

A remote model has a folder in the node's cache. Descriptions come into it first; they are enough to plan. Weights follow where
an actor needs them, only those of the parts that it uses.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from vrshq.cluster.storage.uris import is_file_uri, is_remote, local_path
from vrshq.operators.models.bundle import SOURCE, Bundle, CheckpointError, bundled_names, open_bundle
from vrshq.pipelines.models.known import KnownModel, human_bytes, known_model, known_models
from vrshq.pipelines.models.parts import weights_for, without_doubles
from vrshq.pipelines.models.sources import RemoteFile, cache_folder, in_bucket, is_description, on_hub

logger = logging.getLogger("vrshq.models")

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


@dataclass(frozen=True)
class RemoteModel:
    """A model that lies elsewhere, and its folder on this node.

    Attributes:
        name: the short name, or the last part of the uri or hub id.
        uri: where it lies.
        files: its files, by their names in the folder; those of companions in the folders where the bundle expects them.
        licence: of the model and its companions, as their publishers state it.
        folder: local folder. Its name depends on the versions of all files: a changed file gives a new folder.
        incoming: local folder for what is on its way.
    """

    name: str
    uri: str
    files: dict[str, RemoteFile]
    licence: str
    folder: Path
    incoming: Path

    def absent(self, names: Collection[str]) -> list[str]:
        """Those of the files that do not lie in the folder."""
        return [name for name in names if not (self.folder / name).exists()]

    def nbytes(self, names: Collection[str]) -> int:
        """The size of some files."""
        return sum(self.files[name].nbytes for name in names)

    def fetch_descriptions(self) -> None:
        """Fetches what opens the bundle and gives its fingerprint, without weights."""
        with _one_process_at_a_time(self.folder):
            self._fetch([name for name in self.files if is_description(name)])
            weights = {name: file for name, file in self.files.items() if not is_description(name)}
            stated = {name: {"version": file.version, "bytes": file.nbytes} for name, file in weights.items()}
            source = {"uri": self.uri, "name": self.name, "licence": self.licence, "files": stated}
            unfinished = self.folder / f"{SOURCE}.new"
            unfinished.write_text(json.dumps(source, indent=1) + "\n", encoding="utf-8")
            unfinished.replace(self.folder / SOURCE)

    def fetch_weights(self, names: Collection[str]) -> None:
        """Fetches those of the files that are not there, and says before how large they are and under which licence."""
        if not self.absent(names):
            return
        with _one_process_at_a_time(self.folder):
            if not (absent := self.absent(names)):
                return
            self.announce(absent)
            self._fetch(absent)

    def announce(self, names: Collection[str]) -> None:
        """Says that files will be fetched: their size, their places, and the licence."""
        places = " and ".join(sorted({self.files[name].uri.rpartition("/")[0] for name in names}))
        size = human_bytes(self.nbytes(names))
        logger.warning("model %s: fetches %s from %s, licence: %s", self.name, size, places, self.licence)

    def _fetch(self, names: Collection[str]) -> None:
        for name in names:
            path = self.folder / name
            if not path.exists():
                path.parent.mkdir(parents=True, exist_ok=True)
                self.files[name].fetch(path, self.incoming)


@dataclass(frozen=True)
class DescribedModel:
    """A model of which only descriptions were read.

    Attributes:
        bundle: its description. Its weights may be absent.
        known: its row among the known models.
        remote: where it lies, if it has to be fetched.
    """

    bundle: Bundle
    known: KnownModel | None = None
    remote: RemoteModel | None = None

    def weights(self, parts: Collection[str], *, absent: bool = False) -> int:
        """Bytes of the files that an actor with these parts fetches; with `absent`, of those that this machine lacks."""
        if self.remote is None:
            return 0
        names = weights_for(self.bundle, parts, self.remote.files)
        return self.remote.nbytes(self.remote.absent(names) if absent else names)


def announce_fetching(model: DescribedModel, parts: Collection[str]) -> None:
    """Says what this machine lacks before actors, whose output nobody sees, fetch it here or on others."""
    if model.remote is not None:
        absent = model.remote.absent(weights_for(model.bundle, parts, model.remote.files))
        if absent:
            model.remote.announce(absent)


def local_model(name: str, given_as: str = "--model", parts: Collection[str] | None = None) -> str:
    """The name of a bundle or the path of a local folder, for `open_bundle`; a remote model is fetched once per node.

    Its files are copied one by one. A file appears whole, with the checksum that its source lists, or not at all. One process
    fetches while the others on the node wait. If it is killed, the next process continues after the last whole file.

    Args:
        name: a bundle's name, a known model's name, a local folder, a bucket uri or a hub id.
        given_as: the option or argument that gave the name, for error messages.
        parts: the parts of the model that will be loaded; None: all of it. Files of other parts are not fetched, where the
            descriptions tell them apart.

    Raises:
        CheckpointError: no model has that name, or it cannot be fetched.
        StorageError: the bucket cannot be read.
    """
    found = _find(name, given_as)
    if isinstance(found, str):
        return found
    found.fetch_descriptions()
    folder = str(found.folder)
    everything = without_doubles(found.files)
    found.fetch_weights(everything if parts is None else weights_for(open_bundle(folder), parts, found.files))
    return folder


def describe_model(name: str) -> DescribedModel:
    """Opens a model of any name that `local_model` takes, without its weights.

    Of a remote model, files that describe it are fetched, such as sizes, tokenizers and indices: some MB. The fingerprint
    depends on what the source states of the weights' files, so it is the same before and after they are fetched.

    Raises:
        As `local_model`.
    """
    found = _find(name, "--model")
    if isinstance(found, str):
        bundle = open_bundle(found)
        return DescribedModel(bundle, known_models().get(name) if name in bundled_names() else None)
    found.fetch_descriptions()
    return DescribedModel(open_bundle(str(found.folder)), known_model(name), found)


def open_model(name: str) -> Bundle:
    """Opens a model of any name that `local_model` takes, with all its weights."""
    return open_bundle(local_model(name))


def _find(name: str, given_as: str) -> str | RemoteModel:
    """The name or folder of a local model, or what is known of a remote one. Reads no file of it but `bundle.json`."""
    if name in bundled_names() or Path(name).is_dir():
        return name
    if is_file_uri(name):
        return str(local_path(name))
    known = known_model(name)
    if is_remote(name):
        source = in_bucket(name, given_as)
    elif known is not None and known.hub is not None:
        source = on_hub(known.hub, given_as)
    elif _HUB_ID.fullmatch(name):
        source = on_hub(name, given_as)
    else:
        names = ", ".join(known_models())
        raise CheckpointError(
            f"{given_as} {name}: no such bundle; give one of {names}, or a folder, bucket uri or hub id"
        )
    files, optional = dict(source.files), dict[str, RemoteFile]()
    for place, companion in known.companions_on(source.files).items() if known else ():
        try:
            found = on_hub(companion.hub, given_as, companion.files).files
        except CheckpointError:
            if not companion.optional:
                raise
            continue  # who needs it is told that it is missing
        (optional if companion.optional else files).update({f"{place}/{file}": one for file, one in found.items()})
    versions = [(file, one.version) for file, one in sorted(files.items())]
    folder = cache_folder() / hashlib.sha256(repr((source.uri, versions)).encode()).hexdigest()[:16]
    folder.mkdir(parents=True, exist_ok=True)
    return RemoteModel(
        known.name if known else source.uri.rstrip("/").rpartition("/")[2],
        source.uri,
        files | optional,
        known.licences if known else source.licence,
        folder,
        cache_folder() / "incoming",
    )


@contextmanager
def _one_process_at_a_time(folder: Path) -> Iterator[None]:
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield

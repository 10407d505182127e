"""Where a model named on the command line comes from: inside the package, a local folder, a bucket, or a hub."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

from cluster.storage import Folder, is_remote
from operators.bundle import Bundle, CheckpointError, bundled_names, open_bundle

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def cache_folder() -> Path:
    """The node-local place of fetched models: VRSHQ_CACHE, else the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "vrshq"
    return Path(os.environ.get("VRSHQ_CACHE") or default)


def local_model(name: str) -> str:
    """A name that `operators.bundle.open_bundle` takes: fetches a remote model once per node.

    Raises:
        CheckpointError: nothing has that name. StorageError: the bucket cannot be read.
    """
    if name in bundled_names() or Path(name).is_dir():
        return name
    if is_remote(name):
        return str(_fetch(name))
    if _HUB_ID.fullmatch(name):
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

        patterns = ["*.json", "*.model", "*.txt", "*.safetensors", "pytorch_model*.bin", "clip/*"]
        try:
            return str(snapshot_download(name, allow_patterns=patterns))
        except (HfHubHTTPError, LocalEntryNotFoundError, OSError, ValueError) as error:
            reason = " ".join(str(error).split())[:300]
            raise CheckpointError(f"--model {name}: no local folder, and the hub did not give it ({reason})") from error
    open_bundle(name)  # raises the error that lists what can be given
    return name


def open_model(name: str) -> Bundle:
    """Opens a model wherever it lies."""
    return open_bundle(local_model(name))


def _fetch(uri: str) -> Path:
    """Copies a bucket's model folder to the node's cache; a file that is there already is not fetched again."""
    source = Folder(uri)
    names = source.list()
    if not names:
        raise CheckpointError(f"--model {uri}: nothing is there; expected the folder of a model")
    target = Folder(str(cache_folder() / hashlib.sha256(source.uri.encode()).hexdigest()[:16]))
    for name in names:
        if not target.exists(name):
            target.write_bytes(name, source.read_bytes(name))
    return Path(target.uri)

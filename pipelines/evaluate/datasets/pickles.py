"""Pickles of plain data, read without running what they say."""

from __future__ import annotations

import io
import pickle
from typing import Any

from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.evaluate.datasets.base import DatasetError


class _PlainUnpickler(pickle.Unpickler):
    """Containers, str, bytes, numbers and None need no class, so every class or function that a pickle names is refused."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"it asks for the outside object {pid!r}")


def read_plain_pickle(folder: Folder, name: str) -> Any:
    """The content of a pickle of dicts, lists, tuples, str, bytes, numbers and None.

    Raises DatasetError where the file is missing, is no pickle, or names a class or function: unpickling such a one can
    run any code.
    """
    try:
        data = folder.read_bytes(name)
    except (StorageError, ValueError) as error:
        raise DatasetError(f"{error}; expected the data set's file {name}") from error
    try:
        return _PlainUnpickler(io.BytesIO(data)).load()
    except pickle.UnpicklingError as error:
        raise DatasetError(
            f"{folder.uri_of(name)} is refused: {error}; expected a pickle of plain lists, texts and numbers only"
        ) from error
    except Exception as error:  # a broken pickle raises whatever its opcodes run into
        raise DatasetError(f"{folder.uri_of(name)} is not a pickle: {type(error).__name__}: {error}") from error

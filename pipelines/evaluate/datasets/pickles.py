"""Reads pickles of plain data without running code."""

from __future__ import annotations

import io
import pickle
from typing import Any

from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.evaluate.datasets.base import DatasetError


class _PlainUnpickler(pickle.Unpickler):
    """Refuses every class and function. Containers, str, bytes, numbers and None need none."""

    def find_class(self, module: str, name: str) -> Any:
        raise pickle.UnpicklingError(f"it asks for {module}.{name}")

    def persistent_load(self, pid: Any) -> Any:
        raise pickle.UnpicklingError(f"it asks for the outside object {pid!r}")


def read_plain_pickle(folder: Folder, name: str) -> Any:
    """The content of a pickle of dicts, lists, tuples, str, bytes, numbers and None.

    Raises:
        DatasetError: the file is missing, is not a pickle, or names a class or function, which could run any code.
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
    except Exception as error:  # the opcodes of a broken pickle raise errors of many types
        raise DatasetError(f"{folder.uri_of(name)} is not a pickle: {type(error).__name__}: {error}") from error

"""A seekable file of a store that is read by range requests."""

from __future__ import annotations

import io
import os
from typing import Any

from vrshq.cluster.storage.errors import TornError
from vrshq.cluster.storage.retry import retry


class RemoteFile(io.RawIOBase):
    """A file of a store. Each read is one range request, which is retried like an operation of `Folder`.

    Args:
        file: the file that fsspec opened, without a cache.
        uri: its uri, for messages.
        patience_s: seconds after its first failure during which a read is retried.
    """

    def __init__(self, file: Any, uri: str, patience_s: float) -> None:
        self._file, self._uri, self._patience_s = file, uri, patience_s
        self._size: int = file.size
        self._position = 0

    def readable(self) -> bool:
        """True: see `io.IOBase`."""
        return True

    def seekable(self) -> bool:
        """True: see `io.IOBase`."""
        return True

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Moves the position, also beyond the end. Returns it. Raises ValueError if it would be negative."""
        position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        if position < 0:
            raise ValueError(f"negative position {position}")
        self._position = position
        return position

    def readinto(self, buffer: Any) -> int:
        """Fills `buffer` as far as the file reaches. Returns the number of bytes. Raises StorageError."""
        wanted = max(0, min(len(buffer), self._size - self._position))

        def read() -> bytes:
            self._file.seek(self._position)
            data: bytes = self._file.read(wanted)
            if len(data) != wanted:
                raise TornError(f"{len(data)} of {wanted} bytes came")
            return data

        if wanted:
            buffer[:wanted] = retry(self._uri, "read", self._patience_s, read)
            self._position += wanted
        return wanted

    def close(self) -> None:
        """Closes the file of fsspec too."""
        if not self.closed:
            self._file.close()
        super().close()

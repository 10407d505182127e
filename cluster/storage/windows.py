"""The windows of a long unit: its masks in parts as they are made, and the state from which an interrupted attempt goes on.

    masks/part-{unit_id}-{number}.parquet   the masks of one window of frames
    state/{unit_id}/{name}                  what the unit needs to go on; removed when it is finished
    state/{unit_id}/windows.json            the length of its windows, in frames, and their number; written first

A unit whose masks are in windows has no `masks/part-{unit_id}.parquet`: where there is one, the windows do not count.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.cluster.storage.columns import parquet_bytes
from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.folder import Folder

_UNIT_ID = re.compile(r"[0-9a-f]+")
_CUT = "windows.json"
_WINDOW = re.compile(r"masks/part-([0-9a-f]+)-[0-9]+\.parquet")


class Windows:
    """The windows and the state of one unit of the run directory `folder`. Files are written whole or not at all."""

    def __init__(self, folder: Folder, unit_id: str) -> None:
        self._folder, self._unit = folder, checked_unit(unit_id)

    def cut(self) -> tuple[int, int] | None:
        """Length and number of the windows, as `begin` was given them; None where it was not called."""
        content = self.load(_CUT)
        if content is None:
            return None
        known = json.loads(content)
        return int(known["frames"]), int(known["windows"])

    def begin(self, length: int, count: int) -> None:
        """Notes how the unit is cut, after removing windows that were left without a state. Called before anything is written.

        Args:
            length: frames of a window.
            count: number of windows.
        """
        self._folder.remove_all(window_name(self._unit, number) for number in range(count))
        self.save(_CUT, json.dumps({"frames": length, "windows": count}).encode())

    def write(self, number: int, masks: pa.Table) -> int:
        """Writes the masks of a window, in place of those that it had. Returns the bytes written."""
        content = parquet_bytes(masks)
        self._folder.write_bytes(window_name(self._unit, number), content)
        return len(content)

    def read(self, number: int) -> pa.Table | None:
        """The masks of a window; None where there is no such part."""
        content = self._found(window_name(self._unit, number))
        return None if content is None else pq.ParquetFile(pa.BufferReader(content)).read(use_threads=False)

    def save(self, name: str, content: bytes) -> None:
        """Writes a file of the unit's state."""
        self._folder.write_bytes(self._state(name), content)

    def load(self, name: str) -> bytes | None:
        """A file of the unit's state; None where there is none."""
        return self._found(self._state(name))

    def discard(self) -> None:
        """Removes the windows of an unfinished unit, then the state: an attempt that finds no state begins anew."""
        known = self.cut()
        if known is not None:
            self._folder.remove_all(window_name(self._unit, number) for number in range(known[1]))
            self.forget_state()

    def forget_state(self) -> None:
        """Removes the state."""
        self._folder.remove_all(self._folder.list(f"state/{self._unit}"))

    def _state(self, name: str) -> str:
        return f"state/{self._unit}/{name}"

    def _found(self, name: str) -> bytes | None:
        try:
            return self._folder.read_bytes(name)
        except StorageNotFoundError:
            return None


def window_name(unit_id: str, number: int) -> str:
    """The name of the part of a window inside the run directory."""
    return f"masks/part-{checked_unit(unit_id)}-{number:05}.parquet"


def discard_windows(folder: Folder, unit_ids: Iterable[str]) -> None:
    """Removes the windows and the state of some units. Costs two listings, whatever their number."""
    units = set(unit_ids)
    if not units:
        return
    masks = (name for name in folder.list("masks") if (match := _WINDOW.fullmatch(name)) and match[1] in units)
    state = (name for name in folder.list("state") if name.split("/")[1] in units)
    folder.remove_all([*masks, *state])


def checked_unit(unit_id: str) -> str:
    """The id. Raises ValueError if it could be no name of a file."""
    if not _UNIT_ID.fullmatch(unit_id):
        raise ValueError(f"not a unit id: {unit_id!r}; expected lower-case hexadecimal digits")
    return unit_id

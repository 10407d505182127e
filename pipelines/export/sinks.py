"""Where an export's files go: a folder, a zip, or a JSON file that is written piece by piece."""

from __future__ import annotations

import json
import shutil
import zipfile
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self


class Sink(Protocol):
    """Takes files by their relative path."""

    def write(self, name: str, data: bytes) -> None:
        """Writes one file under a name relative to the export's root."""


class FolderSink:
    """Files in a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def write(self, name: str, data: bytes) -> None:
        """Writes one file under a name relative to the export's root."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)


class ZipSink:
    """Files in a zip. The same files give the same bytes: times and rights are fixed; PNG is not compressed again."""

    def __init__(self, path: Path) -> None:
        self.zip = zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True)

    def write(self, name: str, data: bytes) -> None:
        """Writes one file under a name relative to the export's root."""
        entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
        entry.create_system = 3  # Unix
        entry.external_attr = 0o644 << 16
        self.zip.writestr(entry, data)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.zip.close()


class JsonFile:
    """`{...head, "name": [...] or {...}, ...}`, its lists and objects filled in any order, none of them held in memory.

    Args:
        path: the file; what is not finished yet lies beside it.
        head: what comes first.
        parts: name -> "[]" for a list, "{}" for an object. A single part "" is the whole file.
    """

    def __init__(self, path: Path, head: dict[str, Any], parts: dict[str, str]) -> None:
        self.path = path
        self.head = head
        self.parts = parts
        self.begun: set[str] = set()
        names = [path.with_name(f"{path.name}.{number}.partial") for number in range(len(parts))]
        self.spools = {part: name.open("w", encoding="utf-8") for part, name in zip(parts, names, strict=True)}

    def add(self, part: str, value: Any, key: str | None = None) -> None:
        """Appends to a list, or with `key` to an object."""
        spool = self.spools[part]
        spool.write(",\n" if part in self.begun else "\n")
        self.begun.add(part)
        if key is not None:
            spool.write(f"{to_json(key)}: ")
        spool.write(to_json(value))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for spool in self.spools.values():
            spool.close()
        if kind is None:
            with self.path.open("w", encoding="utf-8") as file:
                if [*self.parts] == [""]:
                    self._copy("", file)
                else:
                    file.write(
                        "{" + ",\n".join(f"{to_json(key)}: {to_json(value)}" for key, value in self.head.items())
                    )
                    for number, part in enumerate(self.parts):
                        file.write((",\n" if self.head or number else "") + f"{to_json(part)}: ")
                        self._copy(part, file)
                    file.write("}")
                file.write("\n")
        for spool in self.spools.values():
            Path(spool.name).unlink()

    def _copy(self, part: str, file: Any) -> None:
        file.write(self.parts[part][0])
        with Path(self.spools[part].name).open(encoding="utf-8") as spool:
            shutil.copyfileobj(spool, file)
        file.write(self.parts[part][1])


def to_json(value: Any) -> str:
    """Compact JSON; nan and infinity, which JSON has not, are a mistake."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False)

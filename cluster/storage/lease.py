"""A lease: the right of one command at a time to write into a run directory.

A lease is a lock file with a heartbeat, on local disk and in a bucket alike. A killed command leaves its lock behind. A
command on the same machine sees at once that the owner is dead; a command on another machine takes it for dead when three
heartbeats in a row are missing. No clocks are compared. Not all stores have an atomic "create if absent", so two commands
that start within the same second may both get the lease. They then waste work, but they write the same files, each whole.
"""

from __future__ import annotations

import json
import os
import secrets
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from vrshq.cluster.storage.errors import StorageError, StorageNotFoundError
from vrshq.cluster.storage.folder import Folder
from vrshq.errors import UserError

LOCK = "run.lock"
BEAT_SECONDS = 10.0


class InUseError(UserError, ValueError):
    """Another command works on the folder. The one-line message names it."""


class Lease:
    """The right to write into a folder, for the time of a `with`.

    Args:
        folder: the run directory.
        command: the name of this command in the message for others, such as "label".
        beat_seconds: seconds between heartbeats. An owner without a heartbeat for three of them counts as dead.

    Raises (on entering):
        InUseError: another living command holds it.
        StorageError: the lock cannot be written.
    """

    def __init__(self, folder: Folder, command: str, *, beat_seconds: float = BEAT_SECONDS) -> None:
        self._folder, self._beat_seconds = folder, beat_seconds
        self._owner: dict[str, Any] = {
            "id": secrets.token_hex(8),
            "command": command,
            "host": socket.gethostname(),
            "machine": _machine(),
            "pid": os.getpid(),
            "started": _started(os.getpid()),
        }
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        other = self._read()
        if other is not None and self._is_alive(other):
            raise InUseError(
                f"{self._folder.uri} is in use by `vrshq {other['command']}` (process {other['pid']} on {other['host']}); "
                "wait for its end or stop it, then run the same line again"
            )
        self._write(0)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(StorageError):
            if (self._read() or {}).get("id") == self._owner["id"]:
                self._folder.remove(LOCK)

    def _is_alive(self, other: dict[str, Any]) -> bool:
        if other["machine"] == self._owner["machine"]:
            return bool(_started(other["pid"]) == other["started"])
        seen = other["beat"]
        for _ in range(6):
            time.sleep(self._beat_seconds / 2)
            now = self._read()
            if now is None:
                return False
            if now["beat"] != seen or now["id"] != other["id"]:
                return True
        return False

    def _beat(self) -> None:
        beat = 0
        while not self._stop.wait(self._beat_seconds):
            beat += 1
            # The store may be unreachable for a moment. If it stays so, the work itself fails.
            with suppress(StorageError):
                self._write(beat)

    def _write(self, beat: int) -> None:
        self._folder.write_bytes(LOCK, json.dumps({**self._owner, "beat": beat}).encode())

    def _read(self) -> dict[str, Any] | None:
        try:
            content = json.loads(self._folder.read_bytes(LOCK))
        except StorageNotFoundError:
            return None
        except ValueError:
            return None  # not written by this program, or cut off by the store
        known = isinstance(content, dict) and {*self._owner, "beat"} <= content.keys()
        return content if known else None


def _machine() -> str:
    """The booted kernel and the process namespace. Process ids are comparable exactly between processes that share both."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - it is no path
    except OSError:
        return socket.gethostname()


def _started(pid: int) -> str | None:
    """The start time of a process in kernel ticks; None if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "unknown"
    return None if fields[0] == "Z" else fields[19]

"""A lease: the right of one command at a time to write into a run directory.

    lock/{number}         the lock of the command that works on the run, or the mark of the last one's end
    lock/{number}.{id}    the same where the store has no conditional write

A lock is a small file with a heartbeat, on local disk and in a bucket alike. The command whose lock has the highest number
holds the lease. Locks are not replaced: whoever finds the last owner dead or gone creates the lock with the next number.

* Where a file can be created only if it does not exist (a hard link on local disk, If-None-Match on S3, generation 0 on GCS,
  the ETag condition on Azure), one of two commands that create the same number is refused. The highest lock is never removed,
  so no number is given away twice. A creator that acted on an old listing finds a higher number when it lists again.
* Elsewhere (a server that ignores the condition, found out by trying) each lock has a name of its own. A command writes its
  lock, lists, and holds the lease only if it sees no lock that it had not judged before. Of two commands that both write before
  they list, at least one sees the other. If both do, both withdraw and try again after pauses of random length.

Both ways need a store whose listings show each finished write, as those of S3, GCS and Azure do. Neither depends on time.

A killed command leaves its lock behind. A command on the same machine sees at once that the owner is dead; a command on
another machine takes it for dead when three heartbeats in a row are missing. No clocks are compared. An owner that was silent
for so long (a store that did not answer, a suspended machine) must create the next lock before it goes on. An owner that finds
another's lock has lost the lease, and `check` raises.
"""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from types import TracebackType

from vrshq.cluster.storage.errors import StorageError, StorageNotFoundError
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.owner import Owner, named, started, this_process
from vrshq.errors import UserError

LOCKS = "lock"
BEAT_SECONDS = 10.0
_MISSED = 3  # heartbeats in a row after which an owner counts as dead


class InUseError(UserError, ValueError):
    """Another command works on the folder. The one-line message names it."""


class LeaseLostError(UserError, RuntimeError):
    """Another command has the lease now, or may have it. The one-line message says who, and what to do."""


class Lease:
    """The right to write into a folder, for the time of a `with`. Entering waits only for another machine's heartbeat.

    Attributes:
        owner: this command, as others see it.

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
        self.owner = this_process(command)
        self._name, self._beat, self._exclusive = "", 0, False
        self._renewed = 0.0  # when the last heartbeat that was written began
        self._lost: str | None = None
        self._trouble: StorageError | None = None
        self._renewing = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Lease:
        self._exclusive = self._folder.creates_exclusively(LOCKS)
        pause = 0.02
        while True:
            locks = self._judged()
            self._renewed = time.monotonic()
            if self._claim(1 + max(map(_number, locks), default=0), [*locks]):
                break
            # Another command was faster, or both withdrew. The next look tells.
            pause = min(2 * pause + time.monotonic() - self._renewed, 5.0)
            time.sleep(random.uniform(0, pause))
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join()
        with suppress(StorageError):
            if (self._read(self._name) or {}).get("id") == self.owner["id"]:
                # Not removed: as long as the highest lock stays, nobody gets its number again.
                self._folder.write_bytes(self._name, b'{"ended": true}\n')

    def check(self) -> None:
        """Costs nothing while heartbeats are written. Call it between steps of the work, before what must not be done twice.

        Raises:
            LeaseLostError: another command has the lease, or heartbeats failed for so long that another may take it.
        """
        if self._lost is None and self._late():
            self._renew()
        if self._lost is None and self._late():
            self._lost = (
                f"{self._folder.uri}: the lock of this command could not be renewed for "
                f"{time.monotonic() - self._renewed:.0f} s, so that another command may have taken the run over "
                f"({self._trouble}); run the same line again when the store answers"
            )
        if self._lost is not None:
            raise LeaseLostError(self._lost)

    def _late(self) -> bool:
        """Whether others may take this owner for dead."""
        return time.monotonic() - self._renewed >= _MISSED * self._beat_seconds

    def _keep(self) -> None:
        while self._lost is None and not self._stop.wait(self._beat_seconds):
            self._renew()

    def _renew(self) -> None:
        """Writes a heartbeat, or finds out that the lease is lost. A store that does not answer is no loss yet."""
        with self._renewing:
            begin = time.monotonic()
            try:
                names = self._folder.list(LOCKS)
                newer = [name for name in names if _number(name) > _number(self._name)]
                mine = self._read(self._name) or {}
                if newer or mine.get("id") != self.owner["id"]:
                    self._lose(max(newer, key=_number, default=self._name))
                elif not self._late():
                    self._beat += 1
                    self._folder.write_bytes(self._name, self._content())
                elif not self._claim(1 + _number(self._name), names):
                    self._lose(max(self._folder.list(LOCKS), key=_number, default=self._name))
            except StorageError as error:
                self._trouble = error
            else:
                self._renewed = begin

    def _lose(self, name: str) -> None:
        owner = self._read(name)
        who = f"{named(owner)} has taken it over" if owner else "another command took it over, or its lock was removed"
        self._lost = (
            f"{self._folder.uri} is no longer held by this `vrshq {self.owner['command']}`: {who} while this command gave no "
            "sign of life; nothing is lost, let the other one end or stop it, then run the same line again"
        )

    def _judged(self) -> dict[str, Owner | None]:
        """The locks of dead or gone owners by name. Raises InUseError if an owner lives."""
        locks = self._locks()
        for owner in locks.values():
            if owner is not None and self._is_here(owner) and started(owner["pid"]) == owner["started"]:
                raise self._in_use(owner)
        silent = {name for name, owner in locks.items() if owner is not None and not self._is_here(owner)}
        for _ in range(2 * _MISSED):
            if not silent:
                break
            time.sleep(self._beat_seconds / 2)
            now = self._locks()
            for name, owner in now.items():
                if owner is not None and owner != locks.get(name):
                    raise self._in_use(owner)
            silent = {name for name in silent if now.get(name)}
        return locks

    def _is_here(self, owner: Owner) -> bool:
        return bool(owner["machine"] == self.owner["machine"])

    def _locks(self) -> dict[str, Owner | None]:
        """All locks by name; None for one that has ended, or that this program did not write."""
        found: dict[str, Owner | None] = {}
        for name in self._folder.list(LOCKS):
            with suppress(StorageNotFoundError):
                found[name] = self._parsed(self._folder.read_bytes(name))
        return found

    def _claim(self, number: int, judged: Sequence[str]) -> bool:
        """Creates the lock of that number, where nobody else does; the locks `judged` belong to nobody who lives."""
        name = f"{LOCKS}/{number:08d}" if self._exclusive else f"{LOCKS}/{number:08d}.{self.owner['id']}"
        if not self._exclusive:
            self._folder.write_bytes(name, self._content())
        elif not self._folder.create(name, self._content()):
            return False
        names = self._folder.list(LOCKS)
        if any(self._is_rival(other, name, judged) for other in names):
            self._folder.remove(name)
            return False
        self._name = name
        with suppress(StorageError):  # what stays is judged and removed by the next command
            self._folder.remove_all(other for other in names if other != name)
        return True

    def _is_rival(self, other: str, mine: str, judged: Sequence[str]) -> bool:
        if self._exclusive:
            return _number(other) > _number(mine)
        return other != mine and other not in judged

    def _in_use(self, owner: Mapping[str, object]) -> InUseError:
        return InUseError(
            f"{self._folder.uri} is in use by {named(dict(owner))}; "
            "wait for its end or stop it, then run the same line again"
        )

    def _content(self) -> bytes:
        return json.dumps({**self.owner, "beat": self._beat}).encode()

    def _read(self, name: str) -> Owner | None:
        try:
            return self._parsed(self._folder.read_bytes(name))
        except StorageNotFoundError:
            return None

    def _parsed(self, data: bytes) -> Owner | None:
        try:
            content = json.loads(data)
        except ValueError:
            return None  # not written by this program, or cut off by the store
        known = isinstance(content, dict) and {*self.owner, "beat"} <= content.keys()
        return content if known else None


def _number(name: str) -> int:
    """The number of a lock; 0 for a file that is no lock."""
    digits = name.rpartition("/")[2].partition(".")[0]
    return int(digits) if digits.isdecimal() else 0

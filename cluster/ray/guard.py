"""What keeps a pool of actors honest: start marks, deadlines, bounded starts, named errors, and an end when no actor of a
pool is left.

A worker's process may end, or hang, at any moment, so what must be known afterwards is written down before: which unit
an actor has begun, in which process, and until when it may take. The notes lie in the cluster's own key-value store,
which outlives the actors' processes and their machines:

    vrshq/{run}/now/{unit}          a unit that an actor has begun and not ended (`Mark`)
    vrshq/{run}/why/{unit}          why its worker gave it up, if the worker could still say so
    vrshq/{run}/dead/{unit}         that the process which had begun it is gone
    vrshq/{run}/starts/{pool}/{actor} how often an actor's worker has begun to load without success
    vrshq/{run}/lost/{pool}/{actor} why an actor will not come back

Ray restarts an actor whose process died without end, and never one whose constructor raised after a restart; Ray Data
2.60 waits for ever for a pool without actors. Between the two lies this module.
"""

from __future__ import annotations

import faulthandler
import json
import logging
import os
import re
import sys
import threading
import time
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa

from vrshq.errors import UserError

logger = logging.getLogger(__name__)

# How many times in a row one actor may fail to bring up its worker.
MAX_STARTS = 3
_LOOK_EVERY_SECONDS = 2.0
# A worker that holds Python's lock cannot be ended by a thread; the C timer of faulthandler ends it this much later.
_GRACE_SECONDS = 10.0
# A unit is reported as slow once it has taken this share of its deadline.
_SLOW_SHARE = 0.5
DIED = "its worker process died"
FOR_MEMORY = "its worker process was killed for memory"


class WorkerError(UserError, RuntimeError):
    """A worker cannot be started, or raised; the one-line message names its pool and the error."""


class ProcessUnusable(RuntimeError):  # noqa: N818 - reads as the sentence that it is
    """A worker raises this when its process can do no more work (a CUDA context in error): the actor is replaced."""


@dataclass(frozen=True)
class Mark:
    """A unit that an actor has begun.

    Attributes:
        unit: its id. pool: the pool's name. actor, pid, node: where it runs.
        since: when it was begun; until: when it will be given up; both in seconds since 1970, `until` None for never.
    """

    unit: str
    pool: str
    actor: str
    pid: int
    node: str
    since: float
    until: float | None


class Guarded:
    """A worker inside its actor: marks what it begins, keeps its deadline, bounds its starts, names its errors."""

    def __init__(
        self, run: str, pool: str, worker: type, arguments: dict[str, Any], key: str, deadline_s: float | None
    ) -> None:
        import ray

        context = ray.get_runtime_context()
        self._run, self._pool, self._key, self._deadline_s = run, pool, key, deadline_s
        self._node = context.get_node_id()
        self._actor = actor = context.get_actor_id()
        if context.was_current_actor_reconstructed:
            for mark in marks(run):
                if mark.actor == actor:
                    _put(f"vrshq/{run}/dead/{mark.unit}", "")
        starts_key, lost_key = f"vrshq/{run}/starts/{pool}/{actor}", f"vrshq/{run}/lost/{pool}/{actor}"
        starts = int(_get(starts_key) or "0") + 1
        _put(starts_key, str(starts))
        if starts > MAX_STARTS:
            if _get(lost_key) is None:
                _put(
                    lost_key,
                    f"pool {pool}: the worker's process died {MAX_STARTS} times while it started; was it killed for "
                    "memory? Use machines with more of it, or fewer actors on each",
                )
            raise WorkerError(_get(lost_key))
        try:
            self._worker = worker(**arguments)
        except Exception as error:
            why = WorkerError(f"pool {pool} cannot start: {_one_line(error)}")
            if context.was_current_actor_reconstructed:
                if starts < MAX_STARTS:
                    # Raising would be the end of a restarted actor; if its process ends, Ray tries once more.
                    os._exit(1)
                _put(lost_key, str(why))
            raise why from error
        _put(starts_key, "0")

    def __call__(self, table: pa.Table) -> pa.Table:
        global _watchdog
        units = [str(unit) for unit in table[self._key].to_pylist()]
        _watchdog = _Watchdog(self._run, self._pool, self._actor, self._node, units)
        _watchdog.allow(self._deadline_s)
        try:
            result = self._worker(table)
        except ProcessUnusable as error:
            _watchdog.give_up(str(error))
        except Exception as error:
            reason = f"pool {self._pool}: {_one_line(error)}"
            _watchdog.note(reason)
            raise WorkerError(reason) from error
        finally:
            _watchdog.stop()
        # Not in `finally`: the mark of a call that raised is how the driver knows that its units were begun.
        for unit in units:
            _delete(f"vrshq/{self._run}/now/{unit}")
        return result


class _Watchdog:
    """Ends this process when a call takes longer than it may, and says before which unit it was and where it stood."""

    def __init__(self, run: str, pool: str, actor: str, node: str, units: list[str]) -> None:
        self._run, self._pool, self._actor, self._node, self._units = run, pool, actor, node, units
        self._since = time.time()
        self._caller = threading.get_ident()
        self._timer: threading.Timer | None = None

    def allow(self, seconds: float | None) -> None:
        self._disarm()
        until = None if seconds is None else time.time() + seconds
        for unit in self._units:
            mark = Mark(unit, self._pool, self._actor, os.getpid(), self._node, self._since, until)
            _put(f"vrshq/{self._run}/now/{unit}", json.dumps(asdict(mark)))
        if seconds is not None:
            self._timer = threading.Timer(seconds, self._expired)
            self._timer.daemon = True
            self._timer.start()
            faulthandler.dump_traceback_later(seconds + _GRACE_SECONDS, exit=True, file=2)

    def _expired(self) -> None:
        self.give_up(f"took longer than {time.time() - self._since:.0f} s (it was in {self._where()})")

    def _where(self) -> str:
        """The innermost Python line of the call."""
        frame = sys._current_frames().get(self._caller)
        return f"{frame.f_code.co_name} of {frame.f_globals.get('__name__')}, line {frame.f_lineno}" if frame else "C"

    def give_up(self, reason: str) -> None:
        """Notes the reason and ends the process: Ray starts a new one for the units that come."""
        self.note(reason)
        os._exit(1)

    def note(self, reason: str) -> None:
        for unit in self._units:
            _put(f"vrshq/{self._run}/why/{unit}", reason)

    def stop(self) -> None:
        self._disarm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            faulthandler.cancel_dump_traceback_later()


_watchdog: _Watchdog | None = None


def allow(seconds: float) -> None:
    """Gives the call that runs now `seconds` from this moment on; nothing happens where no guard runs the worker."""
    if _watchdog is not None:
        _watchdog.allow(seconds)


def starts(run: str, pool: str) -> list[str]:
    """The actors of a pool that have begun to load, a key each."""
    return _list(f"vrshq/{run}/starts/{pool}/")


def watcher(run: str, actors: dict[str, int]) -> type:
    """A Ray Data callback class that watches a run from the driver.

    It reports units that take long, by unit and process, and ends the run with a WorkerError once a pool has lost all
    of its actors.

    Args:
        run: the name under which the run's `Guarded` workers note their marks and losses.
        actors: how many actors each pool has at least.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Watcher(ExecutionCallback):
        def __init__(self) -> None:
            self._looked = time.monotonic()
            self._known: set[str] = set()
            self._slow: set[str] = set()

        def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002 - Ray Data's signature
            if time.monotonic() - self._looked < _LOOK_EVERY_SECONDS:
                return
            self._looked = time.monotonic()
            self._report_slow()
            lost = _list(f"vrshq/{run}/lost/")
            for key in set(lost) - self._known:
                logger.warning("an actor is lost for good: %s", _get(key))
            self._known = set(lost)
            for pool, size in actors.items():
                of_pool = [key for key in lost if key.split("/")[3] == pool]
                started = starts(run, pool)
                if len(of_pool) >= max(size, len(started)):
                    raise WorkerError(_get(of_pool[0]) or f"pool {pool} has lost all of its actors")

        def _report_slow(self) -> None:
            now = time.time()
            dead = {key.rpartition("/")[2] for key in _list(f"vrshq/{run}/dead/")}
            for mark in marks(run):
                if mark.until is None or mark.unit in dead:
                    continue
                if mark.unit not in self._slow and now > mark.since + _SLOW_SHARE * (mark.until - mark.since):
                    self._slow.add(mark.unit)
                    logger.warning("%s", stall_report(mark, now))
                if now > mark.until + _GRACE_SECONDS / 2 and not _get(f"vrshq/{run}/why/{mark.unit}"):
                    # Its watchdog cannot speak: something holds Python's lock.
                    _put(f"vrshq/{run}/why/{mark.unit}", f"took longer than {mark.until - mark.since:.0f} s")

    return Watcher


def stall_report(mark: Mark, now: float) -> str:
    """One line on a unit that takes long."""
    left = "" if mark.until is None else f"; it will be given up in {max(0.0, mark.until - now):.0f} s"
    return (
        f"unit {mark.unit} has been in pool {mark.pool} for {now - mark.since:.0f} s "
        f"(process {mark.pid} on node {mark.node[:8]}){left}"
    )


def marks(run: str) -> list[Mark]:
    """The units that are begun and not ended: at work, or given up."""
    found = []
    for key in _list(f"vrshq/{run}/now/"):
        value = _get(key)
        if value is not None:  # it may have ended since the listing
            found.append(Mark(**json.loads(value)))
    return found


def take_given_up(run: str) -> dict[str, str]:
    """The units that were begun and not ended, with the reason, and forgets about them.

    To be called when no actor works any more.
    """
    begun = marks(run)
    for_memory = _killed_for_memory() if begun else set()
    given_up = {}
    for mark in begun:
        why = _get(f"vrshq/{run}/why/{mark.unit}")
        given_up[mark.unit] = why or (FOR_MEMORY if (mark.node, mark.pid) in for_memory else DIED)
        for note in ("now", "why", "dead"):
            _delete(f"vrshq/{run}/{note}/{mark.unit}")
    return given_up


def _killed_for_memory() -> set[tuple[str, int]]:
    """Node and pid of the worker processes that Ray's memory monitor has ended. Ray's own tables know; no public call does."""
    try:
        from ray._private.state import state
        from ray.core.generated import gcs_pb2
        from ray.core.generated.common_pb2 import WorkerExitType

        rows = [gcs_pb2.WorkerTableData.FromString(row) for row in state._global_state_accessor.get_worker_table()]
        exit_type = WorkerExitType.Value("NODE_OUT_OF_MEMORY")
        return {(row.worker_address.node_id.hex(), row.pid) for row in rows if row.exit_type == exit_type}
    except (ImportError, AttributeError, ValueError):
        return set()  # another version of Ray: the reason is told less exactly


def forget(run: str) -> None:
    """Removes the run's notes, if the cluster is still there."""
    import ray
    from ray.experimental import internal_kv

    if ray.is_initialized():
        internal_kv._internal_kv_del(f"vrshq/{run}/".encode(), del_by_prefix=True)


def reason(error: BaseException) -> str:
    """Why Ray lost a call or an actor, on one line: the worker's own error if it raised, else that its process died."""
    import ray.exceptions

    if isinstance(error, WorkerError):
        return str(error)
    named = _named(error)
    if named:
        return named
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return FOR_MEMORY
    other = re.findall(r"^\w*(?:Error|Exception): .*", str(error), re.MULTILINE)
    if other:
        return str(other[-1])
    if isinstance(error, ray.exceptions.ActorUnavailableError | ray.exceptions.ActorDiedError):
        return DIED
    return _one_line(error)


def _named(error: BaseException) -> str | None:
    # Ray wraps errors of other processes in their printed traceback.
    named = re.findall(r"\bWorkerError: (pool .*)", str(error))
    return str(named[-1]) if named else None


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:1000]


def _get(key: str) -> str | None:
    from ray.experimental import internal_kv

    value = internal_kv._internal_kv_get(key.encode())
    return None if value is None else value.decode()


def _put(key: str, value: str) -> None:
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(key.encode(), value.encode(), overwrite=True)


def _delete(key: str) -> None:
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(key.encode())


def _list(prefix: str) -> list[str]:
    from ray.experimental import internal_kv

    return [key.decode() for key in internal_kv._internal_kv_list(prefix.encode())]

"""The guard around a worker inside its actor: marks, deadlines, bounded starts, named errors.

Ray restarts an actor whose process died, without end, but never one whose constructor raised after a restart. Ray Data
2.60 waits for ever for a pool without actors. The guard bounds the restarts and notes which actors are lost, and the
watchers of the driver (`vrshq.cluster.ray.watchers`) end the run when a pool has lost all of its actors.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import threading
import time
from dataclasses import asdict

import pyarrow as pa

from vrshq.cluster.ray import notes
from vrshq.cluster.ray.errors import ProcessUnusable, WorkerError, one_line
from vrshq.cluster.ray.pool import ActorPool

# How many times in a row one actor may fail to start its worker.
MAX_STARTS = 3


class Guarded:
    """A worker inside its actor. It marks each unit that it begins, keeps the deadline, bounds starts and names errors.

    Args:
        run: the name under which the run's notes lie.
        pool: the pool of the actor.
        key: the column with the id of the unit.
        grace_s: as in `vrshq.cluster.ray.pool.Timing`.
    """

    def __init__(self, run: str, pool: ActorPool, key: str, grace_s: float) -> None:
        import ray

        context = ray.get_runtime_context()
        self._run, self._pool, self._key, self._grace_s = run, pool, key, grace_s
        self._node = context.get_node_id()
        self._actor = actor = context.get_actor_id()
        if context.was_current_actor_reconstructed:
            for mark in notes.marks(run):
                if mark.actor == actor:
                    notes.put(f"vrshq/{run}/dead/{mark.unit}", "")
        starts_key, lost_key = f"vrshq/{run}/starts/{pool.name}/{actor}", f"vrshq/{run}/lost/{pool.name}/{actor}"
        starts = int(notes.get(starts_key) or "0") + 1
        notes.put(starts_key, str(starts))
        if starts > MAX_STARTS:
            if notes.get(lost_key) is None:
                notes.put(
                    lost_key,
                    f"pool {pool.name}: the worker's process died {MAX_STARTS} times while it started; was it killed for "
                    "memory? Use machines with more of it, or fewer actors on each",
                )
            raise WorkerError(notes.get(lost_key))
        try:
            self._worker = pool.worker(**pool.arguments)
        except Exception as error:
            why = WorkerError(f"pool {pool.name} cannot start: {one_line(error)}")
            if context.was_current_actor_reconstructed:
                if starts < MAX_STARTS:
                    # A restarted actor that raises is never restarted again; one whose process ends is.
                    os._exit(1)
                notes.put(lost_key, str(why))
            raise why from error
        notes.put(starts_key, notes.LOADED)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Runs the worker on one batch. Raises WorkerError if the worker raises; may end the process.

        Several threads may call it at once, each with its own units.
        """
        units = [str(unit) for unit in table[self._key].to_pylist()]
        watchdog = _Watchdog(self._run, self._pool.name, self._actor, self._node, units, self._grace_s)
        _of_thread.watchdog = watchdog
        watchdog.allow(self._pool.deadline_s)
        try:
            result = self._worker(table)
        except ProcessUnusable as error:
            watchdog.give_up(str(error))
        except Exception as error:
            reason = f"pool {self._pool.name}: {one_line(error)}"
            watchdog.note(reason)
            raise WorkerError(reason) from error
        finally:
            watchdog.stop()
        # Not in `finally`: the driver finds the units of a call that raised by their marks.
        for unit in units:
            notes.delete(f"vrshq/{self._run}/now/{unit}")
        return result


class _Watchdog:
    """Ends this process when a call takes longer than it may, after noting the units and the line that it was in."""

    def __init__(self, run: str, pool: str, actor: str, node: str, units: list[str], grace_s: float) -> None:
        self._run, self._pool, self._actor, self._node, self._units = run, pool, actor, node, units
        self._grace_s = grace_s
        self._since = time.time()
        self._caller = threading.get_ident()
        self._timer: threading.Timer | None = None

    def allow(self, seconds: float | None) -> None:
        """Marks the units with a deadline `seconds` from now (None: no deadline), and sets the timers that keep it."""
        self._disarm()
        until = None if seconds is None else time.time() + seconds
        for unit in self._units:
            mark = notes.Mark(unit, self._pool, self._actor, os.getpid(), self._node, self._since, until)
            notes.put(f"vrshq/{self._run}/now/{unit}", json.dumps(asdict(mark)))
        if seconds is not None:
            self._timer = threading.Timer(seconds, self._expired)
            self._timer.daemon = True
            self._timer.start()
            with _lock:
                _ends[self._caller] = time.monotonic() + seconds + self._grace_s
                _set_last_timer()

    def _expired(self) -> None:
        self.give_up(f"took longer than {time.time() - self._since:.0f} s (it was in {self._where()})")

    def _where(self) -> str:
        """The innermost Python line of the call."""
        frame = sys._current_frames().get(self._caller)
        return f"{frame.f_code.co_name} of {frame.f_globals.get('__name__')}, line {frame.f_lineno}" if frame else "C"

    def give_up(self, reason: str) -> None:
        """Notes the reason and ends the process. Ray starts a new one for the remaining units."""
        self.note(reason)
        os._exit(1)

    def note(self, reason: str) -> None:
        """Notes why the units were given up."""
        for unit in self._units:
            notes.put(f"vrshq/{self._run}/why/{unit}", reason)

    def stop(self) -> None:
        """Stops the timers: the call has returned or raised."""
        self._disarm()

    def _disarm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            with _lock:
                del _ends[self._caller]
                _set_last_timer()


_of_thread = threading.local()  # `watchdog`: that of the thread's call
_lock = threading.Lock()
_ends: dict[int, float] = {}  # when the process ends because of the call of each thread, on the monotonic clock


def _set_last_timer() -> None:
    """Sets the C timer for the call that ends first.

    A call that holds Python's lock stops the threads of all other timers; this one still runs. A process has one.
    """
    faulthandler.cancel_dump_traceback_later()
    if _ends:
        faulthandler.dump_traceback_later(max(0.001, min(_ends.values()) - time.monotonic()), exit=True, file=2)


def allow(seconds: float) -> None:
    """Sets the deadline of this thread's call to `seconds` from now. Does nothing outside a guarded worker."""
    watchdog: _Watchdog | None = getattr(_of_thread, "watchdog", None)
    if watchdog is not None:
        watchdog.allow(seconds)

"""The guard around a worker inside its actor: marks, deadlines, one unit after the other, named errors."""

from __future__ import annotations

import faulthandler
import itertools
import os
import sys
import threading
import time
from dataclasses import replace
from typing import Any

import pyarrow as pa

from vrshq.cluster.ray import notes
from vrshq.cluster.ray.errors import ProcessUnusable, one_line
from vrshq.cluster.ray.pool import ActorPool


class Guarded:
    """A worker inside its actor. It marks each unit that it begins, keeps the deadline and names errors.

    Args:
        run: the name under which the run's notes lie.
        pool: the pool of the actor.
        key: the column with the id of the unit.
        grace_s: as in `vrshq.cluster.ray.pool.Timing`.
        last: whether it is the last pool, whose worker may answer a unit without any row.
    """

    def __init__(self, run: str, pool: ActorPool, key: str, grace_s: float, last: bool) -> None:
        self._run, self._pool, self._key, self._grace_s, self._last = run, pool, key, grace_s, last
        self._worker: Any = None

    def where(self) -> tuple[str, int]:
        """Ray's id of the machine, and the process id there."""
        import ray

        return ray.get_runtime_context().get_node_id(), os.getpid()

    def load(self) -> str | None:
        """Makes the worker. Returns why it cannot start, on one line; None if it can."""
        import ray

        self._actor = ray.get_runtime_context().get_actor_id()
        try:
            self._worker = self._pool.worker(**self._pool.arguments)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this actor's matter
            return f"pool {self._pool.name} cannot start: {one_line(error)}"
        return None

    def work(self, lane: int, call: int, batch: bytes) -> tuple[dict[int, str], bytes]:
        """Runs the worker on each unit of a batch. May end the process.

        Several threads may call it at once, each with a lane of its own.

        Args:
            lane: where the mark lies.
            call: number of the call.
            batch: a table with a row for each unit (or several in turn, from the pool before), as an Arrow stream.

        Returns:
            position of each unit whose worker raised -> why; and what the worker returned for the others, as a stream.
        """
        table = pa.ipc.open_stream(batch).read_all()
        units = _runs(table[self._key].to_pylist())
        failed: dict[int, str] = {}
        results: list[pa.Table] = []
        _of_thread.several = len(units) > 1 and hasattr(self._worker, "end_call")
        _of_thread.watchdog = watchdog = _Watchdog(notes.mark_key(self._run, self._actor, lane), self._grace_s)
        for place, (unit, begin, end) in enumerate(units):
            watchdog.begin(notes.Mark(call, place, unit, time.time(), None), self._pool.deadline_s)
            try:
                rows = self._worker(table.slice(begin, end - begin))
                if not (rows.num_rows or self._last):
                    raise ValueError("the worker answered without a row, and the next pool needs one")
                results.append(rows)
            except ProcessUnusable as error:
                watchdog.give_up(f"{UNUSABLE}{error}")
            except Exception as error:  # noqa: BLE001 - it costs this unit alone
                failed[place] = f"pool {self._pool.name}: {one_line(error)}"
        if of_several():
            watchdog.allow(self._pool.deadline_s)  # the mark is that of the last unit
            try:
                results = self._worker.end_call([unit for unit, _, _ in units], results)
            except Exception as error:  # noqa: BLE001 - it costs all units of the call
                why = f"pool {self._pool.name}: {one_line(error)}"
                failed, results = {place: failed.get(place, why) for place in range(len(units))}, []
        _of_thread.several, _of_thread.watchdog = False, None
        watchdog.stop()
        # a worker's tables may have a column of nulls alone, which has another type
        together = pa.concat_tables(results, promote_options="permissive") if results else None
        return failed, b"" if together is None else to_stream(together)


# How the reason of a process that can do no more begins in its mark.
UNUSABLE = "unusable: "


def to_stream(table: pa.Table) -> bytes:
    """A table as an Arrow stream, which holds the rows of a slice alone."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    content: bytes = sink.getvalue().to_pybytes()
    return content


def _runs(keys: list[str]) -> list[tuple[str, int, int]]:
    """(key, begin, end) of each run of equal keys."""
    borders = [0, *(row for row in range(1, len(keys)) if keys[row] != keys[row - 1]), len(keys)]
    return [(str(keys[begin]), begin, end) for begin, end in itertools.pairwise(borders) if begin < end]


class _Watchdog:
    """Ends this process when a unit of a batch takes longer than it may, after noting the line that it was in.

    Timers are set anew only where they are more than `_SLACK_S` off: a short unit would pay more for them than for its work.
    """

    def __init__(self, key: str, grace_s: float) -> None:
        self._key, self._grace_s = key, grace_s
        self._caller = threading.get_ident()
        self._timer: threading.Timer | None = None
        self._rings = 0.0  # when the timer does, in seconds since 1970

    def begin(self, mark: notes.Mark, seconds: float | None) -> None:
        """Marks a unit that is begun, with a deadline `seconds` from now (None: no deadline), and keeps it."""
        self._mark = mark
        self.allow(seconds)

    def allow(self, seconds: float | None) -> None:
        """Gives the unit `seconds` from now."""
        until = None if seconds is None else time.time() + seconds
        self._mark = replace(self._mark, until=until)
        notes.put(self._key, self._mark)
        if seconds is None or until is None:
            self.stop()
            return
        if self._timer is None or self._rings > until:
            self._set_timer(until)
        end = time.monotonic() + seconds + self._grace_s
        with _lock:
            if not end - _SLACK_S <= _ends.get(self._caller, 0.0) <= end:
                _ends[self._caller] = end
                _set_last_timer()

    def _set_timer(self, until: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._rings = until
        self._timer = threading.Timer(max(0.0, until - time.time()), self._expired)
        self._timer.daemon = True
        self._timer.start()

    def _expired(self) -> None:
        until = self._mark.until
        if until is not None and until > time.time():
            self._set_timer(until)  # the timer is that of an earlier unit, or the unit has asked for more
        elif until is not None:
            self.give_up(f"took longer than {time.time() - self._mark.since:.0f} s (it was in {self._where()})")

    def _where(self) -> str:
        """The innermost Python line of the call."""
        frame = sys._current_frames().get(self._caller)
        return f"{frame.f_code.co_name} of {frame.f_globals.get('__name__')}, line {frame.f_lineno}" if frame else "C"

    def give_up(self, reason: str) -> None:
        """Notes the reason and ends the process. The driver starts a new one for the remaining units."""
        notes.put(self._key, replace(self._mark, why=reason))
        os._exit(1)

    def stop(self) -> None:
        """Stops the timers: no unit is at work."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
            with _lock:
                _ends.pop(self._caller, None)
                _set_last_timer()


# How much earlier than asked the last timer may end the process, in seconds.
_SLACK_S = 1.0
_of_thread = threading.local()  # `watchdog`: that of the thread's call; `several`: whether `end_call` will follow
_lock = threading.Lock()
_ends: dict[int, float] = {}  # when the process ends because of the call of each thread, on the monotonic clock


def _set_last_timer() -> None:
    """Sets the C timer for the call that ends first.

    A call that holds Python's lock stops the threads of all other timers; this one still runs. A process has one.
    """
    faulthandler.cancel_dump_traceback_later()
    if _ends:
        faulthandler.dump_traceback_later(max(0.001, min(_ends.values()) - time.monotonic()), exit=True, file=2)


def of_several() -> bool:
    """Whether this thread's call is for several units and its worker has an `end_call`, which will follow."""
    return bool(getattr(_of_thread, "several", False))


def allow(seconds: float) -> None:
    """Sets the deadline of this thread's call to `seconds` from now. Does nothing outside a guarded worker."""
    watchdog: _Watchdog | None = getattr(_of_thread, "watchdog", None)
    if watchdog is not None:
        watchdog.allow(seconds)

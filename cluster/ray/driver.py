"""The loop of a run on Ray: it starts actors, sends them batches, and hears what becomes of each."""

from __future__ import annotations

import logging
import queue
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence, Set
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from vrshq.cluster.ray import guard, notes
from vrshq.cluster.ray.crew import MAX_STARTS, Crew, Machines, Starting
from vrshq.cluster.ray.errors import DIED, FOR_MEMORY, reason
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.resources import cluster_machines, may_grow, total
from vrshq.cluster.ray.schedule import Actor, Batch, Failed, Schedule, first_rows

logger = logging.getLogger(__name__)

# A unit is reported as slow when it has taken this share of its deadline.
_SLOW_SHARE = 0.5


@dataclass(frozen=True)
class Lost:
    """A unit whose tries all failed.

    Attributes:
        row: its row of the manifest.
        attempts: how often it was begun.
        reason: why the last try failed, on one line.
    """

    row: dict[str, Any]
    attempts: int
    reason: str


@dataclass(frozen=True)
class _Began:
    """The process of an actor is there. The future holds its machine and its process id."""

    actor: Actor
    future: Future[Any]


@dataclass(frozen=True)
class _Loaded:
    """The worker of an actor has loaded. The future holds why not, or None."""

    actor: Actor
    future: Future[Any]


@dataclass(eq=False)
class _Call:
    """A call to an actor.

    Attributes:
        actor: the actor.
        lane: the lane of the call.
        number: it is unique in the run.
        batch: the units.
        since: when it was sent, on the monotonic clock.
        look: when to look at its mark, on that clock; None: never.
        data: Ray's reference of the rows for the next pool.
        future: holds which units failed, and in the last pool the rows.
    """

    actor: Actor
    lane: int
    number: int
    batch: Batch
    since: float
    look: float | None
    data: Any = None
    future: Future[Any] | None = None


class Driver:
    """The actors of a run, and the calls to them. Its arguments are those of `stream_receipts`."""

    def __init__(
        self,
        units: pa.Table,
        pools: Sequence[ActorPool],
        attempts: int,
        key: str,
        finished: Callable[[Sequence[str]], Set[str]],
        timing: Timing,
        together: Sequence[str],
    ) -> None:
        import ray

        self._units, self._pools, self._key, self._finished, self._timing = units, pools, key, finished, timing
        self._name = secrets.token_hex(8)
        self._together = bool(together)
        groups = first_rows(units, together) if together else None
        self._schedule = Schedule(units.num_rows, len(pools), attempts, groups)
        self._machines = Machines()
        self._crews = [Crew(pool, position, timing, time.monotonic()) for position, pool in enumerate(pools)]
        self._free: list[set[Actor]] = [set() for _ in pools]
        self._calls: dict[int, _Call] = {}
        self._number = 0
        self._events: queue.SimpleQueue[_Began | _Loaded | _Call] = queue.SimpleQueue()
        self._class = ray.remote(guard.Guarded)
        self._all_ready = False

    def receipts(
        self, on_start: Callable[[Starting], None], check: Callable[[], None]
    ) -> Iterator[dict[str, Any] | Lost]:
        """Works until no unit is left."""
        looked = time.monotonic()
        while self._schedule.left:
            for crew in self._crews:
                for actor in crew.hire():
                    self._start(actor)
            self._dispatch()
            # after the dispatch: an actor that is free now has nothing to do
            if time.monotonic() - looked >= self._timing.look_s:
                looked = time.monotonic()
                check()
                self._look(looked, on_start)
            try:
                event = self._events.get(timeout=self._timing.look_s)
            except queue.Empty:
                continue
            yield from self._heard(event)

    def close(self) -> None:
        """Ends all actors."""
        import ray

        if ray.is_initialized():
            for crew in self._crews:
                for actor in crew.actors:
                    ray.kill(actor.handle)
            notes.forget(self._name)

    def _start(self, actor: Actor) -> None:
        pool = self._pools[actor.pool]
        options: dict[str, Any] = {"num_cpus": pool.num_cpus, "max_restarts": 0, "max_task_retries": 0}
        if pool.num_gpus:
            options["num_gpus"] = pool.num_gpus
        if pool.memory:
            options["memory"] = pool.memory
        if pool.calls > 1:
            options["max_concurrency"] = pool.calls
        if self._machines.shunned:
            options["label_selector"] = {"ray.io/node-id": f"!in({','.join(sorted(self._machines.shunned))})"}
        last = actor.pool + 1 == len(self._pools)
        actor.handle = self._class.options(**options).remote(self._name, pool, self._key, self._timing.grace_s, last)
        self._hear(actor.handle.where.remote(), lambda future: _Began(actor, future))

    def _load(self, actor: Actor) -> None:
        self._hear(actor.handle.load.remote(), lambda future: _Loaded(actor, future))

    def _hear(self, reference: Any, event: Callable[[Future[Any]], _Began | _Loaded | _Call]) -> None:
        """Puts the event into the queue once the reference has its value. A thread of Ray does it."""
        reference.future().add_done_callback(lambda future: self._events.put(event(future)))

    def _dispatch(self) -> None:
        """Gives batches to the actors that have a free lane."""
        lanes = [crew.lanes for crew in self._crews]
        for position, free in enumerate(self._free):
            for actor in list(free):
                while (lane := actor.free_lane()) is not None and (batch := self._schedule.take(actor, lane, lanes)):
                    actor.work[lane] = batch
                    self._send(actor, lane, batch)
                if lane is None:
                    free.discard(actor)
                elif not self._schedule.waiting(position):
                    break

    def _send(self, actor: Actor, lane: int, batch: Batch) -> None:
        self._number += 1
        pool = self._pools[batch.pool]
        now = time.monotonic()
        look = None if pool.deadline_s is None else now + _SLOW_SHARE * pool.deadline_s
        call = self._calls[self._number] = _Call(actor, lane, self._number, batch, now, look)

        def event(future: Future[Any]) -> _Call:
            call.future = future
            return call

        data = self._rows(batch) if batch.data is None else batch.data
        if batch.pool + 1 == len(self._pools):
            answer = actor.handle.work.remote(lane, call.number, data)
        else:
            work = actor.handle.work.options(num_returns=2)
            answer, call.data = work.remote(lane, call.number, data)
        self._hear(answer, event)

    def _rows(self, batch: Batch) -> bytes:
        """The rows of the units with their `attempt`, as the first pool gets them."""
        first, count = batch.rows[0], len(batch.rows)
        together = batch.rows == tuple(range(first, first + count))
        table = self._units.slice(first, count) if together else self._units.take(list(batch.rows))
        table = table.append_column("attempt", pa.array(batch.attempts, pa.int32()))
        if self._together:
            table = table.append_column("more", pa.array(batch.more, pa.bool_()))
        return guard.to_stream(table)

    def _heard(self, event: _Began | _Loaded | _Call) -> Iterator[dict[str, Any] | Lost]:
        assert event.future is not None
        error = event.future.exception()
        if isinstance(event, _Call):
            yield from self._call_ended(event, error)
        elif event.actor not in self._crews[event.actor.pool].actors:
            return  # it was lost before
        elif isinstance(event, _Began):
            if error is None:
                event.actor.node, event.actor.pid = event.future.result()
                # not earlier: an actor with several threads may load before it says where it is
                self._load(event.actor)
            else:
                self._start_failed(event.actor, None)
        elif error is not None:
            self._start_failed(event.actor, None)
        elif why := event.future.result():
            self._start_failed(event.actor, why)
        else:
            self._crews[event.actor.pool].loaded(event.actor)
            self._machines.loaded(event.actor.node)
            self._free[event.actor.pool].add(event.actor)

    def _start_failed(self, actor: Actor, why: str | None) -> None:
        """`why` is None where the process has ended."""
        import ray

        crew = self._crews[actor.pool]
        ray.kill(actor.handle)
        if actor.node and not self._is_there(actor.node):
            crew.ended(actor)  # its machine is lost, which is no fault of the start
            return
        why = why or (
            f"pool {crew.pool.name}: the worker's process died {MAX_STARTS} times while it started; was it killed for "
            "memory? Use machines with more of it, or fewer actors on each"
        )
        if actor.node:
            self._machines.start_failed(actor.node, why, self._others(actor))
        crew.start_failed(actor, why)

    def _call_ended(self, call: _Call, error: BaseException | None) -> Iterator[dict[str, Any] | Lost]:
        import ray.exceptions

        ended = (
            ray.exceptions.ActorDiedError,
            ray.exceptions.ActorUnavailableError,
            ray.exceptions.OutOfMemoryError,
        )
        del self._calls[call.number]
        actor, crew = call.actor, self._crews[call.actor.pool]
        if error is None:
            assert call.future is not None
            last = actor.pool + 1 == len(self._pools)
            failed, content = call.future.result() if last else (call.future.result(), b"")
            lost = self._schedule.returned(actor, call.lane, failed, call.data, time.monotonic() - call.since)
            if len(failed) < len(call.batch.rows):
                self._machines.worked(actor.node)
            self._say(call, failed)
            if actor in crew.actors:
                self._free[actor.pool].add(actor)
            if content:
                yield from pa.ipc.open_stream(content).read_all().to_pylist()
        elif isinstance(error, ended):
            lost = self._process_ended(call, for_memory=isinstance(error, ray.exceptions.OutOfMemoryError))
        elif isinstance(error, ray.exceptions.ObjectLostError):
            # The rows of the pool before are lost with their machine.
            lost = self._schedule.died(actor, call.lane, None, "", machine=True)
            self._free[actor.pool].add(actor)
        else:
            failed = dict.fromkeys(range(len(call.batch.rows)), reason(error))
            lost = self._schedule.returned(actor, call.lane, failed, None, time.monotonic() - call.since)
            self._say(call, failed)
            self._free[actor.pool].add(actor)
        yield from self._lost(lost)

    def _process_ended(self, call: _Call, *, for_memory: bool) -> list[Failed]:
        """The process of the call's actor has ended. Finds out which unit was at work, and why it ended."""
        import ray

        actor, crew = call.actor, self._crews[call.actor.pool]
        ids = self._ids(call.batch)
        mark = notes.get(notes.mark_key(self._name, actor.handle._actor_id.hex(), call.lane))
        at = mark.place if mark is not None and mark.call == call.number else None
        machine = not self._is_there(actor.node)
        why = DIED
        if mark is not None and at is not None:
            if mark.why:
                why = mark.why.removeprefix(guard.UNUSABLE)
            elif mark.until is not None and time.time() > mark.until:
                why = f"took longer than {mark.until - mark.since:.0f} s"  # its call held Python's lock
            elif for_memory:
                why = FOR_MEMORY
            if mark.why.startswith(guard.UNUSABLE):
                self._machines.unusable(actor.node, call.batch.rows[at], why, self._others(actor))
        if actor in crew.actors:
            crew.ended(actor)
            self._free[actor.pool].discard(actor)
            ray.kill(actor.handle)
        # a call may have committed all of its units together
        done = self._finished(ids) if at is not None and actor.pool + 1 == len(self._pools) else frozenset()
        rows = {row for unit, row in zip(ids, call.batch.rows, strict=True) if unit in done}
        if at is not None and why == FOR_MEMORY and self._schedule.suspect_on(actor.node, actor):
            at = None  # the suspect beside it has taken the memory
        if at is not None and call.batch.rows[at] not in rows:
            self._say(call, {at: why + (" with its machine" if machine else "")})
        lost = self._schedule.died(actor, call.lane, at, why, rows, machine=machine)
        self._schedule.gone(actor)
        return lost

    def _look(self, now: float, on_start: Callable[[Starting], None]) -> None:
        """Looks after the actors: have enough begun, may a pool grow, which units take long."""
        there = total(cluster_machines())
        for crew in self._crews:
            crew.check(now, there, grows=may_grow(), shunned=bool(self._machines.shunned))
            if self._schedule.waiting(crew.position) and not self._free[crew.position]:
                crew.grow()
        if not self._all_ready:
            actors = [actor for crew in self._crews for actor in crew.actors]
            wanted = sum(crew.places for crew in self._crews)
            ready = sum(actor.ready for actor in actors)
            self._all_ready = ready >= wanted
            on_start(Starting(wanted, sum(bool(actor.node) for actor in actors) - ready, ready))
        for call in [call for call in self._calls.values() if call.look is not None and now >= call.look]:
            self._look_at(call, now)

    def _look_at(self, call: _Call, now: float) -> None:
        """Reports a slow unit, and ends a process that has not ended itself."""
        import ray

        mark = notes.get(notes.mark_key(self._name, call.actor.handle._actor_id.hex(), call.lane))
        if mark is None or mark.call != call.number or mark.until is None:
            call.look = now + 1
            return
        present = time.time()
        last = mark.until + 2 * self._timing.grace_s
        if present > last:
            ray.kill(call.actor.handle)
        slow = mark.since + _SLOW_SHARE * (mark.until - mark.since)
        if present > slow:
            logger.warning("%s", stall_report(mark, self._pools[call.actor.pool].name, call.actor, present))
            call.look = now + max(1.0, last - present)
        else:
            call.look = now + slow - present

    def _is_there(self, node: str) -> bool:
        """Whether a machine is still in the cluster."""
        import ray

        return any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())

    def _others(self, actor: Actor) -> bool:
        """Whether another machine that is not shunned could hold the actor."""
        import ray

        pool = self._pools[actor.pool]
        wanted = {"CPU": pool.num_cpus, "GPU": pool.num_gpus, "memory": pool.memory or 0}
        bad = {*self._machines.shunned, actor.node}
        return any(
            all(one["Resources"].get(kind, 0) >= amount for kind, amount in wanted.items())
            for one in ray.nodes()
            if one["Alive"] and one["NodeID"] not in bad
        )

    def _ids(self, batch: Batch) -> list[str]:
        ids: list[str] = self._units[self._key].take(list(batch.rows)).to_pylist()
        return ids

    def _say(self, call: _Call, failed: dict[int, str]) -> None:
        ids = self._ids(call.batch) if failed else []
        for place, why in failed.items():
            logger.warning("attempt %d of unit %s failed: %s", call.batch.attempts[place], ids[place], why)

    def _lost(self, lost: Iterable[Failed]) -> Iterator[Lost]:
        for one in lost:
            row = self._units.slice(one.row, 1).to_pylist()[0]
            logger.warning("unit %s is lost after %d attempts: %s", row[self._key], one.attempts, one.reason)
            yield Lost(row, one.attempts, one.reason)


def stall_report(mark: notes.Mark, pool: str, actor: Actor, now: float) -> str:
    """One line about a unit that takes long: where it is, since when, and when it will be given up."""
    left = "" if mark.until is None else f"; it will be given up in {max(0.0, mark.until - now):.0f} s"
    return (
        f"unit {mark.unit} has been in pool {pool} for {now - mark.since:.0f} s "
        f"(process {actor.pid} on node {actor.node[:8]}){left}"
    )

"""Which units an actor works on next: batches of short units, further tries, suspects. Knows neither Ray nor a clock.

* A *batch* is what an actor gets in one call: a unit, or several short ones, which it works on one after the other.
* A *suspect* is a unit that has one try left. It is alone in its actor, so that what it does to its process costs no other.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

# Units that take less than this are put together until a call takes about so long, in seconds.
CALL_S = 2.0
# The largest number of units in a batch.
MOST_UNITS = 64
# Batches that wait for a pool, for each batch that it can work on, before the pool in front of it gets no more.
_WAITING = 2
# A unit whose machine was lost so often may be the cause; from then on such a loss counts as a try.
_MACHINES = 4


@dataclass(frozen=True, eq=False)
class Batch:
    """Units that go through the pools together.

    Attributes:
        rows: the units, by their rows in the table of all units.
        attempts: the number of this try of each unit, from 1.
        pool: position of the pool that works on it next.
        data: what the pool before has returned for the units.
        alone: whether it holds a suspect.
    """

    rows: tuple[int, ...]
    attempts: tuple[int, ...]
    pool: int = 0
    data: Any = None
    alone: bool = False


@dataclass(eq=False)
class Actor:
    """One process of a pool.

    Attributes:
        pool: position of its pool.
        calls: the number of batches that it works on at once.
        failures: failed starts in a row of its place in the pool.
        handle: Ray's handle.
        node: Ray's id of its machine; "" until its process is there.
        pid: its process there.
        ready: whether its worker has loaded.
        work: the batches that it works on, by lane (0 to `calls` - 1).
        held: it gets no further batch until it is idle, because a suspect waits for it.
    """

    pool: int
    calls: int = 1
    failures: int = 0
    handle: Any = None
    node: str = ""
    pid: int = 0
    ready: bool = False
    work: dict[int, Batch] = field(default_factory=dict)
    held: bool = False

    def free_lane(self) -> int | None:
        """A lane without a batch; None if there is none."""
        return next((lane for lane in range(self.calls) if lane not in self.work), None)


@dataclass(frozen=True)
class Failed:
    """A unit whose tries are used up: its row, the number of tries, and why the last one failed."""

    row: int
    attempts: int
    reason: str


class Schedule:
    """The units of a run between the pools, and the tries of each.

    Args:
        units: their number. They are begun in the order of their rows.
        pools: the number of pools, at least 1.
        attempts: the largest number of tries of a unit.

    Attributes:
        left: units that are neither finished nor lost.
    """

    def __init__(self, units: int, pools: int, attempts: int) -> None:
        self.left = self._units = units
        self._pools, self._attempts = pools, attempts
        self._next = 0
        self._first: deque[int] = deque()  # were in a batch that ended before their turn
        self._again: deque[int] = deque()  # had a failed try
        self._between: list[deque[Batch]] = [deque() for _ in range(pools)]
        self._suspects: list[deque[Batch]] = [deque() for _ in range(pools)]
        self._isolated: dict[str, Actor] = {}  # machine -> the actor there that is held for a suspect or works on one
        self._tries: Counter[int] = Counter()
        self._machines: Counter[int] = Counter()
        self._seconds: list[float | None] = [None] * pools  # of a unit in each pool, lately

    def tries(self, row: int) -> int:
        """How many tries of a unit have failed."""
        return self._tries[row]

    def waiting(self, pool: int) -> bool:
        """Whether anything waits for a pool."""
        return bool(self._between[pool] or self._suspects[pool] or (pool == 0 and self._fresh()))

    def take(self, actor: Actor, lanes: Sequence[int]) -> Batch | None:
        """The next batch for an actor with a free lane, or None; the caller puts it into `actor.work`.

        Args:
            actor: a ready one.
            lanes: for each pool, how many batches its ready actors can work on at once.
        """
        if any(batch.alone for batch in actor.work.values()):
            return None
        if self._suspects[actor.pool]:
            if self._isolated.setdefault(actor.node, actor) is actor:
                actor.held = bool(actor.work)
                return None if actor.work else self._suspects[actor.pool].popleft()
        elif actor.held:  # another actor has taken the suspect
            self._release(actor)
        return self._ordinary(actor.pool, lanes)

    def returned(self, actor: Actor, lane: int, failed: Mapping[int, str], data: Any, seconds: float) -> list[Failed]:
        """A call has returned.

        Args:
            actor: where it ran.
            lane: its lane.
            failed: position in the batch -> why the worker raised. The other units go on to the next pool.
            data: what the worker returned for those.
            seconds: how long the call took.

        Returns:
            the units that are lost.
        """
        batch = self._ended(actor, lane)
        before, of_unit = self._seconds[batch.pool], seconds / len(batch.rows)
        self._seconds[batch.pool] = of_unit if before is None else 0.8 * before + 0.2 * of_unit
        kept = [place for place in range(len(batch.rows)) if place not in failed]
        if kept and batch.pool + 1 == self._pools:
            self.left -= len(kept)
        elif kept:
            rows, attempts = (tuple(of[place] for place in kept) for of in (batch.rows, batch.attempts))
            onward = replace(batch, rows=rows, attempts=attempts, pool=batch.pool + 1, data=data)
            (self._suspects if batch.alone else self._between)[onward.pool].append(onward)
        return [lost for place, why in failed.items() for lost in self._failed(batch.rows[place], why)]

    def died(
        self, actor: Actor, lane: int, at: int | None, reason: str, finished: Collection[int] = (), *, machine: bool
    ) -> list[Failed]:
        """An actor's process has ended during a call.

        Args:
            actor: the actor.
            lane: the call's lane.
            at: position in the batch of the unit that was at work; None: no unit is to blame.
            reason: why the process ended.
            finished: rows of units that are finished although their receipts are lost.
            machine: whether its machine is lost, too, which is no failed try.

        Returns:
            the units that are lost.
        """
        batch = self._ended(actor, lane)
        lost = []
        unbegun = []
        for place, row in enumerate(batch.rows):
            if row in finished:
                self.left -= 1
            elif place != at or (machine and self._machines[row] < _MACHINES):
                self._machines[row] += machine and place == at
                unbegun.append(row)
            else:
                lost += self._failed(row, reason)
        if batch.alone:
            self._suspects[0].extend(self._alone(row) for row in unbegun)
        else:
            self._first.extend(unbegun)
        return lost

    def gone(self, actor: Actor) -> None:
        """The actor takes no more batches."""
        self._release(actor)

    def suspect_on(self, node: str, but: Actor) -> bool:
        """Whether another actor of the machine works on a suspect."""
        there = self._isolated.get(node)
        return there is not None and there is not but and not there.held

    def _fresh(self) -> int:
        """How many units wait to be begun for the first time, or again."""
        return self._units - self._next + len(self._first) + len(self._again)

    def _ordinary(self, pool: int, lanes: Sequence[int]) -> Batch | None:
        if pool + 1 < self._pools and len(self._between[pool + 1]) >= _WAITING * max(1, lanes[pool + 1]):
            return None
        if pool:
            return self._between[pool].popleft() if self._between[pool] else None
        rows: list[int] = []
        most = self._size(lanes[0])
        while len(rows) < most and self._first:
            rows.append(self._first.popleft())
        if not rows:
            end = min(self._units, self._next + most)
            rows, self._next = list(range(self._next, end)), end
        if not rows and self._again:
            rows.append(self._again.popleft())
        return Batch(tuple(rows), tuple(self._tries[row] + 1 for row in rows)) if rows else None

    def _size(self, lanes: int) -> int:
        """How many units go into a batch: about `CALL_S` of work, and few enough for all actors to end together."""
        known = [seconds for seconds in self._seconds if seconds is not None]
        if len(known) < self._pools:
            return 1
        even = -(-self._fresh() // (4 * max(1, lanes)))
        return max(1, min(MOST_UNITS, even, int(CALL_S / max(1e-6, *known))))

    def _failed(self, row: int, reason: str) -> list[Failed]:
        """Counts a failed try; returns the unit if that was its last."""
        self._tries[row] += 1
        if self._tries[row] >= self._attempts:
            self.left -= 1
            return [Failed(row, self._tries[row], reason)]
        if self._tries[row] == self._attempts - 1:
            self._suspects[0].append(self._alone(row))
        else:
            self._again.append(row)
        return []

    def _alone(self, row: int) -> Batch:
        return Batch((row,), (self._tries[row] + 1,), alone=True)

    def _ended(self, actor: Actor, lane: int) -> Batch:
        batch = actor.work.pop(lane)
        if batch.alone:
            self._release(actor)
        return batch

    def _release(self, actor: Actor) -> None:
        actor.held = False
        if self._isolated.get(actor.node) is actor:
            del self._isolated[actor.node]

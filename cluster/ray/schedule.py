"""Which units an actor works on next: batches of short units, further tries, suspects. Knows neither Ray nor a clock.

* A *batch* is what an actor gets in one call: a unit, or several short ones, which it works on one after the other.
* A *group* is a run of units that share work (those of one video). One lane of an actor works through it, so that what it has
  opened serves all of them; where nothing else is left to begin, other lanes take units of it, too.
* A *suspect* is a unit that has one try left. It is alone in its actor, so that what it does to its process costs no other.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, deque
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow as pa

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
        more: for each unit, whether the lane is likely to get another one of its group next.
        pool: position of the pool that works on it next.
        data: what the pool before has returned for the units.
        alone: whether it holds a suspect.
    """

    rows: tuple[int, ...]
    attempts: tuple[int, ...]
    more: tuple[bool, ...]
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
        groups: the group that each lane works through.
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
    groups: dict[int, int] = field(default_factory=dict)
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
        groups: the first row of each group, ascending, from 0; default: each unit is a group.

    Attributes:
        left: units that are neither finished nor lost.
    """

    def __init__(self, units: int, pools: int, attempts: int, groups: Sequence[int] | None = None) -> None:
        self.left = self._units = units
        self._pools, self._attempts = pools, attempts
        self._groups = range(units) if groups is None else groups
        self._begun = 0  # groups that were begun
        self._open: dict[int, int] = {}  # group with units that nobody has begun -> the first of them
        self._unbegun = units
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

    def take(self, actor: Actor, lane: int, lanes: Sequence[int]) -> Batch | None:
        """The next batch for a free lane of an actor, or None; the caller puts it into `actor.work`.

        Args:
            actor: a ready one.
            lane: the lane.
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
        return self._ordinary(actor, lane, lanes)

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
            onward = replace(
                batch,
                rows=tuple(batch.rows[place] for place in kept),
                attempts=tuple(batch.attempts[place] for place in kept),
                more=tuple(batch.more[place] for place in kept),
                pool=batch.pool + 1,
                data=data,
            )
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
        return self._unbegun + len(self._first) + len(self._again)

    def _ordinary(self, actor: Actor, lane: int, lanes: Sequence[int]) -> Batch | None:
        pool = actor.pool
        if pool + 1 < self._pools and len(self._between[pool + 1]) >= _WAITING * max(1, lanes[pool + 1]):
            return None
        if pool:
            return self._between[pool].popleft() if self._between[pool] else None
        rows: list[int] = []
        more: list[bool] = []
        most = self._size(lanes[0])
        while len(rows) < most and self._first:
            rows.append(self._first.popleft())
            more.append(False)
        while not more and len(rows) < most and self._of_group(actor, lane, most - len(rows), rows):
            pass
        more = more or [self._follows(row) for row in rows]
        if not rows and self._again:
            rows, more = [self._again.popleft()], [False]
        attempts = tuple(self._tries[row] + 1 for row in rows)
        return Batch(tuple(rows), attempts, tuple(more)) if rows else None

    def _of_group(self, actor: Actor, lane: int, most: int, rows: list[int]) -> bool:
        """Adds up to `most` units of the lane's group, else of the next one; with `rows` empty, else of anybody's."""
        group = actor.groups.get(lane)
        if group not in self._open:
            if self._begun < len(self._groups):
                group = self._begun
                self._open[group] = self._groups[group]
                self._begun += 1
            elif self._open and not rows:
                group = max(self._open, key=lambda one: self._end(one) - self._open[one])
            else:
                return False
            actor.groups[lane] = group
        assert group is not None
        first = self._open[group]
        end = min(self._end(group), first + most)
        rows += range(first, end)
        self._unbegun -= end - first
        if end == self._end(group):
            del self._open[group]
        else:
            self._open[group] = end
        return True

    def _end(self, group: int) -> int:
        """The row after the last one of a group."""
        return self._groups[group + 1] if group + 1 < len(self._groups) else self._units

    def _follows(self, row: int) -> bool:
        """Whether the next row is of the same group."""
        place = bisect_right(self._groups, row)  # of the next group
        return row + 1 < (self._groups[place] if place < len(self._groups) else self._units)

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
        return Batch((row,), (self._tries[row] + 1,), (False,), alone=True)

    def _ended(self, actor: Actor, lane: int) -> Batch:
        batch = actor.work.pop(lane)
        if batch.alone:
            self._release(actor)
        return batch

    def _release(self, actor: Actor) -> None:
        actor.held = False
        if self._isolated.get(actor.node) is actor:
            del self._isolated[actor.node]


def first_rows(units: pa.Table, columns: Sequence[str]) -> list[int]:
    """The first row of each group: a run of rows with equal values in all of the columns."""
    begins = np.zeros(units.num_rows, bool)
    begins[:1] = True
    for column in columns:
        values = units[column].dictionary_encode("encode").unify_dictionaries().combine_chunks().indices.to_numpy()
        begins[1:] |= values[1:] != values[:-1]
    first: list[int] = np.flatnonzero(begins).tolist()
    return first

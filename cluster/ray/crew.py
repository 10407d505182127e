"""How many actors of a pool there shall be, on which machines, and when too few are left. Knows neither Ray nor a clock."""

from __future__ import annotations

import logging
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from vrshq.cluster.ray.errors import NotEnoughResources, WorkerError
from vrshq.cluster.ray.needs import in_words, needed_by_one
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.resources import Resources
from vrshq.cluster.ray.schedule import Actor

logger = logging.getLogger(__name__)

# How many times in a row the start of an actor may fail before its place is given up.
MAX_STARTS = 3
# A run goes on with what is left of a pool down to this share of its actors.
LEAST_SHARE = 0.5
# A machine gets no more actors after so many failed starts without a good one between them,
_FAILED_STARTS = 2
# or after so many different units whose process could do no more, without a good one between them.
_UNUSABLE = 3


@dataclass(frozen=True)
class Starting:
    """How far the actors of a run have started.

    Attributes:
        actors: how many there will be.
        loading: how many have their process and load.
        ready: how many have loaded.
    """

    actors: int
    loading: int
    ready: int


class Machines:
    """What has gone wrong on each machine, and which are shunned: they get no more actors."""

    def __init__(self) -> None:
        self.shunned: set[str] = set()
        self._starts: Counter[str] = Counter()
        self._unusable: defaultdict[str, set[int]] = defaultdict(set)

    def loaded(self, node: str) -> None:
        """An actor has loaded there."""
        del self._starts[node]

    def worked(self, node: str) -> None:
        """A unit has come out there."""
        self._unusable.pop(node, None)

    def start_failed(self, node: str, reason: str, others: bool) -> None:
        """The start of an actor has failed there. `others`: whether another machine could take the actor."""
        self._starts[node] += 1
        if self._starts[node] >= _FAILED_STARTS and others:
            self._shun(node, reason)

    def unusable(self, node: str, row: int, reason: str, others: bool) -> None:
        """A process there can do no more, since it worked on the unit `row`."""
        self._unusable[node].add(row)
        if len(self._unusable[node]) >= _UNUSABLE and others:
            self._shun(node, reason)

    def _shun(self, node: str, reason: str) -> None:
        if node not in self.shunned:
            self.shunned.add(node)
            logger.warning("machine %s gets no more actors: %s", node[:8], reason)


class Crew:
    """The actors of one pool.

    Args:
        pool: the pool, with as many actors as are wanted.
        position: its position among the pools.
        timing: the time that the actors have to begin.
        now: the present, in seconds of any clock.
    """

    def __init__(self, pool: ActorPool, position: int, timing: Timing, now: float) -> None:
        self.pool, self.position, self.timing = pool, position, timing
        self.actors: set[Actor] = set()
        self.lanes = 0  # how many batches the ready actors can work on at once
        self._vacant = [0] * pool.actors  # failed starts in a row of each place without an actor
        self._short_since: float | None = now  # since when too few actors have begun
        self._said = False
        self._reason = ""  # why the last start failed

    def hire(self) -> Iterator[Actor]:
        """Fills the vacant places; yields the actors to be started."""
        while self._vacant:
            actor = Actor(self.position, self.pool.calls, failures=self._vacant.pop())
            self.actors.add(actor)
            yield actor

    def grow(self) -> None:
        """Adds a place if the pool may grow and all of its actors have loaded."""
        most = self.pool.max_actors or self.pool.actors
        if self.places < most and not self._vacant and all(actor.ready for actor in self.actors):
            self._vacant.append(0)

    @property
    def places(self) -> int:
        """How many actors there shall be now."""
        return len(self.actors) + len(self._vacant)

    def loaded(self, actor: Actor) -> None:
        """The actor has loaded."""
        actor.ready, actor.failures = True, 0
        self.lanes += actor.calls

    def start_failed(self, actor: Actor, reason: str) -> None:
        """The actor could not load. Its place is given up after `MAX_STARTS` failures in a row, and is filled again before.

        Raises:
            WorkerError: less than `LEAST_SHARE` of the pool's places are left.
        """
        self.actors.discard(actor)
        self._reason = reason
        if actor.failures + 1 < MAX_STARTS:
            self._vacant.append(actor.failures + 1)
        elif self.places < LEAST_SHARE * self.pool.actors:
            raise WorkerError(reason)
        else:
            logger.warning("%s; working on with %d of %d actors", reason, self.places, self.pool.actors)

    def ended(self, actor: Actor) -> None:
        """The process of the actor has ended. Another one takes its place."""
        self.actors.discard(actor)
        self.lanes -= actor.calls if actor.ready else 0
        self._vacant.append(0)

    def check(self, now: float, there: Resources, *, grows: bool, shunned: bool) -> None:
        """Looks whether enough actors have begun.

        Args:
            now: the present.
            there: what the cluster has, for the message.
            grows: whether an autoscaler may bring machines.
            shunned: whether some machines get no more actors.

        Raises:
            NotEnoughResources: no actor has begun within `start_s`, or too few where an autoscaler should bring machines.
            WorkerError: less than `LEAST_SHARE` of the actors have been there for `start_s`, with machines shunned.
        """
        begun = sum(1 for actor in self.actors if actor.node)
        if begun >= self.pool.actors:
            self._short_since = None
        elif self._short_since is None:
            self._short_since, self._said = now, True  # machines have gone; the first shortage alone is reported
        if self._short_since is None or now - self._short_since < self.timing.start_s:
            return
        line = (
            f"pool {self.pool.name}: {begun} of {self.pool.actors} actors started within {self.timing.start_s:.0f} s, each "
            f"needs {in_words(needed_by_one(self.pool), self.pool)}; the cluster has {in_words(there, self.pool)}"
        )
        if shunned and begun < LEAST_SHARE * self.pool.actors:
            raise WorkerError(self._reason or line)
        if begun == 0 or (grows and not self._said):
            raise NotEnoughResources(line)
        if not self._said:
            self._said = True
            logger.warning("%s; working on with those", line)

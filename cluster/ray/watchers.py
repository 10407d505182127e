"""Watchers: callbacks of Ray Data that look at a run from the driver and end it when it cannot go on."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from vrshq.cluster.ray import notes
from vrshq.cluster.ray.errors import NotEnoughResources, WorkerError
from vrshq.cluster.ray.needs import in_words, needed_by_one
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.resources import cluster_machines, may_grow, total

logger = logging.getLogger(__name__)

# A unit is reported as slow when it has taken this share of its deadline.
_SLOW_SHARE = 0.5


def unit_watcher(run: str, pools: Sequence[ActorPool], timing: Timing) -> type:
    """A Ray Data callback class that reports slow units, and ends the run once a pool has lost all of its actors.

    Args:
        run: the name under which the run's notes lie.
        pools: the pools, with the numbers of actors that this pass starts.
        timing: the interval between looks, and the grace time of the guards.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class UnitWatcher(ExecutionCallback):  # type: ignore[misc] # its base class has no type hints
        def __init__(self) -> None:
            self._looked = time.monotonic()
            self._known: set[str] = set()
            self._slow: set[str] = set()

        def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002 - Ray Data's signature
            if time.monotonic() - self._looked < timing.look_s:
                return
            self._looked = time.monotonic()
            self._report_slow()
            lost = notes.keys(f"vrshq/{run}/lost/")
            for key in set(lost) - self._known:
                logger.warning("an actor is lost for good: %s", notes.get(key))
            self._known = set(lost)
            for pool in pools:
                of_pool = [key for key in lost if key.split("/")[3] == pool.name]
                started = notes.starts(run, pool.name)
                if len(of_pool) >= max(pool.actors, len(started)):
                    raise WorkerError(notes.get(of_pool[0]) or f"pool {pool.name} has lost all of its actors")

        def _report_slow(self) -> None:
            now = time.time()
            dead = {key.rpartition("/")[2] for key in notes.keys(f"vrshq/{run}/dead/")}
            for mark in notes.marks(run):
                if mark.until is None or mark.unit in dead:
                    continue
                if mark.unit not in self._slow and now > mark.since + _SLOW_SHARE * (mark.until - mark.since):
                    self._slow.add(mark.unit)
                    logger.warning("%s", stall_report(mark, now))
                if now > mark.until + timing.grace_s / 2 and not notes.get(f"vrshq/{run}/why/{mark.unit}"):
                    # Its watchdog could not note it: the call holds Python's lock.
                    notes.put(f"vrshq/{run}/why/{mark.unit}", f"took longer than {mark.until - mark.since:.0f} s")

    return UnitWatcher


@dataclass(frozen=True)
class Starting:
    """How far the actors of a pass have started.

    Attributes:
        actors: how many there will be.
        loading: how many have their process and load.
        ready: how many have loaded.
    """

    actors: int
    loading: int
    ready: int


def start_watcher(
    run: str, pools: Sequence[ActorPool], timing: Timing, on_start: Callable[[Starting], None] = lambda _: None
) -> type:
    """A Ray Data callback class that checks whether the actors of each pool begin to load within `timing.start_s`.

    A pool without any actor then ends the run with NotEnoughResources; so does a pool with too few where an autoscaler
    should have brought machines. Elsewhere the run goes on with a warning. Until all actors are ready, `on_start` is told at
    each look how far they are.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class StartWatcher(ExecutionCallback):  # type: ignore[misc] # its base class has no type hints
        def __init__(self) -> None:
            self._begin = self._looked = time.monotonic()
            self._all_started = self._all_ready = False

        def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002 - Ray Data's signature
            now = time.monotonic()
            if (self._all_started and self._all_ready) or now - self._looked < timing.look_s:
                return
            self._looked = now
            if not self._all_ready:
                self._report()
            if self._all_started:
                return
            started = [(pool, len(notes.starts(run, pool.name))) for pool in pools]
            short = [(pool, number) for pool, number in started if number < pool.actors]
            self._all_started = not short
            if now - self._begin < timing.start_s:
                return
            self._all_started = True  # or as many as there will be
            for pool, number in short:
                there = total(cluster_machines())
                line = (
                    f"pool {pool.name}: {number} of {pool.actors} actors started within {timing.start_s:.0f} s, each needs "
                    f"{in_words(needed_by_one(pool), pool)}; the cluster has {in_words(there, pool)}"
                )
                if number == 0 or may_grow():
                    raise NotEnoughResources(line)
                logger.warning("%s; working on with those", line)

        def _report(self) -> None:
            begun = [notes.get(key) for pool in pools for key in notes.starts(run, pool.name)]
            wanted, ready = sum(pool.actors for pool in pools), begun.count(notes.LOADED)
            self._all_ready = ready >= wanted
            on_start(Starting(wanted, len(begun) - ready, ready))

    return StartWatcher


def stall_report(mark: notes.Mark, now: float) -> str:
    """One line about a unit that takes long: where it is, since when, and when it will be given up."""
    left = "" if mark.until is None else f"; it will be given up in {max(0.0, mark.until - now):.0f} s"
    return (
        f"unit {mark.unit} has been in pool {mark.pool} for {now - mark.since:.0f} s "
        f"(process {mark.pid} on node {mark.node[:8]}){left}"
    )

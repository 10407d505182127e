"""Runs units through pools of actors on Ray and yields each receipt as soon as it arrives.

The words of this room:

* A *unit* is one row of the manifest. The engine does not know what a worker does with it.
* A *receipt* is a row of the last pool: the small answer that tells the driver that its unit is finished.
* A *batch* is what an actor gets in one call: a unit, or several short ones (`vrshq.cluster.ray.schedule`).
* A *mark* is the note of an actor that it has begun a unit (`vrshq.cluster.ray.notes`).

Units stay in the driver's table until an actor is free, so its memory does not grow with what waits. Where a process ends,
the mark names the unit that it was at: that unit has lost a try, and the others of its batch are begun again. The last of
several tries is alone in its actor while all others go on. So a unit that kills, hangs or breaks its process costs that
unit alone and a bounded number of tries, and every other unit comes out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence, Set
from typing import Any

import pyarrow as pa

from vrshq.cluster.ray import needs
from vrshq.cluster.ray.crew import Starting
from vrshq.cluster.ray.driver import Driver, Lost
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.resources import may_grow

__all__ = ["Lost", "stream_receipts"]


def stream_receipts(
    units: pa.Table,
    pools: Sequence[ActorPool],
    *,
    attempts: int,
    key: str = "unit_id",
    finished: Callable[[Sequence[str]], Set[str]] = lambda _: frozenset(),
    together: Sequence[str] = (),
    timing: Timing = Timing(),  # noqa: B008 - frozen
    on_start: Callable[[Starting], None] = lambda _: None,
    check: Callable[[], None] = lambda: None,
) -> Iterator[dict[str, Any] | Lost]:
    """Sends every unit through all pools, in the given order as actors become free. Yields the receipts and the lost units.

    Needs a connection to Ray (`vrshq.cluster.ray.session.ray_session`). Receipts come in no particular order. A worker gets
    a table of one row, with one more column, `attempt` (int32, from 1). Closing the iterator ends the actors.

    Args:
        units: one row for each. They stay in this process until an actor takes them.
        pools: the stages in order.
        attempts: the largest number of tries of a unit. A unit is tried again if it ended its process, took longer than its
            deadline, or its worker raised. The last of several tries is alone in its actor.
        key: the column with the id of the unit. The rows of each pool must have it too.
        finished: those of some units that are finished although no receipt came. It is asked where a process of the last
            pool has ended: it may have finished units whose receipts are lost with it.
        together: columns whose equal values, in neighbouring rows, make a group of units that share work. The units of a group
            follow each other in one actor as long as others have something else to begin. The worker gets one more column,
            `more` (bool): whether another unit of the group is likely to follow in this actor.
        timing: intervals of the run. After `timing.start_s` a pool without any actor ends the run; a pool with too few
            ends it where an autoscaler did not bring the machines, and elsewhere goes on with those that it has.
        on_start: told how far the actors have started, every `timing.look_s` until all are ready.
        check: called about every `timing.look_s`; raises to end the run.

    Yields:
        each row of the last pool as a dict of plain Python values; rows should be small, as all of them come to this
        process. A `Lost` for each unit that was begun `attempts` times without success.

    Raises:
        NotEnoughResources: the cluster cannot hold all actors and no autoscaler may make it grow (raised before anything
            starts), or actors are missing after `timing.start_s`.
        WorkerError: too few actors of a pool are left (`vrshq.cluster.ray.crew.LEAST_SHARE`), with the reason of the last.
        ValueError: the arguments contradict each other.
    """
    if not pools:
        raise ValueError("no pools were given; expected at least one")
    if len({pool.name for pool in pools}) < len(pools):
        raise ValueError(f"two pools have the same name: {', '.join(pool.name for pool in pools)}")
    if attempts < 1:
        raise ValueError(f"attempts must be 1 or more, got {attempts}")
    if not units.num_rows:
        return
    fitted = [pool.fitted(units.num_rows) for pool in pools]
    if not may_grow():
        needs.check_resources(fitted)
    driver = Driver(units, fitted, attempts, key, finished, timing, together)
    try:
        yield from driver.receipts(on_start, check)
    finally:
        driver.close()

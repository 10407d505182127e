"""Runs units through pools of actors on Ray Data and yields each result as soon as it arrives.

The words of this room:

* A *unit* is one row of the manifest. The engine does not know what a worker does with it.
* A *receipt* is a row of the last pool: the small answer that tells the driver that its unit is finished.
* A *pass* is one execution of Ray Data over the units that have neither a receipt nor a `Lost`.
* A *mark* is the note of an actor that it has begun a unit (`vrshq.cluster.ray.notes`).

A call that ends its process is not repeated at once. Its mark stays, and its unit waits for the next pass. The last try of
a unit runs in a pass with one actor in each pool and one unit at a time, so that its effects on the machine (memory, a
crash) hit no other unit. So a unit that kills, hangs or breaks its worker process costs that unit alone and a bounded
number of tries, and every other unit comes out.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.ray import guard, needs, notes, watchers
from vrshq.cluster.ray.errors import WorkerError, reason
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.resources import cluster_machines, may_grow
from vrshq.cluster.ray.session import configure_data_context
from vrshq.cluster.ray.watchers import Starting

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)

# Rows of a given table in one block of the object store, which one feeding task splits into one-row blocks.
_FEED_ROWS = 4096
# So many rows go there one by one, which saves the start of the process for the feeding task.
_FEW_ROWS = 256
# After so many passes in a row that begin no unit a run ends: the cluster has no machine left that could begin one.
_IDLE_PASSES = 3


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


def stream_receipts(
    units: pa.Table,
    pools: Sequence[ActorPool],
    *,
    attempts: int,
    key: str = "unit_id",
    finished: Callable[[], Set[str]] = frozenset,
    timing: Timing = Timing(),  # noqa: B008 - frozen
    verbose: bool = False,
    on_start: Callable[[Starting], None] = lambda _: None,
) -> Iterator[dict[str, Any] | Lost]:
    """Sends every unit through all pools, in the given order as actors become free. Yields the receipts and the lost units.

    Needs a connection to Ray (`vrshq.cluster.ray.session.ray_session`). Receipts come in no particular order. A worker gets
    its rows with one more column, `attempt` (int32, from 1).

    Args:
        units: one row for each. All of them go to the object store (some hundred bytes for a unit).
        pools: the stages in order.
        attempts: the largest number of tries of a unit. A unit is tried again if its call ended its process, took longer
            than its deadline, or raised. The last of several tries is alone on its pools.
        key: the column with the id of the unit. The rows of the last pool must have it too.
        finished: returns ids of units that are finished although no receipt came. It is asked before each further pass, and
            not where each unit has its receipt: a machine may be lost together with the receipt of a finished unit.
        timing: intervals of the run. After `timing.start_s` a pool without any actor ends the run; a pool with too few
            ends it where an autoscaler did not bring the machines, and elsewhere goes on with those that it has.
        verbose: lets Ray Data show its own progress bars.
        on_start: told how far the actors have started, every `timing.look_s` until all are ready. Another thread calls it.

    Yields:
        each row of the last pool as a dict of plain Python values; rows should be small, as all of them come to this
        process. A `Lost` for each unit that was begun `attempts` times without success.

    Raises:
        NotEnoughResources: the cluster cannot hold all actors and no autoscaler may make it grow (raised before anything
            starts), or actors are missing after `timing.start_s`.
        WorkerError: the `__init__` of a worker raised, or its process died in it, repeatedly; or several passes in a row
            began no unit.
        ValueError: the arguments contradict each other.
    """
    if not pools:
        raise ValueError("no pools were given; expected at least one")
    if len({pool.name for pool in pools}) < len(pools):
        raise ValueError(f"two pools have the same name: {', '.join(pool.name for pool in pools)}")
    if attempts < 1:
        raise ValueError(f"attempts must be 1 or more, got {attempts}")
    tries: Counter[str] = Counter()
    idle = 0
    if units.num_rows:
        wanted = [pool.fitted(units.num_rows) for pool in pools]
        if needs.lacking(wanted, cluster_machines()) and not may_grow():
            needs.check_resources(wanted)
    while units.num_rows:
        received: set[str] = set()
        given_up: dict[str, str] = {}
        suspects = {unit for unit, number in tries.items() if number == attempts - 1 > 0}
        together = _without(units, key, suspects)
        single = [pool.single() for pool in pools]
        passes = [(together, pools)] if together.num_rows else [(one, single) for one in _alone(units, pools)]
        for of_pass, its_pools in passes:
            for row in _pass(of_pass, its_pools, key, tries, given_up, timing, verbose, on_start):
                received.add(row[key])
                yield row
        logger.debug("a pass brought %d of %d units, and gave up %d", len(received), units.num_rows, len(given_up))
        units = _without(units, key, received)
        if units.num_rows and (received or given_up):
            units = _without(units, key, finished())
        tries.update(given_up.keys())
        spent = {unit for unit in given_up if tries[unit] >= attempts}
        for unit in spent:
            logger.warning("unit %s is lost after %d attempts: %s", unit, tries[unit], given_up[unit])
        lost = units.filter(pc.is_in(units[key], pa.array(sorted(spent), pa.string())))
        yield from (Lost(row, tries[row[key]], given_up[row[key]]) for row in lost.to_pylist())
        units = _without(units, key, spent)
        idle = 0 if received or given_up else idle + 1
        if idle == _IDLE_PASSES:
            raise WorkerError(f"{idle} passes in a row began no unit; {units.num_rows} units are left")


def _pass(
    units: pa.Table,
    pools: Sequence[ActorPool],
    key: str,
    tries: Mapping[str, int],
    given_up: dict[str, str],
    timing: Timing,
    verbose: bool,
    on_start: Callable[[Starting], None],
) -> Iterator[dict[str, Any]]:
    """Sends the units through the pools once. Adds each unit whose try failed to `given_up`, with the reason."""
    import ray.exceptions

    fitted = needs.startable([pool.fitted(units.num_rows) for pool in pools])
    configure_data_context(progress=verbose)
    run = secrets.token_hex(8)
    numbers = [tries.get(unit, 0) + 1 for unit in units[key].to_pylist()]
    dataset = _dataset(units.append_column("attempt", pa.array(numbers, pa.int32())))
    for pool in fitted:
        dataset = _mapped(dataset, pool, run, key, timing)
    callbacks = [watchers.unit_watcher(run, fitted, timing), watchers.start_watcher(run, fitted, timing, on_start)]
    dataset.context.custom_execution_callback_classes.extend(callbacks)
    try:
        # batch_size=None yields each block unchanged; a prefetch would hold back the newest one.
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from block.to_pylist()
    except (ray.exceptions.ObjectLostError, ray.exceptions.NodeDiedError) as error:
        # A machine is lost together with rows that only it held. Units without a receipt are sent again.
        logger.warning("a pass ended early: %s", reason(error))
    except ray.exceptions.RayError as error:
        raise WorkerError(reason(error)) from error
    finally:
        begun = notes.take_given_up(run)
        notes.forget(run)
    for unit, why in begun.items():
        given_up[unit] = why
        logger.warning("attempt %d of unit %s failed: %s", tries.get(unit, 0) + 1, unit, given_up[unit])


def _alone(units: pa.Table, pools: Sequence[ActorPool]) -> Iterator[pa.Table]:
    """The units in tables such that no two units of a table are at work together. One single pool takes one at a time."""
    if len(pools) == 1:
        yield units
    else:
        yield from (units.slice(row, 1) for row in range(units.num_rows))


def _without(units: pa.Table, key: str, ids: Set[str]) -> pa.Table:
    if not ids:
        return units
    return units.filter(pc.invert(pc.is_in(units[key], pa.array(list(ids), pa.string()))))


def _dataset(units: pa.Table) -> Dataset:
    """The units as a dataset of one-row blocks in the object store, so that a lost block is a single unit.

    This process reads them, not a read task of Ray Data: such a task may run on a machine that cannot see the file or lacks
    its credentials. A failed read would count as a lost block, and the run would end early without an error. No task
    inspects the units here either: with all CPUs taken, or none there yet, the run would wait for it silently, for ever.
    """
    import ray.data

    if units.num_rows <= _FEW_ROWS:
        return ray.data.from_blocks([units.slice(row, 1) for row in range(units.num_rows)])
    blocks = [units.slice(row, _FEED_ROWS) for row in range(0, units.num_rows, _FEED_ROWS)]
    return _one_row_blocks(ray.data.from_blocks(blocks))


def _one_row_blocks(dataset: Dataset) -> Dataset:
    """Splits the blocks by the block size of `configure_data_context`.

    The task reserves no CPU. Actors may hold all CPUs and wait for those of a lost machine; a task that needs a CPU would
    then never start, and the run would stop.
    """
    return dataset.map_batches(_itself, batch_size=None, batch_format="pyarrow", num_cpus=0, zero_copy_batch=True)


def _itself(table: pa.Table) -> pa.Table:
    return table


def _mapped(dataset: Dataset, pool: ActorPool, run: str, key: str, timing: Timing) -> Dataset:
    from ray.data import ActorPoolStrategy

    reserved: dict[str, Any] = {"num_cpus": pool.num_cpus}
    if pool.num_gpus:
        reserved["num_gpus"] = pool.num_gpus
    if pool.memory:
        reserved["memory"] = pool.memory
    with _without_deprecation_of_ray_remote_args():
        return dataset.map_batches(
            guard.Guarded,
            fn_constructor_kwargs={"run": run, "pool": pool, "key": key, "grace_s": timing.grace_s},
            batch_format="pyarrow",
            batch_size=pool.batch_size,
            # No call waits in an actor: it would be lost together with a call that kills the process.
            compute=ActorPoolStrategy(
                min_size=pool.actors,
                max_size=pool.max_actors or pool.actors,
                max_tasks_in_flight_per_actor=pool.calls,
                max_concurrent_calls_per_actor=pool.calls,
                enable_true_multi_threading=pool.calls > 1,
            ),
            **reserved,
            **_fault_tolerance(),
        )


def _fault_tolerance() -> dict[str, Any]:
    """How often Ray repeats a call and restarts an actor. Only here are `ray_remote_args` used; Ray 2.64 removes them.

    Calls are not repeated, because passes do that. Actors are restarted without end: Ray Data 2.60 does not replace an
    actor that may not restart, and waits for ever. `vrshq.cluster.ray.guard` bounds the restarts of a worker that dies
    while it starts.
    """
    return {"max_task_retries": 0, "max_restarts": -1}


@contextlib.contextmanager
def _without_deprecation_of_ray_remote_args() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        yield

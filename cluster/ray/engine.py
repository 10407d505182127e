"""Runs units through pools of actors on Ray Data, and hands each result over as soon as it comes.

What a pool's worker does is not known here. The engine's part is that a unit which kills, hangs or breaks its worker
process costs that unit alone and a bounded number of tries, that every other unit comes out, and that nothing but small
rows crosses processes.

Work goes in passes. A call that ends its process is not repeated at once: its unit is marked as begun and not ended,
and waits for the next pass. Its last try is in a pass of its own, with one actor in each pool and one unit at a time,
so that what it does to its machine then (memory, a crash) happens to no other unit.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vrshq.cluster.ray import guard
from vrshq.cluster.ray.guard import WorkerError
from vrshq.cluster.ray.resources import Resources, cluster_machines, largest, may_grow, total
from vrshq.cluster.ray.session import configure_data_context
from vrshq.cluster.storage.folder import Folder
from vrshq.errors import UserError

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)

# Rows of a given table in one block of the object store, which one feeding task splits into one-row blocks.
_FEED_ROWS = 4096
# Passes that begin no unit, in a row, before a run is ended: the cluster has no machine left that could.
_IDLE_PASSES = 3
_LOOK_EVERY_SECONDS = 2.0
_ROUNDING = 1e-6


class NotEnoughResources(UserError, ValueError):  # noqa: N818 - reads as the sentence that it is
    """The pools ask for more than the cluster has or brings; the one-line message says for how much."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """One stage: a number of actors, each with one worker.

    Attributes:
        name: its name in messages.
        worker: a class of an importable module: `__init__(**arguments)` loads, `__call__(pa.Table) -> pa.Table` maps
            up to `batch_size` rows to any number of rows. It travels to the actors by reference, so every machine has
            to have its module. It should turn failures into rows: what it raises loses the batch.
        arguments: its arguments; small and picklable.
        actors: how many at least; no more are started than there are units.
        max_actors: how many at most, where the cluster has room or makes some; default: as many as `actors`.
        num_cpus, num_gpus, memory: what one actor reserves; a GPU fraction should be 1/k; memory in bytes. They are
            bookkeeping for placement, not limits.
        batch_size: rows in a call at most. All rows of a call are lost together if it kills its process.
        deadline_s: seconds that a call may take, until its worker asks for more (`vrshq.cluster.ray.guard.allow`); then its
            process is ended. None: for ever.
    """

    name: str
    worker: type
    arguments: dict[str, Any] = field(default_factory=dict)
    actors: int = 1
    max_actors: int | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory: int | None = None
    batch_size: int = 1
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.worker.__module__ == "__main__" or "<locals>" in self.worker.__qualname__:
            raise ValueError(
                f"pool {self.name}: {self.worker.__qualname__} must stand at the top of an importable module, "
                "because workers travel to other processes by name"
            )
        if not self.name or "/" in self.name:
            raise ValueError(f"a pool's name must not be empty and must not hold '/', got {self.name!r}")
        if self.actors < 1 or self.batch_size < 1:
            raise ValueError(
                f"pool {self.name}: actors and batch_size must be at least 1, got {self.actors} and {self.batch_size}"
            )
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"pool {self.name}: max_actors {self.max_actors} is less than actors {self.actors}")


@dataclass(frozen=True)
class Lost:
    """A unit that no try brought through.

    Attributes:
        row: its row of the manifest. attempts: how often it was begun. reason: what ended the last try, on one line.
    """

    row: dict[str, Any]
    attempts: int
    reason: str


def stream_receipts(
    manifest: pa.Table | str,
    pools: Sequence[Pool],
    *,
    attempts: int,
    key: str = "unit_id",
    finished: Callable[[], Set[str]] = frozenset,
    start_s: float = 600,
    verbose: bool = False,
) -> Iterator[dict[str, Any] | Lost]:
    """Sends every row of the manifest through all pools; yields the rows of the last one, and the units that are lost.

    Needs a connection to Ray (`vrshq.cluster.ray.session.ray_session`). Rows come in no particular order. A worker gets its rows
    with one more column, `attempt` (int32, from 1).

    Args:
        manifest: the units, one a row: a table, or the uri of a Parquet file. All of it goes to the object store, some
            hundred bytes a unit.
        pools: the stages in order.
        attempts: how often a unit is begun at most. All but the first are for units whose call ended its process, took
            longer than its deadline, or raised; the last of several is alone on its pools.
        key: the column with the unit's id, which the rows of the last pool must have too.
        finished: asked before each further pass for ids of units that are done although no row came: a machine may be
            lost with the row that its actor had just answered.
        start_s: seconds within which a pool's `actors` must have begun to load in a pass, which they do as soon as
            there is room for them. After that a pool without any ends the run; one with too few does so where an
            autoscaler did not bring the machines, and elsewhere works on with those that it has.
        verbose: lets Ray Data show its own progress bars.

    Yields:
        a dict of plain Python values a row of the last pool, which should be small, as they all come to this process;
        a `Lost` for each unit that was begun `attempts` times in vain.

    Raises:
        NotEnoughResources: before anything starts, where the cluster cannot hold all actors and nothing may make it
            grow; or after `start_s`.
        WorkerError: a worker's `__init__` raised, or its process died in it, again and again; or passes end without
            any unit begun.
        StorageError, ValueError: the manifest cannot be read; the arguments contradict each other.
    """
    if not pools:
        raise ValueError("no pools were given; expected at least one")
    if len({pool.name for pool in pools}) < len(pools):
        raise ValueError(f"two pools have the same name: {', '.join(pool.name for pool in pools)}")
    if attempts < 1:
        raise ValueError(f"attempts must be 1 or more, got {attempts}")
    units = _table(manifest)
    tries: Counter[str] = Counter()
    idle = 0
    if units.num_rows:
        wanted = [_fitted(pool, units.num_rows) for pool in pools]
        if lacking(wanted, cluster_machines()) and not may_grow():
            check_resources(wanted)
    while units.num_rows:
        received: set[str] = set()
        given_up: dict[str, str] = {}
        suspects = {unit for unit, number in tries.items() if number == attempts - 1 > 0}
        together = _without(units, key, suspects)
        parts = [(together, pools)] if together.num_rows else [(one, _single(pools)) for one in _alone(units, pools)]
        for part, of_part in parts:
            for row in _pass(part, of_part, key, tries, given_up, start_s, verbose):
                received.add(row[key])
                yield row
        logger.debug("a pass brought %d of %d units, and gave up %d", len(received), units.num_rows, len(given_up))
        units = _without(units, key, received | (finished() if received or given_up else set()))
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
    pools: Sequence[Pool],
    key: str,
    tries: Mapping[str, int],
    given_up: dict[str, str],
    start_s: float,
    verbose: bool,
) -> Iterator[dict[str, Any]]:
    """Sends the units through the pools once; what was begun in vain is added to `given_up` with the reason."""
    import ray.exceptions

    fitted = _startable([_fitted(pool, units.num_rows) for pool in pools])
    configure_data_context(progress=verbose)
    run = secrets.token_hex(8)
    numbers = [tries.get(unit, 0) + 1 for unit in units[key].to_pylist()]
    dataset = _one_row_blocks(_dataset(units.append_column("attempt", pa.array(numbers, pa.int32()))))
    for pool in fitted:
        dataset = _mapped(dataset, pool, run, key)
    callbacks = [guard.watcher(run, {pool.name: pool.actors for pool in fitted}), _start_watcher(run, fitted, start_s)]
    dataset.context.custom_execution_callback_classes.extend(callbacks)
    try:
        # batch_size=None hands over each block as it is; no prefetch, which would hold back the newest one.
        for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
            yield from block.to_pylist()
    except (ray.exceptions.ObjectLostError, ray.exceptions.NodeDiedError) as error:
        # A machine is gone with rows that only it had. Whatever did not come is sent again.
        logger.warning("a pass ended early: %s", guard.reason(error))
    except ray.exceptions.RayError as error:
        raise WorkerError(guard.reason(error)) from error
    finally:
        begun = guard.take_given_up(run)
        guard.forget(run)
    for unit, why in begun.items():
        given_up[unit] = why
        logger.warning("attempt %d of unit %s failed: %s", tries.get(unit, 0) + 1, unit, given_up[unit])


def _alone(units: pa.Table, pools: Sequence[Pool]) -> Iterator[pa.Table]:
    """The parts in which units go so that no two are at work together: one pool works on one unit at a time anyway."""
    if len(pools) == 1:
        yield units
    else:
        yield from (units.slice(row, 1) for row in range(units.num_rows))


def _startable(pools: Sequence[Pool]) -> list[Pool]:
    """The pools with no more actors than the cluster can hold now: it may have lost machines since the run began.

    Nothing is taken away where an autoscaler may bring what is missing.
    """
    machines = cluster_machines()
    if not lacking(pools, machines) or may_grow():
        return list(pools)
    shrunk = [replace(pool, actors=max(1, min(pool.actors, _places(pool, machines)))) for pool in pools]
    while any(pool.actors > 1 for pool in shrunk) and lacking(shrunk, machines):
        most = max(range(len(shrunk)), key=lambda position: shrunk[position].actors)
        shrunk[most] = replace(shrunk[most], actors=shrunk[most].actors - 1)
    check_resources(shrunk)
    return shrunk


def _start_watcher(run: str, pools: Sequence[Pool], start_s: float) -> type:
    """A Ray Data callback class that looks whether each pool's actors begin to load within `start_s` seconds."""
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class StartWatcher(ExecutionCallback):
        def __init__(self) -> None:
            self._begin = self._looked = time.monotonic()
            self._all_started = False

        def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002 - Ray Data's signature
            now = time.monotonic()
            if self._all_started or now - self._looked < _LOOK_EVERY_SECONDS:
                return
            self._looked = now
            started = [(pool, len(guard.starts(run, pool.name))) for pool in pools]
            short = [(pool, number) for pool, number in started if number < pool.actors]
            self._all_started = not short
            if now - self._begin < start_s:
                return
            self._all_started = True  # or as many as there will be
            for pool, number in short:
                there = total(cluster_machines())
                line = (
                    f"pool {pool.name}: {number} of {pool.actors} actors started within {start_s:.0f} s, each needs "
                    f"{_words(_of_one(pool), pool)}; the cluster has {_words(there, pool)}"
                )
                if number == 0 or may_grow():
                    raise NotEnoughResources(line)
                logger.warning("%s; working on with those", line)

    return StartWatcher


def _single(pools: Sequence[Pool]) -> list[Pool]:
    return [replace(pool, actors=1, max_actors=None, batch_size=1) for pool in pools]


def _without(units: pa.Table, key: str, ids: Set[str]) -> pa.Table:
    if not ids:
        return units
    return units.filter(pc.invert(pc.is_in(units[key], pa.array(list(ids), pa.string()))))


def check_resources(pools: Sequence[Pool]) -> None:
    """Raises NotEnoughResources if the connected cluster cannot hold all actors of all pools at the same time."""
    lines = lacking(pools, cluster_machines())
    if lines:
        raise NotEnoughResources("; ".join(lines))


def lacking(pools: Sequence[Pool], machines: Sequence[Resources]) -> list[str]:
    """What machines lack to hold all actors of all pools at the same time, a line each; empty if nothing is known to.

    The sums are compared, and for each pool alone whether its actors fit on single machines: an actor never spans
    machines, nor does one with less than a GPU span GPUs. Whether different pools fit beside each other on each machine
    is for Ray to find out.
    """
    there, most = total(machines), largest(machines)
    lines = [f"needs {need}, the cluster has {have}" for need, have in _short(_sum_of(pools), there)]
    if lines:
        return lines
    for pool in pools:
        of_one = _short(_of_one(pool), most)
        lines += [f"pool {pool.name}: {need} on one machine, the largest has {have}" for need, have in of_one]
        places = _places(pool, machines)
        if not of_one and places < pool.actors:
            lines.append(
                f"pool {pool.name}: {_count(pool.actors, 'actor')} with {_words(_of_one(pool), pool)} each on one machine, "
                f"the machines have room for {places}"
            )
    return lines


def _of_one(pool: Pool) -> Resources:
    return Resources(cpus=pool.num_cpus, gpus=pool.num_gpus, memory_bytes=pool.memory or 0, nodes=1)


def _sum_of(pools: Sequence[Pool]) -> Resources:
    return total(_of_one(pool) for pool in pools for _ in range(pool.actors))


def _places(pool: Pool, machines: Sequence[Resources]) -> int:
    """How many actors of a pool the machines could hold if nothing else ran on them."""
    room = 0
    for machine in machines:
        places = [pool.actors]
        if pool.num_cpus:
            places.append(int(machine.cpus / pool.num_cpus + _ROUNDING))
        if pool.memory:
            places.append(machine.memory_bytes // pool.memory)
        if 0 < pool.num_gpus < 1:
            places.append(int(machine.gpus) * int(1 / pool.num_gpus + _ROUNDING))
        elif pool.num_gpus:
            places.append(int(machine.gpus / pool.num_gpus + _ROUNDING))
        room += min(places)
    return room


def _short(needed: Resources, there: Resources) -> list[tuple[str, str]]:
    """What is needed and what is there, in words, for each resource that does not suffice."""
    found = [
        (_count(need, kind), f"{have:g}")
        for kind, need, have in (("GPU", needed.gpus, there.gpus), ("CPU", needed.cpus, there.cpus))
        if need > have + _ROUNDING
    ]
    if needed.memory_bytes > there.memory_bytes:
        found.append((_gib(needed.memory_bytes) + " of memory", _gib(there.memory_bytes)))
    return found


def _words(resources: Resources, pool: Pool) -> str:
    """The resources of the kinds that a pool asks for, for example: 0.5 GPU, 2 CPUs."""
    parts = [_count(resources.gpus, "GPU")] if pool.num_gpus else []
    parts.append(_count(resources.cpus, "CPU"))
    parts += [_gib(resources.memory_bytes) + " of memory"] if pool.memory else []
    return ", ".join(parts)


def _count(number: float, kind: str) -> str:
    return f"{number:.6g} {kind}" if 0 < number <= 1 else f"{number:.6g} {kind}s"


def _gib(number: int) -> str:
    return f"{number / 2**30:.1f} GiB"


def _fitted(pool: Pool, units: int) -> Pool:
    calls = -(-units // pool.batch_size)
    most = None if pool.max_actors is None else min(pool.max_actors, calls)
    return replace(pool, actors=min(pool.actors, calls), max_actors=most)


def _table(manifest: pa.Table | str) -> pa.Table:
    if isinstance(manifest, pa.Table):
        return manifest
    folder, _, name = manifest.rpartition("/")
    content = Folder(folder or ".").read_bytes(name)
    try:
        return pq.read_table(pa.BufferReader(content))
    except pa.ArrowException as error:
        raise ValueError(f"{manifest} is not a Parquet file: {' '.join(str(error).split())}") from error


def _dataset(units: pa.Table) -> Dataset:
    """The units in the object store.

    They are read by this process and not by Ray Data's read tasks: those may run on a machine that cannot see the file
    or lacks its credentials, and what they fail to read would count as lost blocks, so that the run would end early
    and content. No task looks at them here either: with all CPUs taken, or none there yet, it would be waited for
    without an end or a word.
    """
    import ray.data

    return ray.data.from_blocks([units.slice(row, _FEED_ROWS) for row in range(0, units.num_rows, _FEED_ROWS)])


def _one_row_blocks(dataset: Dataset) -> Dataset:
    """Splits the blocks, so that a lost block is a single unit. Together with the block size of `configure_data_context`.

    It asks for no CPU: with the actors holding all that there are, and still waiting for those of a lost machine, a
    task that needs one would never start, and the run with it.
    """
    return dataset.map_batches(_itself, batch_size=None, batch_format="pyarrow", num_cpus=0, zero_copy_batch=True)


def _itself(table: pa.Table) -> pa.Table:
    return table


def _mapped(dataset: Dataset, pool: Pool, run: str, key: str) -> Dataset:
    from ray.data import ActorPoolStrategy

    reserved: dict[str, Any] = {"num_cpus": pool.num_cpus}
    if pool.num_gpus:
        reserved["num_gpus"] = pool.num_gpus
    if pool.memory:
        reserved["memory"] = pool.memory
    with _without_deprecation_of_ray_remote_args():
        return dataset.map_batches(
            guard.Guarded,
            fn_constructor_kwargs={
                "run": run,
                "pool": pool.name,
                "worker": pool.worker,
                "arguments": pool.arguments,
                "key": key,
                "deadline_s": pool.deadline_s,
            },
            batch_format="pyarrow",
            batch_size=pool.batch_size,
            # One call at a time in an actor, and none waiting in it: what waits beside a call that kills the process
            # would be lost with it.
            compute=ActorPoolStrategy(
                min_size=pool.actors, max_size=pool.max_actors or pool.actors, max_tasks_in_flight_per_actor=1
            ),
            **reserved,
            **_fault_tolerance(),
        )


def _fault_tolerance() -> dict[str, Any]:
    """How often Ray runs a call and a process again. The one place that uses `ray_remote_args`, which end in Ray 2.64.

    Calls are not repeated: passes do that, knowing why. Actors are, without end: an actor that may not come back takes
    its pool's place with it, and Ray Data 2.60 starts no other (it waits for ever). What would restart without end, a
    worker that dies while it starts, is bounded in `vrshq.cluster.ray.guard`.
    """
    return {"max_task_retries": 0, "max_restarts": -1}


@contextlib.contextmanager
def _without_deprecation_of_ray_remote_args() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        yield

"""Runs units through pools of actors on Ray Data, and hands each result over as soon as it comes.

What a pool's worker does is not known here. The engine's part is that a unit which kills its worker process costs that
unit alone and a bounded number of tries, that every other unit comes out, and that nothing but small rows crosses
processes.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from cluster import guard
from cluster.guard import WorkerError
from cluster.resources import Resources, cluster_resources, largest_node
from cluster.session import configure_data_context
from cluster.storage import Folder

if TYPE_CHECKING:
    from ray.data import Dataset

logger = logging.getLogger(__name__)

# Feeding rows to the pools (splitting blocks) takes a CPU of its own. Without one free the run would wait for ever.
FEEDER_CPUS = 1.0
# Rows of a given table in one block of the object store, which one feeding task splits into one-row blocks.
_FEED_ROWS = 4096


class NotEnoughResources(ValueError):  # noqa: N818 - reads as the sentence that it is
    """The pools ask for more than the cluster has; the one-line message says for how much."""


@dataclass(frozen=True, kw_only=True)
class Pool:
    """One stage: a fixed number of actors, each with one worker.

    Attributes:
        name: its name in messages.
        worker: a class of an importable module: `__init__(**arguments)` loads, `__call__(pa.Table) -> pa.Table` maps
            up to `batch_size` rows to any number of rows. It travels to the actors by reference, so every machine has
            to have its module. It should turn failures into rows: what it raises loses the batch.
        arguments: its arguments; small and picklable.
        actors: how many; no more are started than there are units.
        num_cpus, num_gpus, memory: what one actor reserves; a GPU fraction should be 1/k; memory in bytes. They are
            bookkeeping for placement, not limits.
        batch_size: rows in a call at most. All rows of a call are lost together if it kills its process.
    """

    name: str
    worker: type
    arguments: dict[str, Any] = field(default_factory=dict)
    actors: int = 1
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory: int | None = None
    batch_size: int = 1

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


def stream_receipts(
    manifest: pa.Table | str, pools: Sequence[Pool], *, max_retries: int, verbose: bool = False
) -> Iterator[dict[str, Any]]:
    """Sends every row of the manifest through all pools, and yields the rows of the last one as they come.

    Needs a connection to Ray (`cluster.session.ray_session`). Rows come in no particular order. The rows of a call that
    killed its process `max_retries + 1` times, or raised, do not come at all: a warning of this module's logger says
    why, and the caller finds them as manifest minus receipts. Every other row comes.

    Args:
        manifest: the units, one a row: a table, or the uri of a Parquet file. All of it goes to the object store, some
            hundred bytes a unit.
        pools: the stages in order.
        max_retries: times a call is tried again after its process died.
        verbose: lets Ray Data show its own progress bars.

    Yields:
        a dict of plain Python values a row. Keep the last pool's rows small: they all come to this process.

    Raises:
        NotEnoughResources: before anything starts.
        WorkerError: a worker's `__init__` raised, or its process died in it, again and again.
        StorageError, ValueError: the manifest cannot be read; the arguments contradict each other.
    """
    import ray.exceptions

    if not pools:
        raise ValueError("no pools were given; expected at least one")
    if len({pool.name for pool in pools}) < len(pools):
        raise ValueError(f"two pools have the same name: {', '.join(pool.name for pool in pools)}")
    if max_retries < 0:
        raise ValueError(f"max_retries must be 0 or more, got {max_retries}")
    units = _table(manifest)
    if units.num_rows == 0:
        return
    fitted = [_fitted(pool, units.num_rows) for pool in pools]
    check_resources(fitted)
    configure_data_context(progress=verbose)
    run = secrets.token_hex(8)
    dataset = _one_row_blocks(_dataset(units))
    for position, pool in enumerate(fitted):
        dataset = _mapped(dataset, pool, run, max_retries)
        # A call of several rows answers with a block of several rows, and a lost block must be a single unit.
        if pool.batch_size > 1 and position + 1 < len(fitted):
            dataset = _one_row_blocks(dataset)
    dataset.context.custom_execution_callback_classes.append(guard.watcher(run, {p.name: p.actors for p in fitted}))
    with _loss_warnings():
        try:
            # batch_size=None hands over each block as it is; no prefetch, which would hold back the newest one.
            for block in dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0):
                yield from block.to_pylist()
        except ray.exceptions.RayError as error:
            raise WorkerError(guard.reason(error)) from error
        finally:
            guard.forget(run)


def check_resources(pools: Sequence[Pool]) -> None:
    """Raises NotEnoughResources if the connected cluster cannot hold all actors of all pools at the same time."""
    needed = Resources(
        cpus=sum(pool.actors * pool.num_cpus for pool in pools) + FEEDER_CPUS,
        gpus=sum(pool.actors * pool.num_gpus for pool in pools),
        memory_bytes=sum(pool.actors * (pool.memory or 0) for pool in pools),
        nodes=1,
    )
    lacking = _lacking(needed, cluster_resources())
    if lacking:
        raise NotEnoughResources(f"needs {lacking[0]}, the cluster has {lacking[1]}")
    largest = largest_node()
    for pool in pools:
        one = Resources(cpus=pool.num_cpus, gpus=pool.num_gpus, memory_bytes=pool.memory or 0, nodes=1)
        lacking = _lacking(one, largest)
        if lacking:
            raise NotEnoughResources(
                f"one actor of pool {pool.name} needs {lacking[0]}, the largest machine of the cluster has {lacking[1]}"
            )


def _lacking(needed: Resources, there: Resources) -> tuple[str, str] | None:
    """What is needed and what is there, in words, for the first resource that does not suffice."""
    for kind, need, have in (("GPUs", needed.gpus, there.gpus), ("CPUs", needed.cpus, there.cpus)):
        if need > have + 1e-6:
            return f"{need:g} {kind}", f"{have:g}"
    if needed.memory_bytes > there.memory_bytes:
        return f"{needed.memory_bytes / 2**30:.1f} GiB of memory", f"{there.memory_bytes / 2**30:.1f} GiB"
    return None


def _fitted(pool: Pool, units: int) -> Pool:
    return replace(pool, actors=min(pool.actors, -(-units // pool.batch_size)))


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
    and content.
    """
    import ray.data

    return ray.data.from_arrow([units.slice(row, _FEED_ROWS) for row in range(0, units.num_rows, _FEED_ROWS)])


def _one_row_blocks(dataset: Dataset) -> Dataset:
    return dataset.repartition(target_num_rows_per_block=1)


def _mapped(dataset: Dataset, pool: Pool, run: str, max_retries: int) -> Dataset:
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
            },
            batch_format="pyarrow",
            batch_size=pool.batch_size,
            # One call at a time in an actor, and none waiting in it: what waits beside a call that kills the process
            # would use up its own retries.
            compute=ActorPoolStrategy(size=pool.actors, max_tasks_in_flight_per_actor=1),
            **reserved,
            **_fault_tolerance(max_retries),
        )


def _fault_tolerance(max_retries: int) -> dict[str, Any]:
    """How often Ray runs a call and a process again. The one place that uses `ray_remote_args`, which end in Ray 2.64.

    Calls are bounded, so a deadly one gives up. Actors are not: an actor that may not come back takes its pool's place
    with it, and Ray Data 2.60 starts no other (it waits for ever). What would restart without end, a worker that dies
    while it starts, is bounded in `cluster.guard`.
    """
    return {"max_task_retries": max_retries, "max_restarts": -1}


@contextlib.contextmanager
def _without_deprecation_of_ray_remote_args() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args.*")
        yield


class _LossHandler(logging.Handler):
    """Says in one line what Ray Data says in forty: that a block was lost, and why."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        if error is not None and "max_errored_blocks" in record.getMessage():
            logger.warning("lost a unit: %s", guard.reason(error))


@contextlib.contextmanager
def _loss_warnings() -> Iterator[None]:
    handler = _LossHandler(level=logging.ERROR)
    source = logging.getLogger("ray.data")
    source.addHandler(handler)
    try:
        yield
    finally:
        source.removeHandler(handler)

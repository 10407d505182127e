"""Merges the parts of a run directory in actors: a planned group is a unit of the engine, which is tried again where it fails.

An actor reads the plan and the parts, and writes the ledger and the merged file. It removes nothing: the driver does, which
holds the lease. What an actor leaves behind that is killed, or that outlives its driver, is what
`vrshq.cluster.storage.merging` says of any process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pyarrow as pa

from vrshq.cluster.ray.driver import Lost
from vrshq.cluster.ray.engine import stream_receipts
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.resources import cluster_resources
from vrshq.cluster.ray.session import is_connected
from vrshq.cluster.storage import merging
from vrshq.cluster.storage.compaction import one_by_one
from vrshq.cluster.storage.errors import StorageError
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.merging import Group

_ATTEMPTS = 3
_LOOK_S = 1.0  # seconds between two calls of the check
# With fewer parts this process is done before an actor has started.
_FEW_PARTS = 3000
# Actors beside a run: each merges more parts than a driver's run makes on some hundred actors.
_BESIDE = 2


def where_it_pays(folder: Folder, groups: Sequence[Group], check: Callable[[], None]) -> Iterator[Group]:
    """The `Spread` over the connected cluster, an actor on each CPU; in this process without one, or with little to do."""
    if not is_connected() or len(groups) < 2 or sum(len(group.parts) for group in groups) < _FEW_PARTS:
        return one_by_one(folder, groups, check)
    return InActors(max(1, int(cluster_resources().cpus)))(folder, groups, check)


def beside_others(folder: Folder, groups: Sequence[Group], check: Callable[[], None]) -> Iterator[Group]:
    """The `Spread` beside a run on the connected cluster, whose actors have reserved its CPUs; else in this process."""
    return (InActors(_BESIDE, num_cpus=0) if is_connected() else one_by_one)(folder, groups, check)


class Merger:
    """The worker: merges one planned group in a call."""

    def __init__(self, run: str, patience_s: float) -> None:
        self._folder = Folder(run, patience_s)

    def __call__(self, table: pa.Table) -> pa.Table:
        """Merges the group whose plan has the name in the column `plan`; returns the table."""
        (plan,) = table["plan"].to_pylist()
        merging.merge(self._folder, merging.read_plan(self._folder, plan))
        return table.select(["plan"])


class InActors:
    """The `Spread` over actors of the connected Ray cluster.

    Args:
        actors: the largest number of actors.
        num_cpus: CPUs that one of them reserves; 0: they work beside actors that have reserved all.
    """

    def __init__(self, actors: int, num_cpus: float = 1.0) -> None:
        self._actors, self._num_cpus = actors, num_cpus

    def __call__(self, folder: Folder, groups: Sequence[Group], check: Callable[[], None]) -> Iterator[Group]:
        """Yields each group when its file is there.

        Raises:
            StorageError: a group could not be merged; the others are.
        """
        by_plan = {group.plan: group for group in groups}
        pool = ActorPool(
            name="merge",
            worker=Merger,
            arguments={"run": folder.uri, "patience_s": folder.patience_s},
            actors=self._actors,
            num_cpus=self._num_cpus,
        )

        def there(plans: Sequence[str]) -> set[str]:
            return {plan for plan in plans if folder.exists(by_plan[plan].file)}

        lost: list[Lost] = []
        # the largest first, so that all actors end together
        units = pa.table({"plan": sorted(by_plan, key=lambda plan: -len(by_plan[plan].parts))})
        receipts = stream_receipts(
            units, [pool], attempts=_ATTEMPTS, key="plan", finished=there, timing=Timing(look_s=_LOOK_S), check=check
        )
        for one in receipts:
            if isinstance(one, Lost):
                lost.append(one)
            else:
                yield by_plan.pop(one["plan"])
        if lost:
            raise StorageError(
                f"{folder.uri}: {len(lost)} of {len(groups)} files could not be merged ({lost[0].reason}); no part is lost, "
                "run the same line again"
            )

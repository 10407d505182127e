"""Notes of a run in the cluster's key-value store, which outlives the processes and machines of actors.

The process of a worker may end or hang at any moment, so an actor writes down beforehand which unit it has begun:

    vrshq/{run}/now/{unit}            a unit that an actor has begun and not finished (`Mark`)
    vrshq/{run}/why/{unit}            why its worker gave it up, if the worker could still note it
    vrshq/{run}/dead/{unit}           the process that had begun it has ended
    vrshq/{run}/starts/{pool}/{actor} how often the actor's worker has begun to load since its last success
    vrshq/{run}/lost/{pool}/{actor}   why the actor will not come back
"""

from __future__ import annotations

import json
from dataclasses import dataclass

from vrshq.cluster.ray.errors import DIED, FOR_MEMORY

# The value of an actor's `starts` once its worker has loaded.
LOADED = "0"


@dataclass(frozen=True)
class Mark:
    """A mark: the note of an actor that it has begun a unit. It is removed when the call returns.

    A mark that is still there when no actor works any more names a unit that was begun in vain.

    Attributes:
        unit: the unit's id.
        pool: the pool's name.
        actor: Ray's id of the actor (hex).
        pid: the process id on its machine.
        node: Ray's id of the machine (hex).
        since: when the unit was begun, in seconds since 1970.
        until: when it will be given up, in seconds since 1970; None: never.
    """

    unit: str
    pool: str
    actor: str
    pid: int
    node: str
    since: float
    until: float | None


def starts(run: str, pool: str) -> list[str]:
    """The keys of the actors of a pool that have begun to load."""
    return keys(f"vrshq/{run}/starts/{pool}/")


def marks(run: str) -> list[Mark]:
    """The marks of all units that are begun and not finished: at work, or given up."""
    found = []
    for key in keys(f"vrshq/{run}/now/"):
        value = get(key)
        if value is not None:  # it may have ended since the listing
            found.append(Mark(**json.loads(value)))
    return found


def take_given_up(run: str) -> dict[str, str]:
    """Unit -> reason of the units that were begun and not finished. Removes their notes.

    Call it when no actor works any more.
    """
    begun = marks(run)
    for_memory = _killed_for_memory() if begun else set()
    given_up = {}
    for mark in begun:
        why = get(f"vrshq/{run}/why/{mark.unit}")
        given_up[mark.unit] = why or (FOR_MEMORY if (mark.node, mark.pid) in for_memory else DIED)
        for note in ("now", "why", "dead"):
            delete(f"vrshq/{run}/{note}/{mark.unit}")
    return given_up


def _killed_for_memory() -> set[tuple[str, int]]:
    """Node and pid of the worker processes that Ray's memory monitor killed, from its internal tables."""
    try:
        from ray._private.state import state
        from ray.core.generated import gcs_pb2
        from ray.core.generated.common_pb2 import WorkerExitType

        rows = [gcs_pb2.WorkerTableData.FromString(row) for row in state._global_state_accessor.get_worker_table()]
        exit_type = WorkerExitType.Value("NODE_OUT_OF_MEMORY")
        return {(row.worker_address.node_id.hex(), row.pid) for row in rows if row.exit_type == exit_type}
    except (ImportError, AttributeError, ValueError):
        return set()  # another version of Ray: the reason is then `DIED`


def forget(run: str) -> None:
    """Removes all notes of the run, if the cluster is still connected."""
    import ray
    from ray.experimental import internal_kv

    if ray.is_initialized():
        internal_kv._internal_kv_del(f"vrshq/{run}/".encode(), del_by_prefix=True)


def get(key: str) -> str | None:
    """The value of a note; None if there is none."""
    from ray.experimental import internal_kv

    value = internal_kv._internal_kv_get(key.encode())
    return None if value is None else value.decode()


def put(key: str, value: str) -> None:
    """Writes a note over an existing one."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(key.encode(), value.encode(), overwrite=True)


def delete(key: str) -> None:
    """Removes a note."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_del(key.encode())


def keys(prefix: str) -> list[str]:
    """The keys of all notes that begin with `prefix`."""
    from ray.experimental import internal_kv

    return [key.decode() for key in internal_kv._internal_kv_list(prefix.encode())]

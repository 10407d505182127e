"""Notes of a run in the cluster's key-value store, which outlives the processes and machines of actors.

The process of a worker may end or hang at any moment, so an actor writes down beforehand which unit it begins. It has one
note for each lane, `vrshq/{run}/{actor}/{lane}`, whose value is a `Mark`.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass


@dataclass(frozen=True)
class Mark:
    """A mark: the note of an actor about the unit that it has begun last.

    Attributes:
        call: number of the call. A mark of an earlier call says nothing about this one.
        place: position of the unit in the call's batch.
        unit: the unit's id.
        since: when the unit was begun, in seconds since 1970.
        until: when it will be given up, in seconds since 1970; None: never.
        why: why the worker gave it up, if it could still note it.
    """

    call: int
    place: int
    unit: str
    since: float
    until: float | None
    why: str = ""


def mark_key(run: str, actor: str, lane: int) -> str:
    """The key of the mark of an actor's lane."""
    return f"vrshq/{run}/{actor}/{lane}"


def put(key: str, mark: Mark) -> None:
    """Writes a mark over the lane's last one."""
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(key.encode(), json.dumps(asdict(mark)).encode(), overwrite=True)


def get(key: str) -> Mark | None:
    """The mark of a lane; None if it has begun no unit yet."""
    from ray.experimental import internal_kv

    value = internal_kv._internal_kv_get(key.encode())
    return None if value is None else Mark(**json.loads(value))


def forget(run: str) -> None:
    """Removes all notes of the run, if the cluster is still connected."""
    import ray
    from ray.experimental import internal_kv

    if ray.is_initialized():
        internal_kv._internal_kv_del(f"vrshq/{run}/".encode(), del_by_prefix=True)

"""What keeps a pool of actors honest: bounded starts, named errors, and an end when no actor of a pool is left.

Ray restarts an actor whose process died without end, and never one whose constructor raised after a restart; Ray Data
2.60 waits for ever for a pool without actors. Between the two lies this module. It notes starts and losses in the
cluster's own key-value store, which outlives the actors' processes.
"""

from __future__ import annotations

import logging
import os
import re
import time
from typing import Any

import pyarrow as pa

logger = logging.getLogger(__name__)

# How many times in a row one actor may fail to bring up its worker.
MAX_STARTS = 3
_LOOK_EVERY_SECONDS = 2.0


class WorkerError(RuntimeError):
    """A worker cannot be started, or raised; the one-line message names its pool and the error."""


class Guarded:
    """A worker inside its actor. Bounds how often it starts, and names its pool in whatever it raises."""

    def __init__(self, run: str, pool: str, worker: type, arguments: dict[str, Any]) -> None:
        import ray

        context = ray.get_runtime_context()
        self._pool = pool
        actor = context.get_actor_id()
        starts_key, lost_key = f"vrshq/{run}/starts/{actor}", f"vrshq/{run}/lost/{pool}/{actor}"
        starts = int(_get(starts_key) or "0") + 1
        _put(starts_key, str(starts))
        if starts > MAX_STARTS:
            if _get(lost_key) is None:
                _put(
                    lost_key,
                    f"pool {pool}: the worker's process died {MAX_STARTS} times while it started; was it killed for "
                    "memory? Use machines with more of it, or fewer actors on each",
                )
            raise WorkerError(_get(lost_key))
        try:
            self._worker = worker(**arguments)
        except Exception as error:
            why = WorkerError(f"pool {pool} cannot start: {_one_line(error)}")
            if context.was_current_actor_reconstructed:
                if starts < MAX_STARTS:
                    # Raising would be the end of a restarted actor; if its process ends, Ray tries once more.
                    os._exit(1)
                _put(lost_key, str(why))
            raise why from error
        _put(starts_key, "0")

    def __call__(self, table: pa.Table) -> pa.Table:
        try:
            return self._worker(table)
        except Exception as error:
            raise WorkerError(f"pool {self._pool}: {_one_line(error)}") from error


def watcher(run: str, actors: dict[str, int]) -> type:
    """A Ray Data callback class that ends the run with a WorkerError once a pool has lost all of its actors.

    Args:
        run: the name under which the run's `Guarded` workers note their losses.
        actors: how many actors each pool has.
    """
    from ray.data._internal.execution.execution_callback import ExecutionCallback

    class Watcher(ExecutionCallback):
        def __init__(self) -> None:
            self._looked = time.monotonic()
            self._known: set[str] = set()

        def on_execution_step(self, executor: Any) -> None:  # noqa: ARG002 - Ray Data's signature
            if time.monotonic() - self._looked < _LOOK_EVERY_SECONDS:
                return
            self._looked = time.monotonic()
            lost = _list(f"vrshq/{run}/lost/")
            for key in set(lost) - self._known:
                logger.warning("an actor is lost for good: %s", _get(key))
            self._known = set(lost)
            for pool, size in actors.items():
                of_pool = [key for key in lost if key.split("/")[3] == pool]
                if len(of_pool) >= size:
                    raise WorkerError(_get(of_pool[0]) or f"pool {pool} has lost all of its actors")

    return Watcher


def forget(run: str) -> None:
    """Removes the run's notes, if the cluster is still there."""
    import ray
    from ray.experimental import internal_kv

    if ray.is_initialized():
        internal_kv._internal_kv_del(f"vrshq/{run}/".encode(), del_by_prefix=True)


def reason(error: BaseException) -> str:
    """Why Ray lost a call or an actor, on one line: the worker's own error if it raised, else that its process died."""
    import ray.exceptions

    if isinstance(error, WorkerError):
        return str(error)
    # Ray wraps errors of other processes in their printed traceback.
    named = re.findall(r"\bWorkerError: (pool .*)", str(error))
    if named:
        return str(named[-1])
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return "its worker process was killed for memory"
    other = re.findall(r"^\w*(?:Error|Exception): .*", str(error), re.MULTILINE)
    if other:
        return str(other[-1])
    if isinstance(error, ray.exceptions.ActorUnavailableError | ray.exceptions.ActorDiedError):
        return "its worker process died"
    return _one_line(error)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:1000]


def _get(key: str) -> str | None:
    from ray.experimental import internal_kv

    value = internal_kv._internal_kv_get(key.encode())
    return None if value is None else value.decode()


def _put(key: str, value: str) -> None:
    from ray.experimental import internal_kv

    internal_kv._internal_kv_put(key.encode(), value.encode(), overwrite=True)


def _list(prefix: str) -> list[str]:
    from ray.experimental import internal_kv

    return [key.decode() for key in internal_kv._internal_kv_list(prefix.encode())]

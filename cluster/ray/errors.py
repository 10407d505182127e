"""Errors of a run on Ray, and the reasons that Ray's own exceptions stand for."""

from __future__ import annotations

import re

from vrshq.errors import UserError

DIED = "its worker process died"
FOR_MEMORY = "its worker process was killed for memory"
REFUSED_TOKEN = (
    "refuses the token, which is missing or another one; set RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH to the file that "
    "holds the cluster's"
)


class NotEnoughResources(UserError, ValueError):  # noqa: N818 - reads as the sentence that it is
    """The pools need more than the cluster has or an autoscaler brings. The one-line message names the amounts."""


class RayFolderError(UserError, OSError):
    """Ray cannot lie in its folder. The one-line message names the folder, and what to do."""


class WorkerError(UserError, RuntimeError):
    """A worker cannot be started, or raised. The one-line message names its pool and the error."""


class ProcessUnusable(RuntimeError):  # noqa: N818 - reads as the sentence that it is
    """A worker raises this when its process cannot go on (a CUDA context in error). The actor's process is replaced."""


def reason(error: BaseException) -> str:
    """Why Ray lost a call or an actor, on one line: the worker's own error if it raised, else how its process ended."""
    import ray.exceptions

    if isinstance(error, WorkerError):
        return str(error)
    # Ray wraps an error of another process in its printed traceback.
    named = re.findall(r"\bWorkerError: (pool .*)", str(error))
    if named:
        return str(named[-1])
    if isinstance(error, ray.exceptions.OutOfMemoryError):
        return FOR_MEMORY
    other = re.findall(r"^\w*(?:Error|Exception): .*", str(error), re.MULTILINE)
    if other:
        return str(other[-1])
    if isinstance(error, ray.exceptions.ActorUnavailableError | ray.exceptions.ActorDiedError):
        return DIED
    return one_line(error)


def one_line(error: BaseException) -> str:
    """Type and message of an error on one line of at most 1000 characters."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:1000]

"""The connection to Ray: a quiet session, found or started."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vrshq.cluster.ray.errors import REFUSED_TOKEN, RayFolderError
from vrshq.cluster.ray.streams import held_stderr, open_closed_streams, silent_stderr

# Ray reads these when it is imported or when a worker starts, so they are set before. The user's own values win.
_ENVIRONMENT = {
    # No question on the first run, and no usage reports from a user's machine.
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray must not blank CUDA_VISIBLE_DEVICES for actors that ask for no GPU; it warns unless this is decided.
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    # Decoders start many threads. With a heap for each, freed memory of one cannot serve another (hundreds of MiB an actor).
    "MALLOC_ARENA_MAX": "1",
    # Ray Data would print the traceback of a lost statistics task when a run ends early.
    "RAY_IGNORE_UNHANDLED_ERRORS": "1",
}

_CONNECT_SECONDS = 10.0
# Bytes of the path of a Unix socket, and where Ray puts the longest one below its folder.
_SOCKET_BYTES = 107
_SOCKET = "session_2000-01-01_00-00-00_000000_{pid}/sockets/plasma_store"
# Where a local Ray lies when TMPDIR is too long for that.
_SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm")


@contextlib.contextmanager
def ray_session(
    address: str | None = None,
    *,
    num_cpus: int | None = None,
    num_gpus: int | None = None,
    object_store_memory: int | None = None,
    dashboard: bool = False,
    verbose: bool = False,
) -> Iterator[None]:
    """Connects to Ray for the time of a `with`. A local Ray that this starts is stopped at the end.

    The cluster is the first of these: the one that this process is already connected to (it stays connected), `address`,
    RAY_ADDRESS (which Ray sets inside a job), a new local one.

    Args:
        address: "host:port" of a cluster's head, or "auto" for one running on this machine.
        num_cpus: CPUs of a local Ray; default: those that it finds. Ignored for a cluster, which has its own size.
        num_gpus: GPUs of a local Ray, as `num_cpus`.
        object_store_memory: bytes of a local Ray's object store, as `num_cpus`.
        dashboard: whether a local Ray serves its dashboard (needs the extra `jobs`).
        verbose: lets Ray and the workers print to the terminal. Otherwise they write only to the log files of the
            Ray session.

    Raises:
        ConnectionError: no cluster answers at the address.
        RayFolderError: a local Ray cannot lie in the folder that RAY_TMPDIR or TMPDIR names.
    """
    open_closed_streams()
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield
        return
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    if "://" in address:
        raise ConnectionError(
            f"{address}: the program cannot run at the other end of a Ray client or a job server; "
            "give host:port of the head from a machine of the cluster, or send the command there with `vrshq submit`"
        )
    if address not in ("local", "auto"):
        _check_answers(address)
    options: dict[str, Any] = {"log_to_driver": verbose}
    if not verbose:
        options["logging_level"] = logging.ERROR
    if address == "local":
        options |= {"num_cpus": num_cpus, "num_gpus": num_gpus, "object_store_memory": object_store_memory}
        options |= {"include_dashboard": dashboard, "_temp_dir": str(_local_folder())}
    with contextlib.ExitStack() as stack:
        if not verbose:
            stack.enter_context(_quiet())
        _connect(address, options, verbose=verbose)
        stack.callback(ray.shutdown)
        yield


def is_connected() -> bool:
    """Whether this process is connected to Ray."""
    ray = sys.modules.get("ray")
    return ray is not None and bool(ray.is_initialized())


def _connect(address: str, options: dict[str, Any], *, verbose: bool) -> None:
    """`ray.init`, with its failures as errors of one line."""
    import ray

    # Refused, the C++ part of this process would repeat why on stderr, a line a second.
    with held_stderr() if address != "local" and not verbose else contextlib.nullcontext(str) as said:
        try:
            ray.init(address=address, **options)
        except ConnectionError as error:
            if "InvalidAuthToken" in said():
                raise ConnectionError(f"the Ray cluster at {address} {REFUSED_TOKEN}") from error
            raise ConnectionError(f"no Ray cluster answers at {address}: {' '.join(str(error).split())}") from error
        except OSError as error:
            raise RayFolderError(
                f"Ray cannot start in {options.get('_temp_dir')}: {error.strerror or error}"
            ) from error


@contextlib.contextmanager
def quiet_data() -> Iterator[None]:
    """Keeps Ray Data's messages off the terminal inside a `with`. Its log files still receive them."""
    import ray.data  # noqa: F401 - its import sets up the handlers that are silenced here

    data_logger = logging.getLogger("ray.data")
    propagates = data_logger.propagate
    consoles = [handler for handler in data_logger.handlers if handler.name == "console"]
    levels = [handler.level for handler in consoles]
    data_logger.propagate = False
    for handler in consoles:
        handler.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        data_logger.propagate = propagates
        for handler, level in zip(consoles, levels, strict=True):
            handler.setLevel(level)


def _local_folder() -> Path:
    """The folder of a local Ray: in RAY_TMPDIR, else in TMPDIR, else in /tmp. A TMPDIR that is too long is passed over."""
    most = _SOCKET_BYTES - len(_SOCKET.format(pid=os.getpid())) - len("/ray/")

    def fits(place: Path) -> bool:
        return len(os.fsencode(place)) <= most

    chosen = os.environ.get("RAY_TMPDIR")
    if chosen and not fits(Path(chosen).absolute()):
        raise RayFolderError(
            f"RAY_TMPDIR={chosen} is too long: Ray's sockets lie in there, and Linux allows {_SOCKET_BYTES} bytes for their "
            f"paths; give a folder of at most {most} bytes, such as RAY_TMPDIR=/tmp"
        )
    if chosen:
        return Path(chosen).absolute() / "ray"
    places = [Path(place).absolute() for place in (os.environ.get("TMPDIR"), *_SHORT_FOLDERS) if place]
    return next((place for place in places if fits(place) and os.access(place, os.W_OK)), places[-1]) / "ray"


def _check_answers(address: str) -> None:
    """Raises ConnectionError if nothing listens at host:port. Ray alone would try for minutes."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        raise ConnectionError(
            f"{address!r} is not the address of a Ray cluster; expected host:port of its head, or auto"
        )
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=_CONNECT_SECONDS).close()
    except OSError as error:
        raise ConnectionError(f"no Ray cluster answers at {address}: {error.strerror or error}") from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keeps Ray's messages off the terminal. The log files of the Ray session still receive them."""
    import ray._private.worker as ray_worker

    # Raylets announce each worker death on the driver's stdout; no option of ray.init turns that off. The engine reports
    # lost units itself.
    announce = ray_worker.print_to_stdstream
    connect = ray_worker.connect

    def quiet_connect(*args: Any, **kwargs: Any) -> Any:
        # The C++ part of this process reads its log level here. Its errors (most are only remarks) go to stderr, and so does
        # a line that it read a level. The processes of a local Ray have started before and keep their logs.
        with _environment("RAY_BACKEND_LOG_LEVEL", "fatal"), silent_stderr():
            return connect(*args, **kwargs)

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"ray\..*")
        ray_worker.print_to_stdstream = lambda *_, **__: None
        ray_worker.connect = quiet_connect
        try:
            yield
        finally:
            ray_worker.print_to_stdstream = announce
            ray_worker.connect = connect


@contextlib.contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    """Sets an environment variable for a moment, unless the user has set it."""
    given = name in os.environ
    os.environ.setdefault(name, value)
    try:
        yield
    finally:
        if not given:
            os.environ.pop(name, None)

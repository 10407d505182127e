"""Submits a command as a Ray job, prints its log and returns its exit code."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from vrshq.cluster.ray.errors import REFUSED_TOKEN

INTERRUPTED = 130
_POLL_SECONDS = 1.0
# A followed log may be cut off (a proxy's idle limit, a network change) while the job runs on.
_RECONNECT_SECONDS = 3.0
_RECONNECTS = 20


def submit(
    address: str, argv: Sequence[str], *, runtime_env: Mapping[str, Any] | None = None, follow: bool = True
) -> int:
    """Runs `argv` as a job on the cluster.

    Args:
        address: the cluster's job server, "http://host:8265". It takes precedence over RAY_ADDRESS.
        argv: the words of the command. No shell interprets them.
        runtime_env: Ray's runtime environment of the job (working_dir, pip, env_vars).
        follow: prints the job's log until it ends. Ctrl-C then asks whether to stop the job; without a terminal to ask
            on, the job is left running.

    Returns:
        the job's own exit code (128 + n if signal n ended it; 1 if it failed before it had one, or was stopped); 0 at
        once without `follow`; 130 after Ctrl-C.

    Raises:
        ConnectionError: no job server answers at the address, or it stops answering.
    """
    if not argv:
        raise ValueError("no command was given to submit")
    if not address.startswith(("http://", "https://")):
        raise ConnectionError(
            f"{address!r} is not the address of a job server; give the dashboard's, as in http://host:8265"
        )
    client = _client(address)
    try:
        job = client.submit_job(entrypoint=shlex.join(argv), runtime_env=dict(runtime_env or {}))
    except (RuntimeError, OSError) as error:
        raise ConnectionError(f"the job server at {address} refused the job: {_last_line(error)}") from error
    _say(f"submitted job {job} to {address}")
    if not follow:
        _say(_how_to(address, job))
        return 0
    try:
        _print_log(client, job, address)
        return _exit_code(client, job, address)
    except KeyboardInterrupt:
        if _asked_to_stop(job):
            client.stop_job(job)
            _say(f"stopping job {job}")
        else:
            _say(f"job {job} goes on; {_how_to(address, job)}")
        return INTERRUPTED


def _client(address: str) -> Any:
    from ray.exceptions import AuthenticationError

    try:
        from ray.job_submission import JobSubmissionClient

        # It would log the end of each followed log in its own format, between the lines of the job.
        for name in ("ray.dashboard", "ray.dashboard.modules.job.sdk"):
            logging.getLogger(name).setLevel(logging.WARNING)
        with _without_environment("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS"):
            return JobSubmissionClient(address)
    except ImportError as error:
        raise ConnectionError("submitting jobs needs more of Ray than is installed; pip install vrshq[jobs]") from error
    except ConnectionError as error:
        raise ConnectionError(
            f"no job server answers at {address}; is the cluster up, and is this its dashboard's address?"
        ) from error
    except AuthenticationError as error:
        raise ConnectionError(f"the job server at {address} {REFUSED_TOKEN}") from error
    except (RuntimeError, OSError, ValueError) as error:  # also an answer that is none of a job server
        if "ray[default]" in str(error):
            raise ConnectionError(
                "submitting jobs needs more of Ray than is installed; pip install vrshq[jobs]"
            ) from error
        raise ConnectionError(f"what answers at {address} is not a usable job server: {_last_line(error)}") from error


@contextlib.contextmanager
def _without_environment(*names: str) -> Iterator[None]:
    """Hides variables by which Ray would override an address that the user gave."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _print_log(client: Any, job: str, address: str) -> None:
    """Prints the job's log as it grows. Continues after a cut connection where it stopped."""
    printed = 0

    async def follow() -> None:
        nonlocal printed
        seen = 0
        async for chunk in client.tail_job_logs(job):
            # A new connection starts at the beginning of the log.
            new = chunk[max(0, printed - seen) :]
            seen += len(chunk)
            if new:
                print(new, end="", flush=True)
                printed = seen

    for _ in range(_RECONNECTS):
        try:
            asyncio.run(follow())
        except (RuntimeError, OSError) as error:
            why = _last_line(error)
        else:
            why = "its log ended"
        if _details(client, job, address).status.is_terminal():
            return
        _say(f"the log of job {job} was cut off ({why}); taking it up again")
        time.sleep(_RECONNECT_SECONDS)
    _say(f"the log of job {job} cannot be followed; waiting for its end")


def _exit_code(client: Any, job: str, address: str) -> int:
    """Waits for the end of the job. A failure without an exit code is explained on stderr."""
    while True:
        details = _details(client, job, address)
        if details.status.is_terminal():
            break
        time.sleep(_POLL_SECONDS)
    if str(details.status) == "SUCCEEDED":
        return 0
    code = details.driver_exit_code
    if code:
        return int(code) if code > 0 else 128 - int(code)
    _say(f"job {job} ended as {details.status}: {details.message or 'no reason was given'}")
    return 1


def _details(client: Any, job: str, address: str) -> Any:
    """The job's state. A server that does not answer is asked three times."""
    for last in (False, False, True):
        try:
            return client.get_job_info(job)
        except (OSError, RuntimeError) as error:
            if last:
                raise ConnectionError(f"the job server at {address} no longer answers: {_last_line(error)}") from error
            time.sleep(_RECONNECT_SECONDS)
    raise AssertionError("unreachable")


def _asked_to_stop(job: str) -> bool:
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return False
    try:
        print(f"\nStop job {job} (y), or leave it running (n)? [n] ", end="", file=sys.stderr, flush=True)
        return sys.stdin.readline().strip().lower() in ("y", "yes")
    except KeyboardInterrupt:
        return False


def _how_to(address: str, job: str) -> str:
    where = shlex.quote(address)
    return f"follow it: ray job logs --address {where} --follow {job}; stop it: ray job stop --address {where} {job}"


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _last_line(error: BaseException) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:500] if lines else type(error).__name__

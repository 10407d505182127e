"""`vrshq app`: a page on this machine to look through a run, to judge its answers, and to ask about videos.

open the run -> its catalogue, judgements and videos -> the addresses -> the guard around them -> serve until Ctrl-C.
"""

from __future__ import annotations

import importlib
import secrets
import signal
import socket
import sys
import tempfile
from collections.abc import Callable
from typing import TYPE_CHECKING

from vrshq.errors import UserError
from vrshq.pipelines.app.state import Options, State

if TYPE_CHECKING:
    from starlette.types import ASGIApp

PORT = 8765  # where no port is asked for, and this one is free
_PACKAGES = ("fastapi", "uvicorn")


class AppError(UserError):
    """The app cannot be started."""


def serve(options: Options, host: str, port: int | None, ready: Callable[[str], None]) -> None:
    """Serves the page until it is interrupted.

    Args:
        options: what is served.
        host: the address to listen on.
        port: the port; None: `PORT`, or any free one.
        ready: receives the address to open, with its token, when the page can be opened.

    Raises:
        AppError: a package of the extra `app` is missing, or the address cannot be listened on.
        UserError: the run cannot be opened.
    """
    check_packages()
    import uvicorn

    with tempfile.TemporaryDirectory(prefix="vrshq-app-") as scratch, _listening(host, port) as listener:
        # what SIGTERM ends closes its videos and its worker, too
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
        state = State(options, scratch)
        try:
            at = int(listener.getsockname()[1])
            token = secrets.token_urlsafe(24)
            config = uvicorn.Config(
                guarded(state, token, host, at), log_level="warning", access_log=False, server_header=False
            )
            shown = f"[{host}]" if ":" in host else host
            ready(f"http://{shown}:{at}/?token={token}")
            uvicorn.Server(config).run(sockets=[listener])
        finally:
            state.close()


def guarded(state: State, token: str, host: str, port: int) -> ASGIApp:
    """The app behind its guard."""
    from vrshq.pipelines.app.guard import Guard
    from vrshq.pipelines.app.routes import build

    return Guard(build(state), token=token, host=host, port=port)


def check_packages() -> None:
    """Raises AppError, in one line, where the extra `app` is not installed."""
    for name in _PACKAGES:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise AppError(f"vrshq app needs {name}, which is not installed; pip install 'vrshq[app]'") from error


def _listening(host: str, port: int | None) -> socket.socket:
    """A socket that listens on the address."""
    last: OSError | None = None
    for one in (PORT, 0) if port is None else (port,):
        try:
            return socket.create_server((host, one), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
        except OSError as error:
            last = error
    raise AppError(f"{host}:{port or PORT} cannot be listened on: {last}; give another --host or --port") from last

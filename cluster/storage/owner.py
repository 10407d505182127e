"""Who holds a lease: a command of a process on a machine, and whether that process still lives."""

from __future__ import annotations

import os
import secrets
import socket
from pathlib import Path
from typing import Any

Owner = dict[str, Any]  # JSON-able; the keys that `this_process` gives, and "beat"


def this_process(command: str) -> Owner:
    """The description of this process as an owner, with a random id of its own."""
    return {
        "id": secrets.token_hex(8),
        "command": command,
        "host": socket.gethostname(),
        "machine": machine(),
        "pid": os.getpid(),
        "started": started(os.getpid()),
    }


def named(owner: Owner) -> str:
    """The owner in a message."""
    return f"`vrshq {owner['command']}` (process {owner['pid']} on {owner['host']})"


def machine() -> str:
    """The booted kernel and the process namespace. Process ids are comparable exactly between processes that share both."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot}/{os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - it is no path
    except OSError:
        return socket.gethostname()


def started(pid: int) -> str | None:
    """The start time of a process in kernel ticks; None if it does not exist or is a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return None
        except PermissionError:
            pass
        return "unknown"
    return None if fields[0] == "Z" else fields[19]

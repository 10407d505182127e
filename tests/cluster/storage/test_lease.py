"""Promises of `vrshq.cluster.storage.lease`: one command at a time, and no waiting for the dead."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.lease import LOCK, InUseError, Lease

HOLDER = """
import sys, time
from vrshq.cluster.storage.lease import Lease
from vrshq.cluster.storage.folder import Folder
with Lease(Folder(sys.argv[1]), "label"):
    print("held", flush=True)
    time.sleep(600)
"""


def holder(place: str) -> subprocess.Popen[str]:
    """A process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, place], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_a_second_command_is_refused_while_the_first_lives_and_welcome_after(place: str) -> None:
    folder = Folder(place)
    with Lease(folder, "label"):
        with pytest.raises(InUseError) as caught, Lease(folder, "compact"):
            pass
        assert re.fullmatch(
            rf"{re.escape(folder.uri)} is in use by `vrshq label` \(process {os.getpid()} on \S+\); wait for its end .*",
            str(caught.value),
        )
    assert not folder.exists(LOCK)
    with Lease(folder, "compact"):
        assert folder.exists(LOCK)


def test_the_lock_of_a_killed_process_of_this_machine_is_taken_at_once(tmp_path: Path) -> None:
    process = holder(str(tmp_path))
    folder = Folder(str(tmp_path))
    with pytest.raises(InUseError, match=f"process {process.pid} "), Lease(folder, "label"):
        pass
    process.send_signal(signal.SIGKILL)
    process.wait()
    begin = time.monotonic()
    with Lease(folder, "label", beat_seconds=60):
        assert time.monotonic() - begin < 30


def elsewhere(folder: Folder) -> dict[str, object]:
    """Turns the lock there into that of another machine."""
    content = {**json.loads(folder.read_bytes(LOCK)), "machine": "another", "host": "elsewhere"}
    folder.write_bytes(LOCK, json.dumps(content).encode())
    return content


def test_a_heartbeat_of_another_machine_refuses_and_its_silence_admits(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    process = holder(str(tmp_path))
    process.kill()
    process.wait()
    content = elsewhere(folder)
    stop = threading.Event()

    def beat() -> None:
        number = 0
        while not stop.wait(0.2):
            number += 1
            folder.write_bytes(LOCK, json.dumps({**content, "beat": number}).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InUseError, match="on elsewhere"), Lease(folder, "label", beat_seconds=1):
            pass
    finally:
        stop.set()
        thread.join()
    with Lease(folder, "label", beat_seconds=0.3):
        pass


def test_the_heart_beats(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    with Lease(folder, "label", beat_seconds=0.1):
        beats = set()
        for _ in range(50):
            beats.add(json.loads(folder.read_bytes(LOCK))["beat"])
            time.sleep(0.05)
        assert len(beats) > 3


@pytest.mark.parametrize("content", [b"", b"[]", b"{half", b'{"id": 1}'])
def test_a_lock_that_nobody_wrote_locks_nobody_out(tmp_path: Path, content: bytes) -> None:
    Folder(str(tmp_path)).write_bytes(LOCK, content)
    with Lease(Folder(str(tmp_path)), "label"):
        pass

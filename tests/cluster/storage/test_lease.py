"""Promises of `vrshq.cluster.storage.lease`: one command at a time, and no waiting for the dead."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.faulty_proxy import FaultyProxy
from tests.support.paths import ROOT
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.lease import LOCKS, InUseError, Lease, LeaseLostError
from vrshq.cluster.storage.owner import this_process
from vrshq.errors import UserError

HOLDER = """
import sys, time
from vrshq.cluster.storage.lease import Lease
from vrshq.cluster.storage.folder import Folder
with Lease(Folder(sys.argv[1]), "label"):
    print("held", flush=True)
    time.sleep(600)
"""
FIRST = f"{LOCKS}/00000001"


def holder(place: str) -> subprocess.Popen[str]:
    """A process that holds the lease."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, place], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def lock_of(machine: str, beat: int = 0, **more: object) -> bytes:
    """The lock of a command on another machine."""
    return json.dumps({**this_process("label"), "machine": machine, "host": machine, "beat": beat, **more}).encode()


def lock_of_the_dead() -> bytes:
    """The lock of a process of this machine that has ended."""
    return json.dumps({**this_process("label"), "started": "long ago", "beat": 3}).encode()


def worked(lease: Lease, between: Callable[[], None] = lambda: None) -> None:
    """Works for two seconds, and checks the lease after each step."""
    for _ in range(100):
        between()
        time.sleep(0.02)
        lease.check()


@contextmanager
def s3_proxy(served: Path, *, conditional: bool, slow_s: float = 0.0) -> Iterator[FaultyProxy]:
    """An S3 server behind a proxy; `conditional`: whether it honours If-None-Match. Each request takes up to `slow_s`."""

    def script(*_: str) -> None:
        time.sleep(random.uniform(0, slow_s))

    with S3Server(served) as server:
        over = server.served if conditional else None
        with FaultyProxy(server.port, script=script, conditional_over=over) as proxy, server.reached(proxy.port):
            yield proxy


def test_a_second_command_is_refused_while_the_first_lives_and_welcome_after(place: str) -> None:
    folder = Folder(place)
    with Lease(folder, "label"):
        with pytest.raises(InUseError) as caught, Lease(folder, "compact"):
            pass
        assert re.fullmatch(
            rf"{re.escape(folder.uri)} is in use by `vrshq label` \(process {os.getpid()} on \S+\); wait for its end .*",
            str(caught.value),
        )
    begin = time.monotonic()
    with Lease(folder, "compact", beat_seconds=60):
        assert time.monotonic() - begin < 30
        assert len(folder.list(LOCKS)) == 1


@pytest.mark.parametrize("store", ["disk", "S3", "S3 without conditions"])
def test_of_two_commands_that_start_at_once_never_two_hold_the_lease_and_one_does(tmp_path: Path, store: str) -> None:
    rounds = {"disk": 20, "S3": 15, "S3 without conditions": 15}[store]
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    with ExitStack() as stack:
        uri, place = str(tmp_path / "run"), tmp_path / "run"
        if store != "disk":
            stack.enter_context(s3_proxy(tmp_path / "s3", conditional=store == "S3", slow_s=0.02))
            uri, place = f"s3://{S3_BUCKET}/run", tmp_path / "s3" / S3_BUCKET / "run"
        # rounds of a new run, of one that another command ended, of dead owners here and elsewhere
        for number in range(rounds):
            before = [b"", b'{"ended": true}', lock_of_the_dead()][number % 3] if number else lock_of("gone")
            if before:
                (place / str(number) / LOCKS).mkdir(parents=True)
                (place / str(number) / FIRST).write_bytes(before)
        command = [sys.executable, "-m", "tests.support.lease_race"]
        processes = [
            subprocess.Popen(
                [*command, str(number), str(rounds), str(meeting), uri], stdout=subprocess.PIPE, text=True, cwd=ROOT
            )
            for number in range(2)
        ]
        told = [[json.loads(line) for line in process.communicate()[0].splitlines()] for process in processes]
    assert [len(one) for one in told] == [rounds, rounds]
    assert not any(one["two"] for one in told[0] + told[1])
    assert all(one["held"] or other["held"] for one, other in zip(*told, strict=True))


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


def test_a_heartbeat_of_another_machine_refuses_and_its_silence_admits(tmp_path: Path) -> None:
    folder = Folder(str(tmp_path))
    stop, content = threading.Event(), this_process("label") | {"machine": "another", "host": "elsewhere"}
    folder.write_bytes(FIRST, json.dumps({**content, "beat": 0}).encode())

    def beat() -> None:
        number = 0
        while not stop.wait(0.2):
            number += 1
            folder.write_bytes(FIRST, json.dumps({**content, "beat": number}).encode())

    thread = threading.Thread(target=beat)
    thread.start()
    try:
        with pytest.raises(InUseError, match="on elsewhere"), Lease(folder, "label", beat_seconds=1):
            pass
    finally:
        stop.set()
        thread.join()
    with Lease(folder, "label", beat_seconds=0.1):
        pass


def test_the_heart_beats(place: str) -> None:
    folder = Folder(place)
    with Lease(folder, "label", beat_seconds=0.1):
        beats = set()
        for _ in range(50):
            with suppress(StorageNotFoundError):
                beats.add(json.loads(folder.read_bytes(folder.list(LOCKS)[0]))["beat"])
            time.sleep(0.05)
            if len(beats) > 3:
                break
        assert len(beats) > 3


@pytest.mark.parametrize("taken", ["next lock", "lock replaced", "lock removed"])
def test_an_owner_that_finds_anothers_lock_ends_with_a_line_that_names_it(tmp_path: Path, taken: str) -> None:
    folder = Folder(str(tmp_path))
    with Lease(folder, "label", beat_seconds=0.05) as lease:
        lease.check()

        def disturbed() -> None:
            mine = max(folder.list(LOCKS), default=FIRST)  # a late heartbeat, on a busy machine, makes the next one
            if taken == "lock removed":
                folder.remove(mine)
            else:
                folder.write_bytes(mine if taken == "lock replaced" else f"{LOCKS}/00000099", lock_of("elsewhere"))

        with pytest.raises(LeaseLostError) as caught:
            worked(lease, disturbed)
    who = (
        "another command"
        if taken == "lock removed"
        else r"`vrshq label` \(process \d+ on elsewhere\) has taken it over"
    )
    assert re.search(rf"^{re.escape(str(tmp_path))} is no longer held by this `vrshq label`: {who}", str(caught.value))
    assert "run the same line again" in str(caught.value)
    assert isinstance(caught.value, UserError)
    if taken != "lock removed":  # the end of the loser leaves the other's lock alone
        assert json.loads(folder.read_bytes(max(folder.list(LOCKS))))["host"] == "elsewhere"


def test_an_owner_whose_store_fails_for_three_heartbeats_has_lost_the_lease(tmp_path: Path) -> None:
    reason = r"could not be renewed for \d+ s, .* cannot list: .*; run the same line again"
    with (
        s3_proxy(tmp_path, conditional=True) as proxy,
        Lease(Folder(f"s3://{S3_BUCKET}/run", patience_s=0), "label", beat_seconds=0.5) as lease,
    ):
        proxy.script = lambda *_: "403"
        time.sleep(0.6)
        lease.check()  # one heartbeat is missing
        with pytest.raises(LeaseLostError, match=reason):
            worked(lease)
        proxy.script = None


def suspended(lease: Lease) -> None:
    """Sets a lease's last heartbeat back, as if the process had been stopped (Ctrl-Z) for long."""
    lease._renewed -= 1000


def test_an_owner_that_was_suspended_goes_on_only_if_nobody_came_in_between(place: str) -> None:
    folder = Folder(place)
    with Lease(folder, "label", beat_seconds=60) as lease:
        suspended(lease)
        lease.check()
        mine = folder.list(LOCKS)
        assert [name.partition(".")[0] for name in mine] == [f"{LOCKS}/00000002"]  # nobody else can take this one
        with pytest.raises(InUseError), Lease(folder, "compact"):
            pass
        suspended(lease)
        folder.write_bytes(f"{LOCKS}/00000003", b'{"ended": true}')
        with pytest.raises(LeaseLostError, match="another command took it over"):
            lease.check()


def test_a_lock_whose_answer_was_lost_is_ones_own(tmp_path: Path) -> None:
    with s3_proxy(tmp_path, conditional=True) as proxy:
        folder = Folder(f"s3://{S3_BUCKET}/run")
        proxy.spoil_next("cut_before_answer", 1, "PUT", FIRST)
        with Lease(folder, "label"):
            assert proxy.faults["cut_before_answer"] == 1
            assert folder.list(LOCKS) == [FIRST]


def test_a_disk_without_hard_links_is_told_from_one_that_creates_exclusively(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Folder(str(tmp_path))
    assert folder.creates_exclusively(LOCKS)

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refused)
    assert not folder.creates_exclusively(LOCKS)
    with Lease(folder, "label"), pytest.raises(InUseError), Lease(folder, "compact"):
        pass


@pytest.mark.parametrize("content", [b"", b"[]", b"{half", b'{"id": 1}'])
def test_a_lock_that_nobody_wrote_locks_nobody_out(tmp_path: Path, content: bytes) -> None:
    Folder(str(tmp_path)).write_bytes(FIRST, content)
    with Lease(Folder(str(tmp_path)), "label"):
        pass

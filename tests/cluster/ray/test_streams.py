"""Promises of `vrshq.cluster.ray.streams`: a stream that the caller closed leads nowhere, and harms nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from vrshq.cluster.ray.streams import open_closed_streams

SCRIPT = """
import os, sys
from vrshq.cluster.ray.streams import open_closed_streams, silent_stderr
open_closed_streams()
with open(sys.argv[1], "w") as file:
    print("out", flush=True)
    print("err", file=sys.stderr, flush=True)
    os.write(2, b"C++ says")
    with silent_stderr():
        os.write(2, b"quiet")
    file.write(f"{sys.stdin.read()}{file.fileno() > 2}")
"""


@pytest.mark.parametrize("closed", ["2>&-", "1>&-", "0<&-", "0<&- 1>&- 2>&-"])
def test_what_is_written_to_a_closed_stream_lands_in_no_file(closed: str, tmp_path: Path) -> None:
    command = f'"$0" -c "$1" "$2" {closed}'
    done = subprocess.run(
        ["sh", "-c", command, sys.executable, SCRIPT, str(tmp_path / "file")],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (tmp_path / "file").read_text() == "True"
    assert done.returncode == 0
    assert done.stdout == ("" if "1>&-" in closed else "out\n")
    assert done.stderr == ("" if "2>&-" in closed else "err\nC++ says")


def test_open_streams_stay_what_they_are() -> None:
    before = sys.stdin, sys.stdout, sys.stderr
    open_closed_streams()
    assert (sys.stdin, sys.stdout, sys.stderr) == before

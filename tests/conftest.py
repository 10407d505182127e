"""Hooks of the whole test run: the repository on the path, the parity table in the summary."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from typing import Any

import pytest

# Small networks do not gain from threads, and tests with several processes lose by them.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session", autouse=True)
def ray_environment() -> Iterator[None]:
    """Ray keeps to a folder of its own, and leaves no access token in the home folder.

    For all tests at once: a process reads its token once, so a second one would lock it out of the clusters it starts.
    """
    folder = tempfile.mkdtemp(prefix="vr-")  # short: Ray puts sockets in it, and their paths have a limit
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_AUTH_TOKEN", secrets.token_hex(16))
        patch.delenv("RAY_ADDRESS", raising=False)
        yield
    shutil.rmtree(folder, ignore_errors=True)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    parity = sys.modules.get("tests.support.parity")
    lines = parity.score_table() if parity else []
    if lines:
        terminalreporter.section("parity")
        for line in lines:
            terminalreporter.write_line(line)

"""Hooks of the whole test run: the repository on the path, the parity table in the summary."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

# Small networks do not gain from threads, and tests with several processes lose by them.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# `tests/operators` would otherwise be taken for the package `operators` when pytest puts `tests` on the path.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    parity = sys.modules.get("tests.parity")
    lines = parity.score_table() if parity else []
    if lines:
        terminalreporter.section("parity")
        for line in lines:
            terminalreporter.write_line(line)

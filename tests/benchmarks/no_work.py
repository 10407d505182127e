"""Workers for `bench_engine`. In a module of their own, because workers travel by reference."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence

import pyarrow as pa


class NoWork:
    """Answers each unit with its id."""

    def __call__(self, table: pa.Table) -> pa.Table:
        return table.select(["unit_id"])


class Kills:
    """Sleeps for each unit, and ends its process at some."""

    def __init__(self, deadly: Sequence[int], seconds: float) -> None:
        self.deadly, self.seconds = set(deadly), seconds

    def __call__(self, table: pa.Table) -> pa.Table:
        time.sleep(self.seconds)
        if table["number"][0].as_py() in self.deadly:
            os._exit(1)
        return table.select(["unit_id"])

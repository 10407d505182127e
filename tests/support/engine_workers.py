"""Workers of the engine's tests. They are in a module because Ray sends classes of importable modules by reference."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from vrshq.cluster.ray import guard
from vrshq.cluster.ray.errors import ProcessUnusable


class Step:
    """Appends its name to the `trail` of each row, and fails at given rows.

    Args:
        name: the text that is appended.
        deadly: numbers of the rows at which the process exits.
        wrong: numbers of the rows that raise TypeError.
        hangs: numbers of the rows at which it sleeps for ever.
        hangs_in_c: numbers of the rows at which it hangs in C code that holds the GIL.
        unusable_once: numbers of the rows that raise ProcessUnusable in the first attempt.
        asks_for: seconds of additional time that it asks for at each row.
        seconds: duration of a call.
        last_words: seconds that a call takes in addition at a row at which the process exits.
        log: file that gets a line for each event: "begin 3", "end 3", "dies 3".
    """

    def __init__(
        self,
        name: str,
        deadly: Sequence[int] = (),
        wrong: Sequence[int] = (),
        hangs: Sequence[int] = (),
        hangs_in_c: Sequence[int] = (),
        unusable_once: Sequence[int] = (),
        asks_for: float | None = None,
        seconds: float = 0.0,
        last_words: float = 0.0,
        log: str | None = None,
    ) -> None:
        self.name, self.seconds, self.asks_for, self.log_file = name, seconds, asks_for, log
        self.last_words = last_words
        self.deadly, self.wrong, self.unusable_once = set(deadly), set(wrong), set(unusable_once)
        self.hangs, self.hangs_in_c = set(hangs), set(hangs_in_c)

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        numbers = {row["number"] for row in rows}
        self.log("begin", numbers)
        if self.asks_for is not None:
            guard.allow(self.asks_for)
        time.sleep(self.seconds)
        if numbers & self.deadly:
            time.sleep(self.last_words)
            self.log("dies", numbers)
            os._exit(1)
        if numbers & self.wrong:
            raise TypeError("a bug\nin two lines")
        if numbers & self.unusable_once and rows[0]["attempt"] == 1:
            raise ProcessUnusable("CUDA error: device-side assert triggered")
        while numbers & self.hangs:
            time.sleep(0.1)
        if numbers & self.hangs_in_c:
            re.match(r"(a+)+$", "a" * 60 + "b")  # takes years and holds the GIL
        self.log("end", numbers)
        return pa.Table.from_pylist(
            [
                {
                    "unit_id": row["unit_id"],
                    "number": row["number"],
                    "attempt": row["attempt"],
                    "trail": row.get("trail", "") + self.name,
                    "rows": len(rows),
                    "pid": os.getpid(),
                    "visible_gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
                }
                for row in rows
            ]
        )

    def log(self, event: str, numbers: set[int]) -> None:
        if self.log_file:
            with Path(self.log_file).open("a") as file:
                file.write(f"{event} {' '.join(map(str, sorted(numbers)))}\n")


class CannotLoad:
    def __init__(self) -> None:
        raise FileNotFoundError("no weights at s3://bucket/weights")

    def __call__(self, table: pa.Table) -> pa.Table:
        return table


class DiesLoading:
    def __init__(self) -> None:
        os._exit(9)

    def __call__(self, table: pa.Table) -> pa.Table:
        return table


class LoadsOnce(Step):
    """Exits at given rows. The first instance leaves the file `mark`; later ones fail in `__init__`."""

    def __init__(self, name: str, deadly: Sequence[int], mark: str, seconds: float = 0.0) -> None:
        super().__init__(name, deadly, seconds=seconds)
        if Path(mark).exists():
            raise RuntimeError("the GPU has fallen off the bus")
        Path(mark).touch()


class Doubles:
    def __init__(self) -> None:
        self.number = 0

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.concat_tables([table, table])


class Greedy:
    """Takes 6 GB of memory in steps of 100 MB for the unit with the number 1."""

    def __call__(self, table: pa.Table) -> pa.Table:
        if table["number"][0].as_py() == 1:
            taken = []
            for _ in range(60):
                taken.append(bytearray(os.urandom(1 << 20)) * 100)
                time.sleep(0.05)
        return table.select(["unit_id"])


class BadOn(Step):
    """Fails on one machine: it cannot load there, or each unit breaks its process."""

    def __init__(self, name: str, node: str, loads: bool, seconds: float = 0.0) -> None:
        import ray

        super().__init__(name, seconds=seconds)
        self.bad = ray.get_runtime_context().get_node_id() == node
        if self.bad and not loads:
            raise RuntimeError("no CUDA driver")

    def __call__(self, table: pa.Table) -> pa.Table:
        if self.bad:
            raise ProcessUnusable("CUDA error: the GPU is lost")
        return super().__call__(table)


class NullOrText:
    """Answers with a column that has a text for even numbers and nothing for odd ones."""

    def __call__(self, table: pa.Table) -> pa.Table:
        (number,) = table["number"].to_pylist()
        return table.select(["unit_id", "number"]).append_column("note", pa.array([None if number % 2 else "even"]))

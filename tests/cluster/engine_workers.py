"""Workers of the engine's tests. In a module, because workers travel by reference."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa


class Step:
    """Appends `{name}` to each row's trail; ends its process, or raises, at given rows."""

    def __init__(
        self,
        name: str,
        deadly: Sequence[int] = (),
        wrong: Sequence[int] = (),
        seconds: float = 0.0,
        deaths: str | None = None,
    ) -> None:
        self.name, self.deadly, self.wrong, self.seconds, self.deaths = name, set(deadly), set(wrong), seconds, deaths

    def __call__(self, table: pa.Table) -> pa.Table:
        rows = table.to_pylist()
        numbers = {row["number"] for row in rows}
        if numbers & self.deadly:
            if self.deaths:
                with Path(self.deaths).open("a") as file:
                    file.write(f"{sorted(numbers)}\n")
            os._exit(1)
        if numbers & self.wrong:
            raise TypeError("a bug\nin two lines")
        time.sleep(self.seconds)
        return pa.Table.from_pylist(
            [
                {
                    "number": row["number"],
                    "trail": row.get("trail", "") + self.name,
                    "rows": len(rows),
                    "pid": os.getpid(),
                }
                for row in rows
            ]
        )


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
    """Cannot be loaded again after its process has died."""

    def __init__(self, name: str, deadly: Sequence[int], mark: str) -> None:
        super().__init__(name, deadly)
        if Path(mark).exists():
            raise RuntimeError("the GPU has fallen off the bus")
        Path(mark).touch()


class Doubles:
    def __init__(self) -> None:
        self.number = 0

    def __call__(self, table: pa.Table) -> pa.Table:
        return pa.concat_tables([table, table])

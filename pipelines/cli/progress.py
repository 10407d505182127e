"""One live progress display on a terminal, plain lines every 30 seconds elsewhere."""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from vrshq.pipelines.cli.terminal import console, say

PLAIN_EVERY_SECONDS = 30.0


class RunProgress:
    """Counts receipts, and shows units, frames per second, remaining time and errors between `start` and `stop`."""

    def __init__(self, total_units: int) -> None:
        self.total_units = total_units
        self.counts: Counter[str] = Counter()
        self.begin = time.monotonic()
        self._last_line = self.begin
        self._live: Progress | None = None
        if console.is_terminal:
            self._live = Progress(
                TextColumn("[bold]{task.description}"),
                BarColumn(),
                TaskProgressColumn(),
                MofNCompleteColumn(),
                TextColumn("units  {task.fields[rate]}"),
                TimeRemainingColumn(),
                console=console,
                transient=True,
            )
            self._task = self._live.add_task("label", total=total_units, rate="")

    def start(self) -> None:
        """Shows the display, on a terminal."""
        if self._live:
            self._live.start()

    def stop(self) -> None:
        """Removes the display."""
        if self._live:
            self._live.stop()

    @property
    def elapsed(self) -> float:
        """Seconds since the run began, at least a millisecond."""
        return max(1e-3, time.monotonic() - self.begin)

    def waits(self, reason: str) -> None:
        """Shows what the run waits for, in place of its name; "" when it goes on."""
        if self._live:
            self._live.update(self._task, description=reason or "label")
        elif reason:
            say(reason)

    def works(self, masks: int, seconds: float) -> None:
        """Shows how fast masks are made while a unit is worked on, on a terminal."""
        if self._live:
            self._live.update(self._task, rate=f"{masks} masks, {masks / max(seconds, 1e-3):.1f} masks/s")

    def add(self, receipt: dict[str, Any]) -> None:
        """Counts one unit's receipt and refreshes the display."""
        self.counts["units"] += 1
        for name in ("frames", "errors"):
            self.counts[name] += receipt[name]
        if self._live:
            self._live.update(self._task, completed=self.counts["units"], rate=self._rate())
        elif time.monotonic() - self._last_line >= PLAIN_EVERY_SECONDS:
            self._last_line = time.monotonic()
            left = (self.total_units - self.counts["units"]) * self.elapsed / self.counts["units"]
            say(f"{self.counts['units']}/{self.total_units} units, {self._rate()}, about {left:.0f} s left")

    def _rate(self) -> str:
        return f"{self.counts['frames'] / self.elapsed:.1f} frames/s, {self.counts['errors']} errors"

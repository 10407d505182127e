"""Tells the app's page how far a question is."""

from __future__ import annotations

import threading
import time
from multiprocessing.connection import Connection
from typing import Any

from vrshq.pipelines.label.planning.plan import Plan
from vrshq.pipelines.label.watcher import Watcher


class Telling(Watcher):
    """Sends what the labelling does now, in words, to the app's process."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe, self._one = pipe, threading.Lock()  # two threads tell
        self._begin = time.monotonic()
        self._units = self._done = 0

    def waits(self, reason: str) -> None:
        """Tells what the run waits for; nothing more means that it labels."""
        self._begin = time.monotonic()
        self._send({"doing": reason or "labelling"})

    def planned(self, plan: Plan) -> None:
        """Counts the units."""
        self._units = plan.todo.num_rows

    def works(self, masks: int, seconds: float) -> None:
        """Tells how fast masks are made, once there are some."""
        if masks:
            self._send({"doing": f"{masks} masks, {masks / max(1e-3, seconds):.1f} masks/s"})

    def unit_finished(self, receipt: dict[str, Any]) -> None:
        """Tells the speed of what is finished."""
        self._done += 1
        rate = receipt["frames"] / max(1e-3, time.monotonic() - self._begin)
        self._begin = time.monotonic()
        done = f"{receipt['frames']} frames at {rate:.1f} frames/s"
        more = f", unit {self._done} of {self._units}" if self._units > 1 else ""
        self._send({"doing": f"{done}{more}; drawing the overlay" if self._done >= self._units else f"{done}{more}"})

    def _send(self, event: dict[str, Any]) -> None:
        with self._one:
            self._pipe.send(event)

"""The metrics of a run for Prometheus. Ray exports them with `ray_` before each name.

The driver counts receipts, so a unit counts once however often it was tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

# Name -> description; `cluster/deploy/grafana-dashboard.json` draws them.
METRICS: dict[str, str] = {
    "vrshq_units_total_done": "units finished",
    "vrshq_units_done": "instructions finished, by status: ok, empty, error",
    "vrshq_frames": "frames of finished units",
    "vrshq_errors": "failures, by error type",
    "vrshq_retries": "attempts beyond a unit's first",
    "vrshq_queue_depth": "units that are not finished",
    "vrshq_unit_seconds": "seconds that actors spent on a unit",
    "vrshq_stage_seconds": "seconds spent in each stage",
}
_SECONDS = [0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600, 1800, 3600]


class RunMetrics:
    """The metrics of one command. Without a connection to Ray nothing is exported.

    Args:
        waiting: units that are not finished.
    """

    def __init__(self, waiting: int) -> None:
        from ray.util import metrics

        def counter(name: str, *tags: str) -> metrics.Counter:
            return metrics.Counter(name, METRICS[name], tag_keys=tags)

        self._units = counter("vrshq_units_total_done")
        self._instructions = counter("vrshq_units_done", "status")
        self._frames = counter("vrshq_frames")
        self._errors = counter("vrshq_errors", "error_type")
        self._retries = counter("vrshq_retries")
        self._stage_seconds = counter("vrshq_stage_seconds", "stage")
        self._queue = metrics.Gauge("vrshq_queue_depth", METRICS["vrshq_queue_depth"])
        self._unit_seconds = metrics.Histogram("vrshq_unit_seconds", METRICS["vrshq_unit_seconds"], boundaries=_SECONDS)
        self._waiting = waiting
        self._queue.set(waiting)

    def unit(
        self,
        *,
        statuses: Mapping[str, int],
        frames: int,
        error_types: Iterable[str],
        attempt: int,
        seconds: float,
        stage_seconds: Mapping[str, float | None],
    ) -> None:
        """Counts one finished unit: its instructions by status, frames, errors, retries and seconds."""
        self._units.inc()
        for status, number in statuses.items():
            if number:
                self._instructions.inc(number, tags={"status": status})
        if frames:
            self._frames.inc(frames)
        for error_type in error_types:
            self._errors.inc(tags={"error_type": error_type})
        if attempt > 1:
            self._retries.inc(attempt - 1)
        for stage, spent in stage_seconds.items():
            if spent:
                self._stage_seconds.inc(spent, tags={"stage": stage})
        self._unit_seconds.observe(seconds)
        self._waiting -= 1
        self._queue.set(self._waiting)

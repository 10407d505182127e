"""The counts of one labelling command."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from vrshq.pipelines.label.tables.outcome import Outcome

# Numeric columns of a receipt that are summed over units.
COUNTED = ("frames", "ok", "empty", "errors", "masks", "bytes", "decode_passes", "encoder_calls")


@dataclass
class RunSummary:
    """The counts of one labelling command, over the units that it finished.

    Attributes:
        units: units of the run.
        already_finished: units that were finished before this command.
        elapsed: wall time of the work, in seconds.
        workers: number of actors in all pools; 1 without Ray.
        device: torch's name of the device of the networks.
        pools: the operators of each pool.
        counts: units, retries (attempts beyond a unit's first), frames, ok, empty, errors and masks (rows), bytes
            (written), decode_passes, encoder_calls (frames through SAM2's image encoder).
        busy: seconds that actors spent on units, summed over actors.
        error_types: number of failed instructions by error type.
        error_example: message of the first failure.
        seconds: seconds by stage, summed over actors.
        incomplete: units that are still not finished.
        stopped: the reason why the run was stopped early, or None.
        failed_units: units of this command with an error.
        outcome: what the run holds at this command's end; None while it works.
    """

    units: int
    already_finished: int
    elapsed: float = 0.0
    workers: int = 0
    device: str = "cpu"
    pools: list[list[str]] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)
    busy: float = 0.0
    error_types: Counter[str] = field(default_factory=Counter)
    error_example: str | None = None
    seconds: Counter[str] = field(default_factory=Counter)
    incomplete: int = 0
    stopped: str | None = None
    failed_units: int = 0
    outcome: Outcome | None = None

    def answered(self) -> int:
        """Number of instructions that this command brought to an end, with an answer or an error."""
        return sum(self.counts[status] for status in ("ok", "empty", "errors"))

    def error_rate(self) -> float:
        """Share of the run's finished instructions that ended in an error, 0 to 1; of this command's while it works."""
        if self.outcome is not None:
            return self.outcome.error_rate()
        return self.counts["errors"] / self.answered() if self.answered() else 0.0

    def idle_share(self) -> float:
        """Share of the workers' time without a unit (start-up, loading of weights, waiting), 0 to 1."""
        return max(0.0, 1 - self.busy / (self.elapsed * self.workers)) if self.elapsed and self.workers else 0.0

    def add(self, receipt: dict[str, Any]) -> None:
        """Counts one finished unit, given its row of `vrshq.pipelines.label.work.wire.RECEIPT`."""
        self.counts["units"] += 1
        self.counts["retries"] += receipt["attempt"] - 1
        self.failed_units += receipt["errors"] > 0
        for name in COUNTED:
            self.counts[name] += receipt[name]
        self.busy += receipt["busy"]
        self.error_types.update(receipt["error_types"])
        self.error_example = self.error_example or receipt["error_example"]
        self.seconds.update({stage: value for stage, value in receipt["seconds"].items() if value})

    def include(self, pieces: RunSummary) -> None:
        """Counts the work on the pieces of this run's units. Their frames and answers are counted where they are joined."""
        for name in ("decode_passes", "encoder_calls"):
            self.counts[name] += pieces.counts[name]
        self.busy += pieces.busy
        self.elapsed = pieces.elapsed
        self.stopped = pieces.stopped

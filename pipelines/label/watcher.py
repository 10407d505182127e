"""What a caller of `label` may follow while it works."""

from __future__ import annotations

from typing import Any

from vrshq.pipelines.label.planning.plan import Plan
from vrshq.pipelines.label.tables.summary import RunSummary


class Watcher:
    """Receives the events of a labelling run. This base class ignores them all; override the ones of interest.

    Attributes:
        shows_plan: whether somebody reads the plan. Its estimate then costs the headers of some videos.
    """

    shows_plan = False

    def waits(self, reason: str) -> None:
        """The run waits for `reason`, such as "starting Ray", before units can begin. Another thread may call this."""

    def planned(self, plan: Plan) -> None:
        """The plan is final; work starts next."""

    def works(self, masks: int, seconds: float) -> None:
        """So many masks were made since the work began, in the for-loop of this process. Another thread calls this."""

    def unit_finished(self, receipt: dict[str, Any]) -> None:
        """A unit's tables are written. `receipt` is a row of `vrshq.pipelines.label.work.wire.RECEIPT`."""

    def finished(self, summary: RunSummary) -> None:
        """All work of this command has ended, or was stopped early."""

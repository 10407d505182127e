"""How a labelling run treats failing instructions: retries of an earlier run's errors, and the early stop."""

from __future__ import annotations

import math
from dataclasses import dataclass

from vrshq.pipelines.label.tables.summary import RunSummary

# The early stop needs this many instructions, failures of this many units, because one damaged video fails all of its
# instructions, and this certainty: one-sided 99.95 %, as a normal quantile.
_LEAST_INSTRUCTIONS = 16
_LEAST_UNITS = 3
_QUANTILE = 3.29


@dataclass(frozen=True)
class ErrorPolicy:
    """How a run treats failing instructions.

    Attributes:
        max_rate: share of failing instructions above which the run is stopped early, 0 to 1; 1 never stops it.
        retry: runs the units with error rows of earlier commands again.
    """

    max_rate: float = 1.0
    retry: bool = False

    def reason_to_stop(self, summary: RunSummary) -> str | None:
        """The reason to stop, once it is practically certain that the share of errors will exceed `max_rate`.

        Compares `max_rate` with the lower bound of Wilson's score interval for the share of errors so far.
        """
        errors, total = summary.counts["errors"], summary.answered()
        if total < _LEAST_INSTRUCTIONS or summary.failed_units < _LEAST_UNITS or self.max_rate >= 1:
            return None
        share, spread = errors / total, _QUANTILE**2 / total
        margin = _QUANTILE * math.sqrt(share * (1 - share) / total + spread / (4 * total))
        if (share + spread / 2 - margin) / (1 + spread) <= self.max_rate:
            return None
        error_type, number = summary.error_types.most_common(1)[0]
        return (
            f"{errors} of the first {total} instructions failed, more than --max-error-rate {self.max_rate:g} allows; "
            f"{number} x {error_type}, the first error: {summary.error_example}"
        )

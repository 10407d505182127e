"""Expressions without an answer that can be scored: how many, and why."""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

from vrshq.pipelines.evaluate.scores import OK
from vrshq.pipelines.label.tables.outcome import Failures, commonest

_NO_TRUTH = "no-truth"
_REASONS = {
    "missing-video": "nothing is predicted for this video",
    "missing-expression": "nothing is predicted for this expression",
    "missing-frames": "masks are missing on some frames",
    "wrong-size": "masks have another size than the truth",
    "scoring-failed": "the scoring failed",
    _NO_TRUTH: "the data set has no masks to score against",
}


@dataclass(frozen=True)
class Unanswered:
    """Expressions without an answer that can be scored.

    Attributes:
        count: number of these expressions; those without ground truth do not count.
        expressions: number of all expressions.
        scored: number of expressions with a score from an answer.
        commonest: the commonest reasons, at most three.
    """

    count: int
    expressions: int
    scored: int
    commonest: tuple[Failures, ...]

    def rate(self) -> float:
        """Share of the expressions that have no answer, 0 to 1."""
        return self.count / self.expressions if self.expressions else 0.0

    def line(self) -> str:
        """One line with the count and the commonest reason."""
        reason = f"; the commonest: {self.commonest[0].line()}" if self.commonest else ""
        return f"{self.count} of {self.expressions} expressions have no answer that can be scored{reason}"


def unanswered(table: pa.Table) -> Unanswered:
    """Counts the rows of `SCORES` without an answer."""
    columns = ["status", "detail", "video_id", "expression_id"]
    rows = table.select(columns).to_pylist()
    without = [row for row in rows if row["status"] != OK]
    # an expression without truth is the data set's fault, which is told if nothing else went wrong
    missing = [row for row in without if row["status"] != _NO_TRUTH]
    failures = (
        (row["status"], row["detail"] or _REASONS[row["status"]], row["video_id"], row["expression_id"])
        for row in missing or without
    )
    return Unanswered(len(missing), len(rows), len(rows) - len(without), commonest(failures))

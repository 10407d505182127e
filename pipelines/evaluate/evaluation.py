"""The result of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vrshq.pipelines.evaluate.unanswered import Unanswered
from vrshq.pipelines.label.tables.summary import RunSummary


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        labelled: summary of the labelling; None: existing predictions were scored.
        scores: the content of `scores.json`; None: the split has no ground truth, the labelling is incomplete, or no
            expression has an answer that can be scored.
        written: uris of the written files.
        note: the reason if there are no scores.
        unanswered: the expressions without an answer; None: nothing was compared with the truth.
    """

    labelled: RunSummary | None
    scores: dict[str, Any] | None
    written: list[str]
    note: str | None = None
    unanswered: Unanswered | None = None

    def error_rate(self) -> float:
        """Share of the expressions without an answer, 0 to 1."""
        if self.unanswered is not None:
            return self.unanswered.rate()
        return self.labelled.error_rate() if self.labelled is not None else 0.0

    def from_nothing(self) -> bool:
        """Whether there was truth to compare with, and no answer."""
        return self.unanswered is not None and not self.unanswered.scored

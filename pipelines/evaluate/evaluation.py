"""The result of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vrshq.pipelines.label.summary import RunSummary


@dataclass(frozen=True)
class Evaluation:
    """The result of an evaluation.

    Attributes:
        labelled: summary of the labelling; None: existing predictions were scored.
        scores: the content of `scores.json`; None: the split has no ground truth, or the labelling is incomplete.
        written: uris of the written files.
        note: the reason if there are no scores.
    """

    labelled: RunSummary | None
    scores: dict[str, Any] | None
    written: list[str]
    note: str | None = None

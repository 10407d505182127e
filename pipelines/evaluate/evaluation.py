"""The result of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from vrshq.pipelines.label.summary import RunSummary


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation did.

    Attributes:
        labelled: counts of the labelling, where a model answered.
        scores: the content of `scores.json`; None where the split has no ground truth, or labelling is incomplete.
        written: uris of the files.
        note: why there are no scores.
    """

    labelled: RunSummary | None
    scores: dict[str, Any] | None
    written: list[str]
    note: str | None = None

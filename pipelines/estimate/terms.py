"""The cost of a unit as a sum of four terms."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import astuple, dataclass


@dataclass(frozen=True)
class Terms:
    """Seconds of a unit: unit + frame * T + instruction * E + frame_instruction * T * E, for T frames and E instructions."""

    unit: float = 0.0
    frame: float = 0.0
    instruction: float = 0.0
    frame_instruction: float = 0.0

    def seconds(self, frames: float, instructions: float, pairs: float | None = None) -> float:
        """The sum. `pairs` is T * E, where the average of products is known and differs from the product of averages."""
        pairs = frames * instructions if pairs is None else pairs
        return self.unit + self.frame * frames + self.instruction * instructions + self.frame_instruction * pairs

    def times(self, factor: float) -> Terms:
        """The cost that is so many times as high."""
        return Terms(*(factor * term for term in astuple(self)))

    @staticmethod
    def total(terms: Iterable[Terms]) -> Terms:
        """The sum of several."""
        return Terms(*(sum(column) for column in zip(*map(astuple, terms), strict=True)))

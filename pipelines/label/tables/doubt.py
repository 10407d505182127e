"""Which answers to look at first: the signal that tells a bad mask without ground truth, and the order that it gives."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:  # the command line reads `Sort` at its start
    import pyarrow as pa

# Orders of answers: by id, or the doubtful ones first.
Sort = Literal["id", "least-trusted"]
# Of the columns of `tracks/` that tell bad masks best, the one that every family has; docs/results.md compares them.
SIGNAL = "area_jump"
# Columns of which a low value is the doubtful one; of the others it is a high one.
LOW = ("presence", "lowest_score")


def least_trusted(tracks: pa.Table) -> list[int]:
    """The row numbers of `tracks/`, the least trusted answer first.

    An answer without the signal comes before all that have it. A failed instruction has no answer to look at, and comes last.
    Equal ones keep their order.
    """
    rows = tracks.select(["status", SIGNAL]).to_pylist()
    return sorted(range(len(rows)), key=lambda place: _rank(rows[place]))


def _rank(row: dict[str, Any]) -> tuple[bool, bool, float]:
    value = row[SIGNAL]
    return row["status"] == "error", value is not None, 0.0 if value is None else value if SIGNAL in LOW else -value

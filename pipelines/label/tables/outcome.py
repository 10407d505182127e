"""What a run holds after all its commands: its finished and failed instructions, and the commonest failures."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.tables.schema import ERRORS

_KINDS = 3  # commonest failures that are told
_ITEMS = 3  # items that are named of each
_COLUMNS = ["error_type", "message", "video_id", "instruction_id"]


@dataclass(frozen=True)
class Failures:
    """Failures of one kind: messages that differ only in paths, ids and numbers.

    Attributes:
        count: number of instructions that failed so.
        error_type: type of the error.
        message: message of the first.
        items: the first few as "video, instruction".
    """

    count: int
    error_type: str
    message: str
    items: tuple[str, ...]

    def line(self) -> str:
        """One line with the count, the message and the items."""
        more = self.count - len(self.items)
        items = "; ".join([*self.items, *([f"and {more} more"] if more else [])])
        return f"{self.count} x {self.error_type}: {self.message} ({items})"


@dataclass(frozen=True)
class Outcome:
    """What a run holds, whichever of its commands did the work.

    Attributes:
        instructions: of the run.
        finished: instructions that ended, with an answer or an error.
        errors: instructions that ended in an error.
        commonest: the commonest failures, at most three.
    """

    instructions: int
    finished: int
    errors: int
    commonest: tuple[Failures, ...] = ()

    def error_rate(self) -> float:
        """Share of the finished instructions that ended in an error, 0 to 1."""
        return self.errors / self.finished if self.finished else 0.0


def read_outcome(run: RunDirectory, manifest: pa.Table, finished: set[str]) -> Outcome:
    """What a run holds. Lists `errors/`, and opens its parts of finished units and no other.

    Args:
        run: the run directory.
        manifest: its units.
        finished: ids of the manifest's finished units.
    """
    lengths = pc.list_value_length(manifest["instruction_ids"])
    ended = lengths.filter(pc.is_in(manifest["unit_id"], pa.array(finished, pa.string())))
    errors = run.reader("errors", ERRORS)
    rows = errors.read(errors.units() & finished, _COLUMNS).to_pylist()
    failures = ((row["error_type"], row["message"], row["video_id"], row["instruction_id"]) for row in rows)
    return Outcome(pc.sum(lengths).as_py() or 0, pc.sum(ended).as_py() or 0, len(rows), commonest(failures))


def commonest(failures: Iterable[tuple[str, str, str, str]]) -> tuple[Failures, ...]:
    """The commonest kinds of failures, at most three.

    Args:
        failures: error type, message, video and instruction of each failed instruction.
    """
    kinds: dict[tuple[str, str], list[tuple[str, str, str, str]]] = {}
    for one in failures:
        error_type, message, video, _ = one
        # paths first, because an id may be a part of one
        plain = re.sub(r"\d+", "#", re.sub(r"\S*/\S*", "/", message).replace(video, "/"))
        kinds.setdefault((error_type, plain), []).append(one)
    most = sorted(kinds.values(), key=len, reverse=True)[:_KINDS]
    return tuple(
        Failures(len(kind), *kind[0][:2], tuple(f"{video}, {instruction}" for *_, video, instruction in kind[:_ITEMS]))
        for kind in most
    )

"""Very long videos in pieces: each piece is a unit of a run of its own, and the answers are joined to one for the video.

    state/pieces.json   the number of frames that the header of each unit's video states; decided once. Written first and
                        removed first: pieces without it are the rest of a removal
    state/pieces/       the run directory of the pieces; the piece number 3 of a unit has the video_id UNIT-000003

The pieces are labelled before the run's own units. A unit with pieces is then one like any other, whose work is to join them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.method import Split
from vrshq.pipelines.label.planning.lengths import lengths_of
from vrshq.pipelines.label.planning.plan import Plan
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.watcher import Watcher
from vrshq.pipelines.label.work.joining import PIECES

logger = logging.getLogger(__name__)

_LENGTHS = "state/pieces.json"
_ROWS = pa.schema(
    [
        *((name, pa.string()) for name in ("video_id", "video_uri", "instruction_id", "text")),
        ("start", pa.int32()),
        ("end", pa.int32()),
    ]
)


@dataclass(frozen=True)
class Pieces:
    """The pieces of a run's long units, as a labelling run.

    Attributes:
        table: its instructions.
        output: uri of its run directory.
        settings: those of the run, without the division.
        units: number of units that are cut.
    """

    table: pa.Table
    output: str
    settings: Settings
    units: int

    def watcher(self, outer: Watcher, check: Callable[[], None]) -> Watcher:
        """A watcher that says how many pieces are labelled, as what the run waits for, and calls `check` after each."""
        return _Counting(outer, f"{self.units} long {'video' if self.units == 1 else 'videos'}", check)


class _Counting(Watcher):
    def __init__(self, outer: Watcher, of_what: str, check: Callable[[], None]) -> None:
        self._outer, self._of_what, self._check = outer, of_what, check
        self._done = self._all = 0

    def waits(self, reason: str) -> None:
        self._outer.waits(reason)

    def planned(self, plan: Plan) -> None:
        self._all, self._done = plan.manifest.num_rows, len(plan.finished)

    def works(self, masks: int, seconds: float) -> None:
        self._outer.works(masks, seconds)

    def unit_finished(self, receipt: dict[str, Any]) -> None:  # noqa: ARG002
        self._done += 1
        self._outer.waits(f"{self._done} of {self._all} pieces of {self._of_what}")
        self._check()


def pieces_of(plan: Plan, watcher: Watcher) -> Pieces | None:
    """The pieces of a run's long units; None where no unfinished unit has any. Reads each new video's header once.

    Call it with the run's lease: the lengths are written to the run directory, so that a later command cuts in the same way.
    """
    settings = plan.settings
    if settings.split.frames is None:
        return None
    try:
        known: dict[str, int | None] = plan.run.read_json(_LENGTHS)
    except StorageNotFoundError:
        known = {}
        plan.run.folder.remove_all(plan.run.folder.list(PIECES))
    todo = set(plan.todo["unit_id"].to_pylist())
    units = plan.manifest.select(["unit_id", "video_uri", "start", "end"]).to_pylist()
    units = [unit for unit in units if unit["unit_id"] in todo or unit["unit_id"] in known]
    if new := [unit for unit in units if unit["unit_id"] not in known]:
        uris = list(dict.fromkeys(unit["video_uri"] for unit in new))
        watcher.waits(f"reading the lengths of {len(uris)} videos")
        stated = lengths_of(uris)
        if len(stated) < len(uris):
            logger.warning(
                "%d of %d videos have no readable length and are not cut", len(uris) - len(stated), len(uris)
            )
        known |= {unit["unit_id"]: stated.get(unit["video_uri"]) for unit in new}
        plan.run.write_json(_LENGTHS, known)
    spans = {
        unit["unit_id"]: spans_of(unit, known[unit["unit_id"]], settings.decode.every, settings.split) for unit in units
    }
    cut = [unit for unit, pieces in spans.items() if pieces]
    if todo.isdisjoint(cut):
        return None
    of_cut = plan.manifest.filter(pc.is_in(plan.manifest["unit_id"], pa.array(cut, pa.string()))).to_pylist()
    rows = [row for unit in of_cut for row in _rows_of(unit, spans[unit["unit_id"]])]
    resources = settings.resources.model_copy(update={"compact": False})
    whole = settings.model_copy(update={"split": Split(), "resources": resources})
    return Pieces(pa.Table.from_pylist(rows, schema=_ROWS), plan.run.folder.uri_of(PIECES), whole, len(cut))


def forget_pieces(run: RunDirectory) -> None:
    """Makes the pieces of a complete run ones that no command goes on from, before their files are removed."""
    run.folder.remove(_LENGTHS)


def spans_of(unit: dict[str, Any], whole: int | None, every: int, split: Split) -> list[tuple[int, int | None]]:
    """Start and end of each piece of a unit, in frames of its video; empty where it is not cut.

    Args:
        unit: a row of the manifest.
        whole: number of frames of its video; None: unknown.
        every: distance of labelled frames.
        split: how it is cut. Pieces have lengths that differ by a frame at most, without what they share with the next one.
    """
    begin, end = unit["start"] or 0, unit["end"]
    numbers = range(begin, (whole or 0) if end is None else min(end, whole or 0), every)
    count = round(len(numbers) / split.frames) if split.frames else 0
    if count < 2:
        return []
    starts = [numbers[len(numbers) * place // count] for place in range(count)]
    ends = [after + split.overlap * every for after in starts[1:]]
    return [*zip(starts, [last if end is None else min(last, end) for last in ends], strict=False), (starts[-1], end)]


def _rows_of(unit: dict[str, Any], spans: Iterable[tuple[int, int | None]]) -> list[dict[str, Any]]:
    asked = list(zip(unit["instruction_ids"], unit["texts"], strict=True))
    return [
        {
            "video_id": f"{unit['unit_id']}-{number:06}",
            "video_uri": unit["video_uri"],
            "instruction_id": instruction,
            "text": text,
            "start": start,
            "end": end,
        }
        for number, (start, end) in enumerate(spans)
        for instruction, text in asked
    ]

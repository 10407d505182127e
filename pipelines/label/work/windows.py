"""Long units: their masks are stored window by window in the run directory, beside what another attempt goes on from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.cluster.storage.windows import Windows
from vrshq.operators.batch import Unit, new_batch
from vrshq.operators.masks.object_masks import ObjectMasks
from vrshq.operators.masks.rle import EncodedMask
from vrshq.operators.masks.windows import Answers
from vrshq.pipelines.label.tables.rows import window_rows
from vrshq.pipelines.label.work.wire import WIRE, from_wire, to_wire

# The columns of a unit that are made before its masks are tracked.
_MADE = (
    "errors",
    "seconds",
    "clip_probs",
    "sampled_frames",
    "notes",
    "seg",
    "tak",
    "d",
    "answers",
    "similarities",
    "prompts",
    "object_scores",
    "keyframes",
    "presence",
)


class StoredWindows:
    """The `WindowStore` of one unit of a run.

    Args:
        run: the run directory.
        unit: the unit, its video open.
        length: frames of a window, unless an earlier attempt has cut the unit already.
        reached: called on the unit's thread whenever a border is reached.
        wrote: called with words whenever something was written.
    """

    def __init__(
        self,
        run: RunDirectory,
        unit: Unit,
        length: int,
        *,
        reached: Callable[[], None],
        wrote: Callable[[str], None],
    ) -> None:
        self.files = Windows(run.folder, unit["unit_id"])
        self._unit, self._wrote = unit, wrote
        self.reached = reached
        self._begun = (known := self.files.cut()) is not None
        self.length: int
        self.count: int
        self.length, self.count = known or (length, -(-unit["num_frames"] // length))
        self.written = 0  # bytes

    def read(self, number: int) -> Answers | None:
        """As `WindowStore.read`."""
        table = self.files.read(number)
        return None if table is None else self._answers(table, number)

    def write(self, number: int, answers: Answers) -> None:
        """As `WindowStore.write`."""
        self._begin()
        self.written += self.files.write(number, window_rows(self._unit, self._frames(number), answers))
        self._wrote(f"window {number} of {self.count}")

    def save(self, name: str, content: bytes) -> None:
        """As `WindowStore.save`."""
        self._begin()
        self.files.save(name, content)
        self._wrote(name)

    def load(self, name: str) -> bytes | None:
        """As `WindowStore.load`."""
        return self.files.load(name)

    def keep_unit(self, columns: Mapping[str, Any]) -> None:
        """As `WindowStore.keep_unit`."""
        made = {name: columns[name] for name in _MADE if name in columns}
        named = {name: self._unit[name] for name in ("unit_id", "texts")}
        sink = pa.BufferOutputStream()
        with pa.ipc.new_file(sink, WIRE) as writer:
            writer.write_table(to_wire(new_batch([named | made])))
        self.save("unit.arrow", sink.getvalue().to_pybytes())

    def unit(self) -> dict[str, Any] | None:
        """The columns that `keep_unit` was given in an earlier attempt; None where it did not come so far."""
        content = self.load("unit.arrow")
        if content is None:
            return None
        row = from_wire(pa.ipc.open_file(pa.BufferReader(content)).read_all())[0]
        return {name: row[name] for name in _MADE if row[name] is not None}

    def _begin(self) -> None:
        if not self._begun:
            self.files.begin(self.length, self.count)
            self._begun = True

    def _frames(self, number: int) -> range:
        return range(number * self.length, min((number + 1) * self.length, self._unit["num_frames"]))

    def _answers(self, table: pa.Table, number: int) -> Answers:
        """The rows of a window: one object after the other, each with all its frames."""
        count = len(self._frames(number))
        places = {name: place for place, name in enumerate(self._unit["instruction_ids"])}
        columns = table.select(["instruction_id", "rle", "area", "bbox", "object_score"]).to_pydict()
        answers: Answers = {}
        for begin in range(0, table.num_rows, count):
            one, rows = ObjectMasks(count), slice(begin, begin + count)
            coded = zip(columns["rle"][rows], columns["area"][rows], map(tuple, columns["bbox"][rows]), strict=True)
            one.masks = [EncodedMask(*mask) for mask in coded]
            one.scores = columns["object_score"][rows]
            answers.setdefault(places[columns["instruction_id"][begin]], []).append(one)
        return answers

"""The cost of a unit in each stage: measured earlier in the same run, or taken from the package's table, or computed.

`costs.csv` has a row for each stage of a model on a device in a dtype: seconds of one actor,

    unit + frame * T + instruction * E + frame_instruction * T * E

for a video of T frames with E instructions, fitted to measurements with the default settings. `decode` is opening a
video and reading all of its frames once; the other stages find their frames in the actor's cache.
`python -m tests.benchmarks.bench_costs` prints the rows; the column `measured` names the machine.
"""

from __future__ import annotations

import csv
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrshq.pipelines.estimate.terms import Terms
from vrshq.pipelines.label.planning.lengths import Lengths
from vrshq.pipelines.label.tables.schema import STAGES
from vrshq.pipelines.label.work.worker import NEED_PIXELS

TABLE = Path(__file__).with_name("costs.csv")
TERMS = ("unit", "frame", "instruction", "frame_instruction")
# Assumed number of frames of a video where neither finished units nor headers tell it.
ASSUMED_FRAMES = 100
# Number of finished units from which the run's own measurements replace the table.
ENOUGH_UNITS = 16
# The origin of costs that nobody measured.
COMPUTED = "estimated from operations and bytes, not measured"


@dataclass(frozen=True)
class Measured:
    """What costs are those of: name of the bundle, torch's names of the device and of the type, and the GPU's name."""

    model: str
    device: str
    dtype: str
    gpu: str | None = None

    @property
    def key(self) -> tuple[str, str, str]:
        """The first three columns of its rows in the table: a GPU stands there by its name in `cluster/ray/gpus.yaml`."""
        return self.model, self.gpu or self.device, self.dtype


@dataclass(frozen=True)
class Estimate:
    """The expected cost of a unit.

    Attributes:
        seconds: seconds of one actor, by stage; `decode` counts in each pool that needs pixels.
        frames: average number of frames of a video.
        known: whether `frames` comes from finished units of this run.
        source: the origin of the seconds, in words.
        terms: the cost of a unit of any size, all stages together.
        lengths: the headers from which `frames` comes; without them and where it is not known, it is assumed.
    """

    seconds: Mapping[str, float]
    frames: float
    known: bool
    source: str
    terms: Terms = Terms()  # noqa: RUF009 - frozen
    lengths: Lengths | None = None

    def of_pool(self, operators: Sequence[str]) -> float:
        """Seconds that an actor with the given operators needs for a unit."""
        own = sum(self.seconds[operator] for operator in operators)
        return own + self.seconds["decode"] if NEED_PIXELS & set(operators) else own


def estimate(
    machine: Measured,
    instructions: float,
    commands: Sequence[Mapping[str, Any]] = (),
    lengths: Lengths | None = None,
    computed: Mapping[str, Terms] | None = None,
) -> Estimate | None:
    """The expected cost of a unit: measured in the run, else measured for the table, else computed; None if it is unknown.

    Args:
        machine: what the costs are those of.
        instructions: average number of instructions of a unit.
        commands: the entries of the run's earlier commands in `stats.json`.
        lengths: what headers say; finished units of the run say more.
        computed: the cost of a unit by stage, where one can be computed from sizes and rates.
    """
    done = [command for command in commands if command["counts"].get("units")]
    units = sum(command["counts"]["units"] for command in done)
    frames = sum(command["counts"]["frames"] for command in done) / units if units else 0.0
    known = units >= ENOUGH_UNITS and frames > 0
    alike = [command for command in done if command.get("device") == machine.device]
    measured = sum(command["counts"]["units"] for command in alike)
    if measured >= ENOUGH_UNITS:
        seconds = {stage: sum(_seconds(command, stage) for command in alike) / measured for stage in STAGES}
        terms = _spread(sum(seconds.values()), frames or 1.0, instructions)
        return Estimate(seconds, frames, known, f"measured on {measured} units of this run", terms)
    rows, source = _table().get(machine.key, (computed, COMPUTED))
    if rows is None:
        return None
    if known or lengths is None or not lengths.looked:
        lengths = None
    if not known:
        frames = lengths.frames if lengths else ASSUMED_FRAMES
    pairs = lengths.frame_instructions if lengths else None
    seconds = {stage: rows[stage].seconds(frames, instructions, pairs) for stage in STAGES}
    return Estimate(seconds, frames, known, source, Terms.total(rows.values()), lengths)


def _spread(seconds: float, frames: float, instructions: float) -> Terms:
    """The cost of a unit of any size where only the average one was measured: a share per frame, a third of it per pair."""
    per_frame = seconds / (frames * (0.75 + 0.25 * instructions))
    return Terms(frame=0.75 * per_frame, frame_instruction=0.25 * per_frame)


def _seconds(command: Mapping[str, Any], stage: str) -> float:
    """A stage's seconds in an earlier command; those of `decode` are divided by the number of pools that decode."""
    pools = sum(bool(NEED_PIXELS & set(operators)) for operators in command["pools"]) if stage == "decode" else 1
    return float(command["seconds_by_stage"][stage]) / max(1, pools)


@functools.cache
def _table() -> dict[tuple[str, str, str], tuple[dict[str, Terms], str]]:
    """The rows of `costs.csv` by stage, and the origin of their numbers, by `Measured.key`."""
    terms: dict[tuple[str, str, str], dict[str, Terms]] = {}
    origin: dict[tuple[str, str, str], str] = {}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            key = row["model"], row["device"], row["dtype"]
            terms.setdefault(key, {})[row["stage"]] = Terms(**{name: float(row[name] or 0) for name in TERMS})
            origin[key] = row["measured"]
    return {key: (rows, origin[key]) for key, rows in terms.items()}

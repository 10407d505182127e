"""What a unit costs in each stage: measured in this run already, or in the table that comes with the package.

`costs.csv` has a row for each stage of a model on a device in a dtype: seconds of one actor,

    unit + frame * T + instruction * E + frame_instruction * T * E

for a video of T frames with E instructions, fitted to measurements with the default settings. `decode` is opening a
video and reading all of its frames once; the other stages find their frames in the actor's cache. Its rows are what
`python -m tests.benchmarks.bench_costs` prints; `measured` says on what.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrshq.pipelines.label.schema import STAGES
from vrshq.pipelines.label.worker import NEED_PIXELS

TABLE = Path(__file__).with_name("costs.csv")
TERMS = ("unit", "frame", "instruction", "frame_instruction")
# Videos are not opened before the run, so where none of them is done their length is taken to be this.
ASSUMED_FRAMES = 100
# Units of a run that say more about the rest of it than the table does.
ENOUGH_UNITS = 16


@dataclass(frozen=True)
class Estimate:
    """What a unit is expected to take.

    Attributes:
        seconds: of one actor by stage; `decode` is due in each pool that needs pixels.
        frames: of a video on average; known: whether from videos of this run, rather than assumed.
        source: where the seconds come from, in words.
    """

    seconds: Mapping[str, float]
    frames: float
    known: bool
    source: str

    def of_pool(self, operators: Sequence[str]) -> float:
        """Seconds of a unit in an actor with the given operators."""
        own = sum(self.seconds[operator] for operator in operators)
        return own + self.seconds["decode"] if NEED_PIXELS & set(operators) else own


def estimate(
    model: str, device: str, dtype: str, instructions: float, commands: Sequence[Mapping[str, Any]] = ()
) -> Estimate | None:
    """What a unit takes, or None if it was never measured.

    Args:
        model: the bundle's name. device, dtype: torch's names.
        instructions: of a unit on average.
        commands: what `stats.json` says of the run's earlier commands.
    """
    done = [command for command in commands if command["counts"].get("units")]
    units = sum(command["counts"]["units"] for command in done)
    frames = sum(command["counts"]["frames"] for command in done) / units if units else 0.0
    known = units >= ENOUGH_UNITS and frames > 0
    alike = [command for command in done if command.get("device") == device]
    measured = sum(command["counts"]["units"] for command in alike)
    if measured >= ENOUGH_UNITS:
        seconds = {stage: sum(_seconds(command, stage) for command in alike) / measured for stage in STAGES}
        return Estimate(seconds, frames, known, f"measured on {measured} units of this run")
    rows = _table().get((model, device, dtype))
    if rows is None:
        return None
    frames = frames if known else ASSUMED_FRAMES
    factors = {"unit": 1.0, "frame": frames, "instruction": instructions, "frame_instruction": frames * instructions}
    seconds = {stage: sum(float(rows[stage][term] or 0) * factors[term] for term in TERMS) for stage in STAGES}
    return Estimate(seconds, frames, known, rows["decode"]["measured"])


def _seconds(command: Mapping[str, Any], stage: str) -> float:
    """A stage's seconds in an earlier command, for one pool where each of several has the stage."""
    pools = sum(bool(NEED_PIXELS & set(operators)) for operators in command["pools"]) if stage == "decode" else 1
    return float(command["seconds_by_stage"][stage]) / max(1, pools)


def _table() -> dict[tuple[str, str, str], dict[str, dict[str, str]]]:
    """The rows by (model, device, dtype) and stage."""
    found: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["model"], row["device"], row["dtype"]), {})[row["stage"]] = row
    return found

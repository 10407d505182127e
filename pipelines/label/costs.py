"""The cost of a unit in each stage: measured earlier in the same run, or taken from the package's table.

`costs.csv` has a row for each stage of a model on a device in a dtype: seconds of one actor,

    unit + frame * T + instruction * E + frame_instruction * T * E

for a video of T frames with E instructions, fitted to measurements with the default settings. `decode` is opening a
video and reading all of its frames once; the other stages find their frames in the actor's cache.
`python -m tests.benchmarks.bench_costs` prints the rows; the column `measured` names the machine.
"""

from __future__ import annotations

import csv
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrshq.pipelines.label.lengths import Lengths
from vrshq.pipelines.label.schema import STAGES
from vrshq.pipelines.label.worker import NEED_PIXELS

TABLE = Path(__file__).with_name("costs.csv")
TERMS = ("unit", "frame", "instruction", "frame_instruction")
# Assumed number of frames of a video where neither finished units nor headers tell it.
ASSUMED_FRAMES = 100
# Number of finished units from which the run's own measurements replace the table.
ENOUGH_UNITS = 16


@dataclass(frozen=True)
class Estimate:
    """The expected cost of a unit.

    Attributes:
        seconds: seconds of one actor, by stage; `decode` counts in each pool that needs pixels.
        frames: average number of frames of a video.
        known: whether `frames` comes from finished units of this run.
        source: the origin of the seconds, in words.
        lengths: the headers from which `frames` comes; without them and where it is not known, it is assumed.
    """

    seconds: Mapping[str, float]
    frames: float
    known: bool
    source: str
    lengths: Lengths | None = None

    def of_pool(self, operators: Sequence[str]) -> float:
        """Seconds that an actor with the given operators needs for a unit."""
        own = sum(self.seconds[operator] for operator in operators)
        return own + self.seconds["decode"] if NEED_PIXELS & set(operators) else own


def estimate(
    model: str,
    device: str,
    dtype: str,
    instructions: float,
    commands: Sequence[Mapping[str, Any]] = (),
    lengths: Lengths | None = None,
) -> Estimate | None:
    """The expected cost of a unit, or None if it was never measured.

    Args:
        model: name of the bundle.
        device: torch's name of the device.
        dtype: torch's name of the type.
        instructions: average number of instructions of a unit.
        commands: the entries of the run's earlier commands in `stats.json`.
        lengths: what headers say; finished units of the run say more.
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
    if known or lengths is None or not lengths.looked:
        lengths = None
    if not known:
        frames = lengths.frames if lengths else ASSUMED_FRAMES
    pairs = lengths.frame_instructions if lengths else frames * instructions
    factors = {"unit": 1.0, "frame": frames, "instruction": instructions, "frame_instruction": pairs}
    seconds = {stage: sum(float(rows[stage][term] or 0) * factors[term] for term in TERMS) for stage in STAGES}
    return Estimate(seconds, frames, known, rows["decode"]["measured"], lengths)


def _seconds(command: Mapping[str, Any], stage: str) -> float:
    """A stage's seconds in an earlier command; those of `decode` are divided by the number of pools that decode."""
    pools = sum(bool(NEED_PIXELS & set(operators)) for operators in command["pools"]) if stage == "decode" else 1
    return float(command["seconds_by_stage"][stage]) / max(1, pools)


def _table() -> dict[tuple[str, str, str], dict[str, dict[str, str]]]:
    """The rows of `costs.csv`, by (model, device, dtype) and stage."""
    found: dict[tuple[str, str, str], dict[str, dict[str, str]]] = {}
    with TABLE.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            found.setdefault((row["model"], row["device"], row["dtype"]), {})[row["stage"]] = row
    return found

"""The screen of `vrshq plan --on`."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from vrshq.pipelines.cli.run_display import cost_in_words, duration
from vrshq.pipelines.cli.terminal import console
from vrshq.pipelines.estimate.memory import gib, in_parts
from vrshq.pipelines.label.planning.forecast import Corpus, Forecast, cheapest


def print_forecasts(made: Sequence[Forecast], model: str, corpus: Corpus) -> None:
    """For each machine whether the run fits, by part, and its time; then the machine with the fewest GPU-hours."""
    grid = Table.grid(padding=(0, 2))
    grid.add_row(
        "work",
        f"{corpus.units} {'unit' if corpus.units == 1 else 'units'} to do, about {corpus.object_frames:,.0f} object-frames",
    )
    grid.add_row("model", model)
    for one in made:
        grid.add_row("on", f"{one.name} in {one.dtype}, {gib(one.gpu.memory_bytes)} of memory on each GPU")
        grid.add_row("gpu", in_parts(one.memory))
        if one.refused:
            grid.add_row("refused", Text(one.refused, style="red"))
            continue
        grid.add_row("cost", cost_in_words(one.expected))
        grid.add_row("whole", _whole(one, corpus))
    best = cheapest(made)
    if best and len(made) > 1:
        grid.add_row("cheapest", f"{best.name}: the fewest GPU-hours of those on which it fits")
    console.print(grid, highlight=False)


def _whole(one: Forecast, corpus: Corpus) -> str:
    busy = min(one.gpus, max(1, corpus.units))
    on = f"{one.gpus} GPUs" if one.gpus > 1 else "1 GPU"
    return f"{one.gpu_hours:.3g} GPU-hours, about {duration(3600 * one.gpu_hours / busy)} on {on}, and the start"

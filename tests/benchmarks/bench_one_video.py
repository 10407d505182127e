"""Many instructions on one video: what its units share, against the same units each for itself.

    python -m tests.benchmarks.bench_one_video [--instructions 1000] [--frames 60] [--model untrained-tiny]

Each way runs in a process of its own, in the for-loop; an actor on Ray does the same with the units that it gets.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support import clips
from tests.support.label_runs import content, instruction, write_table
from vrshq.cluster.storage.fetch import fetch_to_local
from vrshq.pipelines.label import loop
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.work import videos


def run(table: str, output: str, model: str, shares: bool, said: Any) -> None:
    """Labels the table, and sends what was counted."""
    fetched = 0

    def counted(*arguments: Any) -> Any:
        nonlocal fetched
        fetched += 1
        return fetch_to_local(*arguments)

    setattr(videos, "fetch_to_local", counted)  # noqa: B010 - the name is not exported
    if not shares:
        loop._with_more = lambda units: units
    begin = time.perf_counter()
    summary = label(table, output, Settings(model=model), use_ray=False)
    seconds = time.perf_counter() - begin
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    counts = json.loads(Path(output, "stats.json").read_text())["commands"][0]["counts"]
    said.put((summary.counts["units"], fetched, counts["decode_passes"], counts["encoder_calls"], seconds, peak >> 10))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--instructions", type=int, default=1000)
    parser.add_argument("--frames", type=int, default=60)
    parser.add_argument("--model", default="untrained-tiny")
    options = parser.parse_args()
    context = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as place:
        clips.h264(Path(place, "a.mp4"), frames=options.frames)
        rows = [instruction("a.mp4", number, f"block {number}") for number in range(options.instructions)]
        table = write_table(Path(place, "table.jsonl"), rows)
        print("| units | fetches | decode passes | encoder calls | seconds | peak MiB |")
        print("| --- | --- | --- | --- | --- | --- |")
        for name in ("alone", "shared"):
            said: Any = context.Queue()
            one = context.Process(target=run, args=(table, f"{place}/{name}", options.model, name == "shared", said))
            one.start()
            units, fetched, passes, calls, seconds, peak = said.get()
            one.join()
            print(f"| {units} {name} | {fetched} | {passes} | {calls:,} | {seconds:.0f} | {peak:,} |", flush=True)
        assert content(f"{place}/alone") == content(f"{place}/shared")
        print("the tables are equal")


if __name__ == "__main__":
    main()

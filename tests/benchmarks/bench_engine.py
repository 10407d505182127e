"""What the engine costs: a run on Ray against the bare for-loop, units/s without any work, and memory against length.

    python -m tests.benchmarks.bench_engine overhead [--units 20] [--frames 150]
    python -m tests.benchmarks.bench_engine noop [--units 2000]
    python -m tests.benchmarks.bench_engine memory [--frames 100 2000] [--set resources.feature_cache_mib=64 ...]

`overhead` labels the same videos with the same weights twice in one run: by the for-loop, and on Ray with one actor.
`noop` sends units through a worker that does nothing. `memory` runs `vrshq label` on one video of each length and samples
the process tree four times a second, proportional set sizes, and the anonymous pages of the actor, which do not depend on
who else has loaded the same libraries; the object store's use is what its raylet reports at the end of each unit.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from tests.benchmarks.no_work import NoWork
from tests.benchmarks.peak_memory import MIB, tree_memory
from tests.support import clips
from vrshq.cluster.ray.engine import stream_receipts
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.session import ray_session
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.watcher import Watcher


def corpus(folder: Path, videos: int, frames: int) -> str:
    rows = []
    for number in range(videos):
        clips.h264(folder / f"{number:03d}.mp4", frames=frames)
        rows.append({"video_uri": f"{number:03d}.mp4", "instruction_id": "0", "text": f"block {number}"})
    table = folder / "instructions.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(table)


class Clock(Watcher):
    """Notes the moment of each receipt."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def unit_finished(self, receipt: dict[str, Any]) -> None:  # noqa: ARG002 - the base class gives it
        self.moments.append(time.perf_counter())


def timed(table: str, output: Path, *, use_ray: bool) -> tuple[float, float, float]:
    """Seconds of the whole call, of the units between the first and the last receipt, and the mean of a unit."""
    settings = Settings.model_validate({"resources": {"pools": [{"operators": OPERATORS, "actors": 1, "cpus": 1}]}})
    watcher = Clock()
    begin = time.perf_counter()
    summary = label(table, str(output), settings, use_ray=use_ray, watcher=watcher)
    total = time.perf_counter() - begin
    assert summary.counts["errors"] == summary.incomplete == 0
    return total, watcher.moments[-1] - watcher.moments[0], summary.busy / summary.counts["units"]


OPERATORS = ["presample", "tokens", "fuse", "keyframe", "propagate"]


def overhead(units: int, frames: int) -> None:
    with tempfile.TemporaryDirectory() as place:
        table = corpus(Path(place), units, frames)
        loop, loop_warm, unit = timed(table, Path(place, "loop"), use_ray=False)
        ray, ray_warm, ray_unit = timed(table, Path(place, "ray"), use_ray=True)
        again, again_warm, _ = timed(table, Path(place, "again"), use_ray=False)
    print(f"{units} units of {frames} frames; a unit takes {unit:.1f} s in the loop and {ray_unit:.1f} s in the actor")
    print(f"for-loop {loop:.1f} and {again:.1f} s, on Ray with one actor {ray:.1f} s: {2 * ray / (loop + again):.3f}x")
    ratio = 2 * ray_warm / (loop_warm + again_warm)
    print(f"from first to last receipt {loop_warm:.1f} and {again_warm:.1f} s, on Ray {ray_warm:.1f} s: {ratio:.3f}x")


def noop(units: int) -> None:
    manifest = pa.table({"unit_id": [f"{number:08x}" for number in range(units)]})
    for actors in (1, 2, 4):
        with ray_session("local", num_cpus=4, object_store_memory=200 * MIB):
            pool = ActorPool(name="nothing", worker=NoWork, actors=actors, deadline_s=60)
            begin = time.perf_counter()
            moments = [time.perf_counter() for _ in stream_receipts(manifest, [pool], attempts=1)]
            rate = (units - 1) / (moments[-1] - moments[0])
            print(
                f"{actors} actors: {units} units in {moments[-1] - begin:.1f} s, first after {moments[0] - begin:.1f} s, "
                f"then {rate:.0f} units/s",
                flush=True,
            )


def memory(lengths: list[int], settings: list[str]) -> None:
    for frames in lengths:
        with tempfile.TemporaryDirectory() as place:
            table = corpus(Path(place), 1, frames)
            code = "from vrshq.pipelines.cli.main import main; main()"
            line = [sys.executable, "-c", code, "label", table, "--output", f"{place}/run", "--model", "untrained-tiny"]
            line += [word for setting in settings for word in ("--set", setting)]
            environment = {**os.environ, "RAY_TMPDIR": place}
            running = subprocess.Popen(line, env=environment, stdout=subprocess.DEVNULL)
            peak = actor = own = 0
            while running.poll() is None:
                try:
                    root = psutil.Process(running.pid)
                    peak = max(peak, tree_memory(root)[0])
                    now = actor_memory(root)
                    actor, own = max(actor, now[0]), max(own, now[1])
                except psutil.NoSuchProcess:
                    break
                time.sleep(0.25)
            assert running.wait() == 0
            stats: dict[str, Any] = json.loads(Path(place, "run/stats.json").read_text())["commands"][0]
            print(
                f"{frames} frames: peak of the process tree {peak / MIB:,.0f} MiB, of the actor {actor / MIB:,.0f} MiB "
                f"({own / MIB:,.0f} anonymous); "
                f"{stats['counts']['masks']} masks, {stats['counts']['bytes']:,} bytes written; {store(place)}",
                flush=True,
            )


def actor_memory(root: psutil.Process) -> tuple[int, int]:
    """Proportional set size and anonymous pages of the largest actor, in bytes."""
    sizes = [(0, 0)]
    for process in root.children(recursive=True):
        try:
            if "MapWorker" in " ".join(process.cmdline()):
                rollup = Path(f"/proc/{process.pid}/smaps_rollup").read_text(encoding="ascii")
                kib = {line.split()[0]: line.split()[1] for line in rollup.splitlines()[1:]}
                sizes.append((int(kib["Pss:"]) << 10, int(kib["Anonymous:"]) << 10))
        except (psutil.NoSuchProcess, psutil.AccessDenied, OSError):
            continue
    return max(sizes)


def store(place: str) -> str:
    """What the run's raylets say about spilling, and Ray Data about the bytes that crossed the object store."""
    logs = [*Path(place).rglob("raylet.out")]
    spilled = sum("Spilled" in line for log in logs for line in log.read_text(errors="replace").splitlines())
    crossed: list[int] = []
    for log in Path(place).rglob("ray-data-dataset_*.log"):
        texts = log.read_text(errors="replace").split("'bytes_outputs_of_finished_tasks': ")[1:]
        crossed += [int(text.split(",")[0]) for text in texts]
    return f"bytes through the object store by operator {crossed}, spills {spilled}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["overhead", "noop", "memory"])
    parser.add_argument("--units", type=int)
    parser.add_argument("--frames", type=int, nargs="+")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    if options.what == "overhead":
        overhead(options.units or 20, (options.frames or [150])[0])
    elif options.what == "noop":
        noop(options.units or 2000)
    else:
        memory(options.frames or [100, 2000], options.set)


if __name__ == "__main__":
    main()

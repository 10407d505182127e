"""What the engine costs: against the bare for-loop, without any work, with units that kill, and memory against length.

    python -m tests.benchmarks.bench_engine overhead [--units 20] [--frames 150]
    python -m tests.benchmarks.bench_engine noop [--units 1000000] [--pools 1] [--actors 2]
    python -m tests.benchmarks.bench_engine killing [--units 20000] [--deadly 20] [--actors 4] [--milliseconds 20]
    python -m tests.benchmarks.bench_engine memory [--frames 100 2000] [--set resources.feature_cache_mib=64 ...]

`overhead` labels the same videos with the same weights twice in one run: by the for-loop, and on Ray with one actor.
`noop` sends units through a worker that does nothing. `killing` compares runs of short units of which some end their process
at each try. `memory` runs `vrshq label` on one video of each length and samples
the process tree four times a second, proportional set sizes, and the anonymous pages of the actor, which do not depend on
who else has loaded the same libraries; the object store's use is what its raylet reports at the end of each unit.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa

from tests.benchmarks.no_work import Kills, NoWork
from tests.benchmarks.peak_memory import MIB, tree_memory
from tests.support import clips
from vrshq.cluster.ray.engine import Lost, stream_receipts
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


def noop(units: int, pools: int, actors: int) -> None:
    """Units without any work, so that only the driver and the calls are left."""
    manifest = pa.table({"unit_id": [f"{number:08x}" for number in range(units)]})
    with ray_session("local", num_cpus=4, object_store_memory=200 * MIB):
        several = [ActorPool(name=f"p{number}", worker=NoWork, actors=actors, deadline_s=60) for number in range(pools)]
        several = [replace(pool, num_cpus=4 / (pools * actors)) for pool in several]
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        begin, cpu = time.perf_counter(), time.process_time()
        first = None
        received = 0
        for _ in stream_receipts(manifest, several, attempts=1):
            received += 1
            first = first or time.perf_counter()
        assert first is not None
        assert received == units
        seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        print(
            f"{pools} pools of {actors} actors: {units:,} units in {seconds:.1f} s, first after {first - begin:.1f} s, "
            f"{units / (seconds - first + begin):,.0f} units/s; driver {cpu / units * 1e3:.3f} ms of CPU a unit, peak memory "
            f"{peak >> 10:,} MiB ({(peak - before) >> 10:,} more than before)",
            flush=True,
        )


def killing(units: int, deadly: int, actors: int, milliseconds: float) -> None:
    """A run with killing units against the same run without them."""
    numbers = pa.array(range(units))
    manifest = pa.table({"unit_id": [f"{number:08x}" for number in range(units)], "number": numbers})
    killers = [round((place + 0.5) * units / deadly) for place in range(deadly)]
    last_good: dict[str, float] = {}
    with ray_session("local", num_cpus=4, object_store_memory=200 * MIB):
        for name, those in (("without", []), ("with", killers), ("without again", []), ("with again", killers)):
            pool = ActorPool(
                name="a",
                worker=Kills,
                arguments={"deadly": those, "seconds": milliseconds / 1e3},
                actors=actors,
                num_cpus=4 / actors,
            )
            begin = time.perf_counter()
            lost = 0
            for answer in stream_receipts(manifest, [pool], attempts=3):
                if isinstance(answer, Lost):
                    lost += 1
                else:
                    last_good[name] = time.perf_counter() - begin
            assert lost == len(those)
            seconds = time.perf_counter() - begin
            print(
                f"{name}: {units:,} units, {lost} lost, last good one after {last_good[name]:.1f} s, end {seconds:.1f} s"
            )
    both = (last_good["with"] + last_good["with again"]) / (last_good["without"] + last_good["without again"])
    print(f"last good unit: {both:.3f} times the run without killing units")


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
            if "ray::Guarded" in " ".join(process.cmdline()):
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
    parser.add_argument("what", choices=["overhead", "noop", "killing", "memory"])
    parser.add_argument("--units", type=int)
    parser.add_argument("--pools", type=int, default=1)
    parser.add_argument("--actors", type=int)
    parser.add_argument("--deadly", type=int, default=20)
    parser.add_argument("--milliseconds", type=float, default=20)
    parser.add_argument("--frames", type=int, nargs="+")
    parser.add_argument("--set", action="append", default=[])
    options = parser.parse_args()
    if options.what == "overhead":
        overhead(options.units or 20, (options.frames or [150])[0])
    elif options.what == "noop":
        noop(options.units or 1_000_000, options.pools, options.actors or 2)
    elif options.what == "killing":
        killing(options.units or 20_000, options.deadly, options.actors or 4, options.milliseconds)
    else:
        memory(options.frames or [100, 2000], options.set)


if __name__ == "__main__":
    main()

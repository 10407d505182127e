"""Whole units: tables against a CPU's, seconds by stage, several actors on one GPU, costs, a long clip."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from tests.benchmarks.bench_costs import once
from tests.gpu.context import Context, Result
from tests.gpu.machine_checks import smi
from tests.support.label_runs import content
from vrshq.operators.batch import Operator
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.tables.schema import STAGES
from vrshq.pipelines.label.work.worker import load_operator


def operators_of(context: Context) -> list[Operator]:
    """The stages of a unit in this process."""
    configs = context.settings().operator_configs(context.model, context.device)
    return [load_operator(stage)(configs[stage]) for stage in STAGES]


def tables(context: Context) -> Result:
    """A run on Ray on this device, in float32, against the for-loop on the CPU: equal decisions, nearly equal masks."""
    table = context.table(8, 2, videos=2)
    here, there = str(context.folder / "here"), str(context.folder / "cpu")
    summary = label(table, here, context.settings("untrained-tiny", dtype="float32"))
    cpu = context.settings("untrained-tiny", dtype="float32").model_copy(
        update={"resources": context.settings(device="cpu").resources}
    )
    label(table, there, cpu, use_ray=False)
    own, other = content(here), content(there)
    chosen = [[row["keyframe_index"] for row in rows["tracks"]] for rows in (own, other)]
    areas = [[row["area"] for row in rows["masks"]] for rows in (own, other)]
    differing = sum(abs(one - two) for one, two in zip(*areas, strict=True)) / max(1, sum(areas[1]))
    values = {"keyframes": chosen, "area_difference": differing}
    kept = chosen[0] == chosen[1] and differing < 0.01 and len(own["tracks"]) == 4
    said = (
        f"{len(own['tracks'])} tracks, keyframes {chosen[0]}, areas differ by {differing:.2%}, device {summary.device}"
    )
    return Result.of(kept, said, **values)


def unit(context: Context) -> Result:
    """The reference unit (300 frames of 1080p, 16 instructions): seconds by stage, and the GPU's busy share."""
    frames, count = (12, 2) if context.dry else (300, 16)
    operators, path = operators_of(context), context.clip(frames)
    once(operators, context.clip(8), 2, context.device)  # warms up
    watch = _watch(context)
    with context.peak() as peak:
        seconds = once(operators, path, count, context.device)
    busy = _busy(watch)
    values: dict[str, Any] = {stage: round(took, 2) for stage, took in seconds.items()}
    values |= {"whole_s": round(sum(seconds.values()), 2), "peak_gib": peak["gib"], "busy_percent": busy}
    values["syncs_per_step"] = _waits(context, operators)
    return Result("number", ", ".join(f"{name} {value}" for name, value in values.items()), values)


def _watch(context: Context) -> subprocess.Popen[str] | None:
    if context.dry or smi("name") is None:
        return None
    command = ["nvidia-smi", "--query-gpu=utilization.gpu", "--format=csv,noheader,nounits", "--id=0", "--loop-ms=200"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def _busy(watch: subprocess.Popen[str] | None) -> float | None:
    """The mean of the samples that `nvidia-smi` took, in percent."""
    if watch is None:
        return None
    watch.terminate()
    lines = [line for line in watch.communicate()[0].split() if line.isdigit()]
    return round(sum(map(int, lines)) / len(lines), 1) if lines else None


def _waits(context: Context, operators: list[Operator]) -> float | None:
    """Waits of the host for the GPU that torch warns of, in a short unit, for each frame."""
    if context.dry:
        return None
    import warnings

    torch.cuda.set_sync_debug_mode("warn")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            once(operators, context.clip(8), 2, context.device)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return round(sum("synchroniz" in str(one.message) for one in caught) / 8, 1)


def sharing(context: Context) -> Result:
    """Three actors with .25, .5 and .25 of a GPU, through Ray: the run ends, nothing is lost, memory stays inside."""
    gpus = {} if context.dry else {"num_gpus": [0.25, 0.5, 0.25]}
    pools = [
        {"operators": ["presample"], "actors": 1, "cpus": 0.5},
        {"operators": ["tokens", "fuse"], "actors": 1, "cpus": 0.5},
        {"operators": ["keyframe", "propagate"], "actors": 1, "cpus": 0.5},
    ]
    for pool, share in zip(pools, gpus.get("num_gpus", []), strict=False):
        pool["gpus"] = share
    settings = context.settings(pools=pools)
    table = context.table(8, 2, videos=2)
    summary = label(table, str(context.folder / "sharing"), settings)
    rows = content(str(context.folder / "sharing"))["tracks"]
    failed = [row["error_message"] for row in rows if row["status"] == "error"]
    said = f"{summary.workers} actors, {len(rows)} tracks, {len(failed)} errors {failed[:1]}, GPU memory {smi('memory.used')}"
    return Result.of(not failed and len(rows) == 4, said, memory=smi("memory.used"))


def costs(context: Context) -> Result:
    """Rows for `pipelines/label/planning/costs.csv`, as `bench_costs` prints them."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_costs", "--device", context.device]
    command += ["--model", context.model, "--dtype", context.dtype]
    if context.dry:
        return _few_costs(context)
    done = subprocess.run(command, capture_output=True, text=True, timeout=400, check=False)
    rows = done.stdout.splitlines()
    if done.returncode or len(rows) != len(STAGES) + 1:
        return Result("FAIL", done.stderr.strip().splitlines()[-1])
    return Result("number", f"{len(rows) - 1} rows", {"rows": rows})


def _few_costs(context: Context) -> Result:
    """The measurement that `bench_costs` repeats, once."""
    seconds = once(operators_of(context), context.clip(8), 1, context.device)
    return Result(
        "number", f"{len(seconds)} stages measured once", {"rows": [f"{one}: {two}" for one, two in seconds.items()]}
    )


def long_clip(context: Context) -> Result:
    """A long clip with 1 and 16 instructions: memory as for a clip of a tenth, frames per second."""
    frames, counts = (40, (1, 2)) if context.dry else (2000, (1, 16))
    operators = operators_of(context)
    values: dict[str, Any] = {}
    for count in counts:
        peaks = []
        for length in (frames // 10, frames):
            context.free()
            with context.peak() as peak:
                begin = time.perf_counter()
                once(operators, context.clip(length), count, context.device)
                took = time.perf_counter() - begin
            peaks.append(peak["gib"])
        values[f"gib_{count}"] = peaks
        values[f"frames_per_s_{count}"] = round(frames / took, 2)
    flat = all(peaks[1] <= peaks[0] * 1.1 + 0.5 for name, peaks in values.items() if name.startswith("gib"))
    Path(context.clip(frames)).unlink()
    return Result.of(flat, ", ".join(f"{name} {value}" for name, value in values.items()), **values)

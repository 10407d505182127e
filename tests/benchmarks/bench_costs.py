"""Measures the cost of each stage of a unit, as an actor runs it, and prints the rows of `pipelines/label/planning/costs.csv`.

    python -m tests.benchmarks.bench_costs [--model untrained-tiny] [--device cpu|cuda] [--dtype float32]

Clips of some lengths with some numbers of instructions go through all stages, three times each, of which the median counts:
CPU time of this process on a CPU, wall time with the device's queue emptied on a GPU. A clip is opened and read once
("decode"); the other stages find its frames in the cache. To each stage the terms that drive it are fitted by least squares
of relative errors; a term that would be negative is left out.
"""

from __future__ import annotations

import argparse
import csv
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import numpy as np
import torch

from tests.support import clips
from vrshq.cluster.ray.gpus import gpu_of_product
from vrshq.operators.batch import Batch, Operator, close_videos, new_batch
from vrshq.pipelines.label.planning.costs import TERMS
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import STAGES
from vrshq.pipelines.label.work.worker import load_operator
from vrshq.pipelines.models.locate import local_model, open_model

HEIGHT, WIDTH = 480, 854
FRAMES = (24, 48, 96)
INSTRUCTIONS = (1, 4, 12)
# What drives a stage. The frames that TKS and the MLLM look at do not grow with the video, but with its instructions.
DRIVERS = {
    "decode": ("unit", "frame"),
    "presample": ("unit", "frame", "instruction"),
    "tokens": ("unit", "instruction"),
    "fuse": ("unit", "instruction"),
    "keyframe": ("unit", "instruction"),
    "propagate": ("unit", "frame", "frame_instruction"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="untrained-tiny")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), default="float32")
    options = parser.parse_args()
    settings = Settings(model=options.model, dtype=options.dtype)
    torch.set_num_threads(settings.resources.threads)
    configs = settings.operator_configs(local_model(options.model), options.device)
    operators: list[Operator] = [load_operator(stage)(configs[stage]) for stage in STAGES]
    cases = [(frames, count) for frames in FRAMES for count in INSTRUCTIONS]
    measured: dict[str, list[float]] = {stage: [] for stage in STAGES}
    with tempfile.TemporaryDirectory() as folder:
        clip = {
            frames: clips.h264(Path(folder, f"{frames}.mp4"), frames=frames, height=HEIGHT, width=WIDTH)
            for frames in FRAMES
        }
        once(operators, clip[FRAMES[0]], INSTRUCTIONS[-1], options.device)  # warms up
        for frames, count in cases:
            samples = [once(operators, clip[frames], count, options.device) for _ in range(3)]
            for stage in STAGES:
                measured[stage].append(median(sample[stage] for sample in samples))
    fits = {stage: fitted(cases, measured[stage], DRIVERS[stage]) for stage in STAGES}
    worst = {stage: worst_error(cases, measured[stage], fits[stage]) for stage in STAGES}
    how = (
        f"python -m tests.benchmarks.{Path(sys.argv[0]).stem} {' '.join(sys.argv[1:])}".rstrip()
        + f" on {machine(options.device)}: {HEIGHT} x {WIDTH} H.264, {FRAMES[0]} to {FRAMES[-1]} frames, "
        f"{INSTRUCTIONS[0]} to {INSTRUCTIONS[-1]} instructions"
    )
    writer = csv.writer(sys.stdout, lineterminator="\n")
    place = gpu_name() if options.device == "cuda" else "cpu"
    writer.writerow(["model", "device", "dtype", "stage", *TERMS, "measured"])
    name = open_model(options.model).name
    for stage in STAGES:
        seconds = [f"{fits[stage][term]:.3g}" if term in fits[stage] else "" for term in TERMS]
        writer.writerow([name, place, options.dtype, stage, *seconds, how])
    for stage in STAGES:
        print(f"{stage}: largest error of the fit {worst[stage]:.0%}", file=sys.stderr)


def once(operators: Sequence[Operator], clip: Path, count: int, device: str) -> dict[str, float]:
    """Seconds of each stage for one unit of a clip with `count` instructions."""
    unit = {
        "unit_id": "u",
        "video_id": "v",
        "video_uri": str(clip),
        "instruction_ids": [str(number) for number in range(count)],
        "texts": [f"the block number {number} that changes" for number in range(count)],
    }
    batch: Batch = new_batch([unit])
    seconds: dict[str, float] = {}
    for stage, operator in zip(STAGES, operators, strict=True):
        begin = now(device)
        batch = operator(batch)
        if stage == "decode":
            for _ in batch["video"][0].stream():
                pass
        seconds[stage] = now(device) - begin
    errors = [error for error in batch["errors"][0] if error]
    if errors:
        raise SystemExit(f"the clip has failed: {errors[0]}")
    close_videos(batch)
    return seconds


def now(device: str) -> float:
    if device == "cpu":
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def factors(frames: int, count: int, terms: Sequence[str]) -> list[float]:
    value = {"unit": 1, "frame": frames, "instruction": count, "frame_instruction": frames * count}
    return [float(value[term]) for term in terms]


def fitted(cases: Sequence[tuple[int, int]], seconds: Sequence[float], terms: Sequence[str]) -> dict[str, float]:
    """Seconds per term, none of them negative."""
    weights = 1 / np.maximum(np.array(seconds), 1e-6)
    rows = np.array([factors(*case, terms) for case in cases]) * weights[:, None]
    solution = np.linalg.lstsq(rows, np.array(seconds) * weights, rcond=None)[0]
    lowest = int(solution.argmin())
    if solution[lowest] < 0 and len(terms) > 1:
        return fitted(cases, seconds, [term for term in terms if term != terms[lowest]])
    return {term: float(value) for term, value in zip(terms, solution, strict=True)}


def worst_error(cases: Sequence[tuple[int, int]], seconds: Sequence[float], fit: dict[str, float]) -> float:
    """The largest relative error of the fit."""
    terms = list(fit)
    told = [float(np.dot(factors(*case, terms), list(fit.values()))) for case in cases]
    return max(abs(one / max(real, 1e-6) - 1) for one, real in zip(told, seconds, strict=True))


def gpu_name() -> str:
    """The name of the GPU as `cluster/ray/gpus.yaml` has it; the driver's where it has none."""
    product = str(torch.cuda.get_device_name())
    gpu = gpu_of_product(product, torch.cuda.get_device_properties().total_memory)
    return gpu.name if gpu else product


def machine(device: str) -> str:
    if device == "cuda":
        return str(torch.cuda.get_device_name())
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        name = next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        name = "a CPU"
    return f"one thread of {name}"


if __name__ == "__main__":
    main()

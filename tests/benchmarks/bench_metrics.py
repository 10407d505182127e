"""J and F together: this project's measures against whole images, and against PyPI's vos-benchmark.

    python -m tests.benchmarks.bench_metrics [--quick] [--vos-benchmark PYTHON]

PYTHON is an interpreter that has `vos-benchmark`; it needs an environment of its own, because that package brings
opencv-python, which must not stand beside the headless one:

    python -m venv /somewhere/vos && /somewhere/vos/bin/pip install vos-benchmark
    python -m tests.benchmarks.bench_metrics --vos-benchmark /somewhere/vos/bin/python

The pairs are drawn: wavy blobs of several shares of the image, half of them in two parts, that drift through a short video;
the prediction is the blob moved by some pixels with a bite taken out. Every video goes through all ways one after the
other, so that what disturbs the machine disturbs them alike; the best of some repetitions counts, in CPU time of one
thread. All ways must agree on every J and F, or the benchmark fails. This project's measures take a video at once, as they
do in `vrshq evaluate`, the others a frame.

"whole images" is `tests.support.full_image_metrics`. It and vos-benchmark are timed on decoded arrays; the column "decoding"
is the time to decode them from run-length codes, which is what a run's tables, a results.json and ground truth hold. This
project's measures begin with the codes. The last table is `vrshq.pipelines.evaluate.metrics.measure` as `vrshq evaluate`
calls it, A and R included, and the time that follows for a data set's size.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import subprocess
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from pycocotools import mask as coco

from tests.support.full_image_metrics import boundary_f, jaccard
from vrshq.operators.masks.bits import runs
from vrshq.operators.masks.rle import Rle, encode
from vrshq.pipelines.evaluate.metrics import measure, overlaps

SIZES = ((480, 854), (1080, 1920))
SHARES = (0.005, 0.02, 0.05, 0.15, 0.4)
# ReVOS has 35,074 expressions in all, of which valid is a part; its number of frames is an assumption.
EXPRESSIONS, FRAMES = 35_074, 80
VIDEO = 16  # frames of a drawn video

VOS_BENCHMARK = """
import json, os, sys, time
import cv2, numpy as np
from vos_benchmark.evaluator import Evaluator
cv2.setNumThreads(1)
for line in sys.stdin:
    path, repetitions = json.loads(line)
    truth, predicted = np.load(path)
    best = float("inf")
    for _ in range(repetitions):
        evaluator = Evaluator()
        begin = time.process_time()
        evaluator.feed_frame(predicted, truth)
        best = min(best, time.process_time() - begin)
    status = open("/proc/self/status").read() if os.path.exists("/proc/self/status") else "VmHWM: 0"
    peak = int(status.split("VmHWM:")[1].split()[0]) / 1024
    print(json.dumps([best, evaluator.object_iou[1][-1], evaluator.boundary_f[1][-1], peak]), flush=True)
"""


@dataclass(frozen=True)
class Pair:
    """Truth and prediction, uint8 (H, W) in 0/1, and their codes."""

    truth: np.ndarray
    predicted: np.ndarray
    codes: tuple[Rle, Rle]


def blob(height: int, width: int, share: float, rng: np.random.Generator) -> np.ndarray:
    """A wavy blob that takes about `share` of the image, uint8 (H, W)."""
    y, x = np.mgrid[:height, :width]
    mask = np.zeros((height, width), bool)
    parts = int(rng.integers(1, 3))
    radius = np.sqrt(share * height * width / np.pi / parts)
    for _ in range(parts):
        across, down = rng.uniform(0.2, 0.8) * width, rng.uniform(0.2, 0.8) * height
        angle, phase = np.arctan2(y - down, x - across), rng.uniform(0, 6.28)
        wave = 1 + 0.15 * np.sin(5 * angle + phase) + 0.06 * np.sin(19 * angle + phase)
        mask |= np.hypot(y - down, x - across) < radius * wave
    return mask.astype(np.uint8)


def draw(height: int, width: int, share: float, frames: int, rng: np.random.Generator) -> list[Pair]:
    """A video: the blob drifts by up to six pixels a frame."""
    start, bite = blob(height, width, share, rng), blob(height, width, share / 12, rng)
    drift = rng.integers(-6, 7, 2)
    pairs = []
    for number in range(frames):
        truth = np.roll(start, number * drift, (0, 1))
        predicted = np.roll(truth, rng.integers(-6, 7, 2), (0, 1)) & (1 - np.roll(bite, number * drift, (0, 1)))
        codes = [Rle(size=(height, width), counts=code.rle) for code in encode(np.stack([truth, predicted]))]
        pairs.append(Pair(truth, predicted, (codes[0], codes[1])))
    return pairs


def fast(video: list[Pair]) -> list[tuple[float, float]]:
    found = overlaps(runs([pair.codes[0] for pair in video]), runs([pair.codes[1] for pair in video]))
    return [(one.j, one.f) for one in found]


def whole_images(video: list[Pair]) -> list[tuple[float, float]]:
    return [(jaccard(pair.truth, pair.predicted), boundary_f(pair.truth, pair.predicted)) for pair in video]


def decoding(video: list[Pair]) -> None:
    for pair in video:
        for code in pair.codes:
            coco.decode(code)


def best_of(repetitions: int, call: Callable[[], Any]) -> float:
    """Seconds of CPU time of the quickest of some calls."""
    times = []
    for _ in range(repetitions):
        begin = time.process_time()
        call()
        times.append(time.process_time() - begin)
    return min(times)


class VosBenchmark:
    """vos-benchmark in a process with its own interpreter, asked for one pair at a time."""

    def __init__(self, python: str) -> None:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self.process = subprocess.Popen(
            [python, "-c", VOS_BENCHMARK], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment
        )
        self.peak = 0.0

    def __call__(self, pair: Pair, repetitions: int, folder: str) -> tuple[float, float, float]:
        """Seconds, J and F."""
        path = Path(folder) / "pair.npy"
        np.save(path, np.stack([pair.truth, pair.predicted]))
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(path), repetitions]) + "\n")
        self.process.stdin.flush()
        seconds, j, f, self.peak = json.loads(self.process.stdout.readline())
        return seconds, j, f

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def compare(size: tuple[int, int], videos: int, repetitions: int, other: VosBenchmark | None) -> list[list[str]]:
    """A row for each share, and one for all: milliseconds a pair, and how many times faster."""
    rng = np.random.default_rng(0)
    rows, totals = [], np.zeros(4)
    with tempfile.TemporaryDirectory() as folder:
        for share in SHARES:
            sums = np.zeros(4)
            for _ in range(videos):
                video = draw(*size, share, VIDEO, rng)
                want = whole_images(video)
                if fast(video) != want:
                    raise SystemExit(f"J and F differ from those of whole images: {fast(video)}, {want}")
                for place, call in enumerate((fast, whole_images, decoding)):
                    sums[place] += best_of(repetitions, partial(call, video))
                for pair, (j, f) in zip(video if other is not None else [], want, strict=False):
                    assert other is not None
                    seconds, *found = other(pair, repetitions, folder)
                    if max(abs(found[0] - j), abs(found[1] - f)) > 1e-12:
                        raise SystemExit(f"J and F differ from vos-benchmark's: {(j, f)}, {found}")
                    sums[3] += seconds
            rows.append([f"{share:.1%}", *cells(sums / videos / VIDEO, other)])
            totals += sums
    rows.append(["all", *cells(totals / videos / VIDEO / len(SHARES), other)])
    return rows


def cells(seconds: np.ndarray, other: VosBenchmark | None) -> list[str]:
    ours, whole, decode, vos = seconds * 1000
    row = [f"{ours:.2f}", f"{whole:.2f}", f"{decode:.2f}", f"{whole / ours:.1f}", f"**{(whole + decode) / ours:.1f}**"]
    return [*row, f"{vos:.2f}", f"**{vos / ours:.1f}**"] if other is not None else [*row, "", ""]


def peak(name: str, size: tuple[int, int]) -> float:
    """MiB that a way adds to a fresh process that holds a video and has done a small one."""
    from tests.benchmarks.bench_schedule import forget_peak, memory_mib

    def decode_and_measure(video: list[Pair]) -> Any:
        decoding(video)
        return whole_images(video)

    ways: dict[str, Callable[[list[Pair]], Any]] = {
        "this": fast,
        "whole images": whole_images,
        "whole images, with decoding": decode_and_measure,
    }
    rng = np.random.default_rng(0)
    ways[name](draw(60, 80, 0.1, 2, rng))
    video = draw(*size, 0.15, VIDEO, rng)
    forget_peak()
    before = memory_mib("VmRSS")
    ways[name](video)
    return memory_mib("VmHWM") - before


def expressions(size: tuple[int, int], repetitions: int) -> float:
    """Expressions a second of CPU time for `measure` with A and R, over videos of all shares."""
    rng = np.random.default_rng(1)
    seconds = 0.0
    for share in SHARES:
        pairs = draw(*size, share, VIDEO, rng)
        truth, predicted = [[pair.codes[0]] for pair in pairs], [pair.codes[1] for pair in pairs]
        seconds += best_of(repetitions, partial(measure, truth, predicted, truth))
    return len(SHARES) * VIDEO / FRAMES / seconds


def table(head: list[str], rows: list[list[str]]) -> str:
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer videos and repetitions")
    parser.add_argument("--vos-benchmark", metavar="PYTHON", help="an interpreter that has vos-benchmark")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    videos, repetitions = (1, 3) if options.quick else (3, 7)
    arguments = ["--quick"] if options.quick else []
    arguments += ["--vos-benchmark PYTHON"] if options.vos_benchmark else []
    print(
        f"`{' '.join(['python -m tests.benchmarks.bench_metrics', *arguments])}`: {os.cpu_count()} cores, {processor()};"
    )
    print(f"NumPy {np.__version__}, OpenCV {cv2.__version__}, one thread, CPU time, best of {repetitions}\n")
    other = VosBenchmark(options.vos_benchmark) if options.vos_benchmark else None
    head = ["share of image", "this, ms", "whole images, ms", "decoding, ms", "times faster", "with decoding"]
    head += ["vos-benchmark, ms", "times faster"]
    for size in SIZES:
        print(f"{size[0]} x {size[1]}, {videos} videos of {VIDEO} frames a share\n")
        print(table(head, compare(size, videos, repetitions, other)), "\n", flush=True)
    rows = []
    fresh = multiprocessing.get_context("spawn")
    for name in ("this", "whole images", "whole images, with decoding"):
        with fresh.Pool(1) as pool:
            rows.append([name, *(f"{pool.apply(peak, (name, size)):.1f}" for size in SIZES)])
    print("Memory above a process that holds the video, MiB\n")
    print(table(["", *(f"{height} x {width}" for height, width in SIZES)], rows), "\n", flush=True)
    if other is not None:
        print(f"vos-benchmark's process: {other.peak:.0f} MiB at its peak, libraries included\n")
        other.close()
    rows = []
    for size in SIZES:
        rate = expressions(size, repetitions)
        hours = EXPRESSIONS / rate / 3600
        rows.append(
            [f"{size[0]} x {size[1]}", f"{rate:.1f}", f"{rate * FRAMES:.0f}", f"{hours:.2f}", f"{hours / 16:.2f}"]
        )
    print(f"All of ReVOS: {EXPRESSIONS:,} expressions (valid is a part of them), assumed {FRAMES} frames each\n")
    print(table(["masks", "expressions/s", "frames/s", "hours, one core", "hours, 16 cores"], rows))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()

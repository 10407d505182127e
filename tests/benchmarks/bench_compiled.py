"""A tracking step and the image encoder as compiled code (`compile=true`) against the plain ones, and the time to compile.

    python -m tests.benchmarks.bench_compiled [--quick] [--dims tiny hiera-tiny] [--clock wall|cpu] [--threads 1]

The step is one of the steady state: full memory, all object pointers. Both run in turns in one process, so quote the ratio: the
plain seconds over the compiled ones. PyTorch's cache of compiled code is empty at the start. On a GPU, the check `compiled` of
`tests.gpu.check` measures the same.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from torch import Tensor

from tests.benchmarks.bench_propagation import (
    Clock,
    Step,
    arguments,
    benchmark_model,
    benchmark_video,
    header,
    table,
)
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.shared import compiled_segmenter, shared_segmenter

OBJECTS = (1, 2)  # a CPU tracks two at a time


def row(name: str, plain: Callable[[], Any], fast: Callable[[], Any], clock: Clock, rounds: int) -> list[str]:
    """A line of the table. The calls give a tensor."""
    begin = time.perf_counter()
    got: Tensor = fast()
    compiling, want = time.perf_counter() - begin, plain()
    apart = float((got - want).abs().max() / want.abs().max())
    pairs = [(clock.seconds(plain), clock.seconds(fast)) for _ in range(rounds)]
    columns = [1000 * median(column) for column in zip(*pairs, strict=True)]
    ratio = median(one / other for one, other in pairs)
    return [name, *(f"{value:.2f}" for value in columns), f"**{ratio:.3f}**", f"{compiling:.0f}", f"{apart:.0e}"]


@torch.inference_mode()
def compared(model: str, clock: Clock, rounds: int) -> str:
    """The table of a model."""
    plain: Segmenter = shared_segmenter(model, "cpu", "float32")
    fast: Segmenter = compiled_segmenter(model, "cpu", "float32")
    opened = VideoFeatures(plain, benchmark_video(model, 1), budget_bytes=4 << 30, batch_size=1)
    features = opened.get([0])
    pixels = torch.randn(opened.batch_size, 3, plain.image_size, plain.image_size)
    rows = [row("encoder, one frame", lambda: plain.encode(pixels).s16, lambda: fast.encode(pixels).s16, clock, rounds)]
    for objects in OBJECTS:
        step = Step(plain, features, objects)

        def track(network: Segmenter, step: Step = step) -> Tensor:
            given = [step.keyframe], step.recent, step.pointers
            found: Tensor = network.track(step.frame, *given, steady=True)[0].low_res
            return found

        rows.append(row(f"step, B = {objects}", lambda: track(plain), lambda: track(fast), clock, rounds))
    head = ["float32", "plain, ms", "compiled, ms", "ratio", "to compile, s", "largest difference"]
    return table(head, rows)


def main() -> None:
    options = arguments(__doc__)
    print(header(options))
    with tempfile.TemporaryDirectory() as cache:
        os.environ["TORCHINDUCTOR_CACHE_DIR"] = cache
        for dims in options.dims:
            rounds = 100 if dims == "tiny" else 7
            with benchmark_model(dims) as model:
                found = compared(model, Clock(options.clock), 5 if options.quick else rounds)
            print(f"\n## {dims}\n\n{found}", flush=True)


if __name__ == "__main__":
    main()

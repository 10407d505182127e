"""One tracking step and its parts, and propagation of 20 instructions together against one after the other.

    python -m tests.benchmarks.bench_propagation [--quick] [--dims tiny hiera-tiny] [--clock wall|cpu] [--threads 1]

Image features are computed before the clock starts. What is compared is run alternately, in one process. The parts of a
step are SAM2's own modules, called alone with the inputs of a steady state: full memory, all object pointers.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from tests.benchmarks.reference_schedule import HOLE_AREA
from tests.support.array_video import ArrayVideo
from vrshq.operators.masks import rle
from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.bundle import BUNDLED, open_bundle
from vrshq.operators.models.config import Sam2Config
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.tracking import condition_all, propagate_all
from vrshq.operators.models.sam2.values import Features, Memory
from vrshq.operators.models.shared import shared_network

# SAM2's own sam2_hiera_t.yaml; only the image is smaller: 512 instead of 1024 pixels.
HIERA_TINY = Sam2Config(
    image_size=512,
    embed_dim=96,
    num_heads=1,
    stages=(1, 2, 7, 2),
    window_spec=(8, 4, 14, 7),
    global_attention_blocks=(5, 7, 9),
    window_pos_embed_bkg_spatial_size=(7, 7),
)
# SAM2's own sam2_hiera_l.yaml, whole.
HIERA_LARGE = Sam2Config(
    image_size=1024,
    embed_dim=144,
    num_heads=2,
    stages=(2, 6, 36, 4),
    window_spec=(8, 4, 16, 8),
    global_attention_blocks=(23, 33, 43),
    window_pos_embed_bkg_spatial_size=(7, 7),
)
REAL = {"hiera-tiny": HIERA_TINY, "hiera-large": HIERA_LARGE}
DIMS = ("tiny", "hiera-tiny")
MAX_BATCH = 16  # `TrackConfig.batch`


@contextmanager
def benchmark_model(dims: str) -> Iterator[str]:
    """A bundle of random weights: "tiny" has the parity kit's sizes; those of `REAL` the same language side and a real SAM2."""
    tiny = BUNDLED / "untrained-tiny"
    if dims == "tiny":
        yield tiny.name
        return
    with tempfile.TemporaryDirectory() as folder:
        shutil.copytree(tiny, folder, dirs_exist_ok=True)
        description = json.loads((tiny / "bundle.json").read_text(encoding="utf-8"))
        description["model"]["sam2"] = asdict(REAL[dims])
        (Path(folder) / "bundle.json").write_text(json.dumps(description), encoding="utf-8")
        yield folder


def benchmark_video(model: str, num_frames: int) -> ArrayVideo:
    """Frames as large as the model sees them, 16:9."""
    side = open_bundle(model).model.sam2.image_size
    return ArrayVideo(num_frames, side * 9 // 16, side)


class Clock:
    """Seconds of `wall` time, or of `cpu` time: with one thread the same, but for what other processes take."""

    def __init__(self, kind: str) -> None:
        self.now = time.perf_counter if kind == "wall" else time.process_time

    def seconds(self, function: Callable[[], Any]) -> float:
        begin = self.now()
        function()
        return self.now() - begin

    def median(self, function: Callable[[], Any]) -> float:
        """Median seconds of a call: 3 calls, more where they are short, after one that warms up."""
        function()
        samples: list[float] = []
        while len(samples) < 3 or (sum(samples) < 0.5 and len(samples) < 100):
            samples.append(self.seconds(function))
        return median(samples)


def arguments(description: str | None, *, dims: bool = True, large: bool = False) -> argparse.Namespace:
    """The options that all benchmarks share; sets torch's threads."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer frames and repetitions")
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    if dims:
        parser.add_argument("--dims", nargs="+", choices=DIMS, default=DIMS)
        parser.add_argument("--clock", choices=("wall", "cpu"), default="wall")
    if large:
        parser.add_argument("--large", action="store_true", help="Hiera-L's parts instead")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    return options


def header(options: argparse.Namespace) -> str:
    """What was run, and where."""
    cpu = platform.processor() or platform.machine()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
        cpu = f"{len(names)} cores, {names[0]}" if names else cpu
    except OSError:
        pass
    command = " ".join(["python -m", f"tests.benchmarks.{Path(sys.argv[0]).stem}", *sys.argv[1:]])
    clock = f", {options.clock} time" if "clock" in options else ""
    return f"`{command}`: {cpu}; torch {torch.__version__}, {options.threads} thread(s), float32{clock}"


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head), *rows])


class Step:
    """A tracking step of B instructions in the steady state, and each of its parts to be called alone."""

    def __init__(self, segmenter: Segmenter, features: Features, batch: int) -> None:
        config, random = segmenter.config, torch.Generator().manual_seed(0)
        grid = config.image_size // 16

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=random)

        def spatial() -> Tensor:
            return normal(batch, config.memory_dim, grid, grid)

        self.segmenter, self.batch = segmenter, batch
        self.frame, self.features = features, features[[0] * batch]  # of the one frame; a copy for each instruction
        self.keyframe = Memory(spatial(), normal(batch, config.d_model))
        self.recent = [spatial() for _ in range(config.num_maskmem - 1)]
        self.pointers = [normal(batch, config.d_model) for _ in range(config.max_object_pointers - 1)]
        self.low_res = normal(batch, 4 * grid, 4 * grid) * 5
        self.mask = self.upsampling()
        self.memory, self.num_pointer_tokens = self.assembly()
        query = self.features.s16.flatten(2).permute(2, 0, 1)
        self._attention_inputs: dict[str, Any] = {
            "curr": [query],
            "curr_pos": [torch.zeros_like(query)],
            "memory": self.memory,
            "memory_pos": torch.zeros_like(self.memory),
            "num_obj_ptr_tokens": self.num_pointer_tokens,
        }
        no_point = torch.zeros(batch, 1, 2), -torch.ones(batch, 1, dtype=torch.int32)
        self._sparse, self._dense = segmenter.sam_prompt_encoder(points=no_point, boxes=None, masks=None)

    def track(self) -> Any:
        return self.segmenter.track(self.frame, [self.keyframe], self.recent, self.pointers)

    def assembly(self) -> tuple[Tensor, int]:
        """The tokens that a frame attends to, joined from single memories: copies only."""
        maps = [memory.flatten(2).permute(2, 0, 1) for memory in (self.keyframe.features, *self.recent)]
        stacked = torch.stack([self.keyframe.pointer, *self.pointers])
        split = stacked.reshape(*stacked.shape[:-1], -1, self.segmenter.mem_dim).permute(0, 2, 1, 3).flatten(0, 1)
        return torch.cat([*maps, split]), len(split)

    def memory_attention(self) -> Any:
        return self.segmenter.memory_attention(**self._attention_inputs)

    def mask_decoder(self) -> Any:
        return self.segmenter.sam_mask_decoder(
            image_embeddings=self.features.s16,
            image_pe=self.segmenter.sam_prompt_encoder.get_dense_pe(),
            sparse_prompt_embeddings=self._sparse,
            dense_prompt_embeddings=self._dense,
            multimask_output=False,
            repeat_image=False,
            high_res_features=[self.features.s4, self.features.s8],
        )

    def upsampling(self) -> Tensor:
        return torch.sigmoid(self.segmenter.to_image_size(self.low_res))[:, None] * 20 - 10

    def memory_encoder(self) -> Any:
        return self.segmenter.memory_encoder(self.features.s16, self.mask, skip_mask_sigmoid=True)

    def output(self, frame: tuple[int, int]) -> Any:
        """What `Propagate` does with the step's masks: fill holes, resize to the frame, encode."""
        filled = fill_holes(self.low_res, HOLE_AREA)
        full = to_frame_size(filled, self.segmenter.image_size, frame, frame)
        return rle.encode((full > 0).numpy())

    def parts(self) -> dict[str, Callable[[], Any]]:
        """The parts that no step can do without."""
        return {name: getattr(self, name) for name in ("memory_attention", "mask_decoder", "memory_encoder")}


def breakdown(segmenter: Segmenter, video: ArrayVideo, clock: Clock, batches: Sequence[int]) -> str:
    """Milliseconds per instruction of a step and its parts, by batch size."""
    features = _features(segmenter, video).get([0])
    frame = video.height, video.width
    columns: list[dict[str, float]] = []
    for batch in batches:
        step = Step(segmenter, features, batch)
        seconds = {f"{name}, SAM2's module alone": clock.median(call) for name, call in step.parts().items()}
        seconds["mask logits to image size, sigmoid"] = clock.median(step.upsampling)
        seconds["token assembly, one copy"] = clock.median(step.assembly)
        parts, whole = sum(seconds.values()), clock.median(step.track)
        seconds["**whole step**, `Segmenter.track`"] = whole
        seconds["whole step less the parts above"] = whole - parts
        seconds["after the step: holes, resize, RLE"] = clock.median(partial(step.output, frame))
        columns.append({name: 1000 * value / batch for name, value in seconds.items()})
    rows = [[name, *(f"{column[name]:.2f}" for column in columns)] for name in columns[0]]
    encoding = 1000 * clock.median(lambda: _features(segmenter, video).get([0]))
    rows.append(["beside it: one frame resized and encoded", f"{encoding:.2f}", *[""] * (len(batches) - 1)])
    return table(["ms per instruction, steady state", *(f"B = {batch}" for batch in batches)], rows)


class AllFeatures(VideoFeatures):
    """Never forgets a frame, so that a video can be propagated again and again without encoding."""

    def forget(self, index: int) -> None:
        pass


def _features(segmenter: Segmenter, video: ArrayVideo) -> VideoFeatures:
    return AllFeatures(segmenter, video, budget_bytes=4 << 30, batch_size=4)


class Propagation:
    """E instructions of a video, conditioned and ready to be propagated; features in memory."""

    def __init__(self, segmenter: Segmenter, video: ArrayVideo, keyframes: list[int]) -> None:
        self.segmenter, self.total = segmenter, video.num_frames
        self.keyframes = dict(enumerate(keyframes))
        self.features = _features(segmenter, video)
        self.features.get(range(video.num_frames))
        self.sizes: list[int] = []  # of the batches tracked
        random, side = torch.Generator().manual_seed(0), segmenter.config.image_size // 4
        masks = {position: torch.randn(side, side, generator=random) for position in self.keyframes}
        conditioned = condition_all(segmenter, self.features, self.keyframes, masks, HOLE_AREA)
        self.memories = {one: {self.keyframes[one]: memory} for one, (_, memory) in conditioned.items()}

    def together(self) -> None:
        steps = propagate_all(self.segmenter, self.features, self.memories, self.total, MAX_BATCH)
        self.sizes = [len(step) for step in steps]

    def one_at_a_time(self) -> None:
        for position in self.keyframes:
            memories = {position: self.memories[position]}
            for _ in propagate_all(self.segmenter, self.features, memories, self.total, 1):
                pass


def batched_against_single(
    segmenter: Segmenter, video: ArrayVideo, clock: Clock, placements: dict[str, list[int]], rounds: int
) -> str:
    """The same instructions propagated together and one after the other, alternately, for each placement of keyframes."""
    rows = []
    for name, keyframes in placements.items():
        work = Propagation(segmenter, video, keyframes)
        pairs = [(clock.seconds(work.together), clock.seconds(work.one_at_a_time)) for _ in range(rounds)]
        sizes = work.sizes
        steps = sum(sizes)
        batched, single = (1000 * median(column) / steps for column in zip(*pairs, strict=True))
        ratio = median(alone / joint for joint, alone in pairs)
        mean = f"{steps / len(sizes):.1f}"
        rows.append([name, str(steps), mean, f"{batched:.2f}", f"{single:.2f}", f"**{ratio:.2f}**"])
    head = ["keyframes", "steps", "mean batch", "batched, ms a step", "one at a time, ms a step", "ratio"]
    return table(head, rows)


def top_operators(work: Propagation, limit: int = 10) -> str:
    """The operators that take most CPU time of their own in one batched propagation."""
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        work.together()
    averages = recorded.key_averages()
    total = sum(entry.self_cpu_time_total for entry in averages)
    largest = sorted(averages, key=lambda entry: -entry.self_cpu_time_total)[:limit]
    rows = [
        [
            entry.key,
            str(entry.count),
            f"{entry.self_cpu_time_total / 1000:.0f}",
            f"{entry.self_cpu_time_total / total:.1%}",
        ]
        for entry in largest
    ]
    return table(["operator", "calls", "own ms", "share"], rows)


def main() -> None:
    options = arguments(__doc__)
    clock, count = Clock(options.clock), 20
    print(header(options))
    for dims in options.dims:
        with benchmark_model(dims) as model, torch.inference_mode():
            segmenter: Segmenter = shared_network(model, "segmenter", "cpu", "float32")
            # a step of the real sizes costs some fifty tiny ones
            total, batches, rounds = (40, (1, 4, MAX_BATCH), 3) if dims == "tiny" else (8, (1, 4), 1)
            if options.quick:
                total, batches, rounds = (20 if dims == "tiny" else 4), (1, 4), 1
            video = benchmark_video(model, total)
            print(f"\n## {dims}: {segmenter.config.image_size} px\n\n{breakdown(segmenter, video, clock, batches)}")
            grid = list(range(0, total, -(-total // 11)))  # the sampled frames, from which TKS chooses
            spread = np.random.default_rng(0).choice(grid, count).tolist()
            placements = {"spread over the sampled frames": spread}
            if not options.quick:  # the best case for batching
                placements["all the same"] = [total // 2] * count
            compared = batched_against_single(segmenter, video, clock, placements, rounds)
            print(f"\nPropagation of E = {count} instructions over T = {total} frames, features cached:\n\n{compared}")
            profiled = top_operators(Propagation(segmenter, video, spread[:5]))
            print(f"\nProfile of 5 of these instructions, batched:\n\n{profiled}", flush=True)


if __name__ == "__main__":
    main()

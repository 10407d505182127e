"""How busy a GPU is kept: the labelling stages with a stand-in for the GPU, whose calls take as long as a real one's.

    python -m tests.benchmarks.bench_busy [--frames 100] [--instructions 16] [--stretch 4] [--json]

Decoding, copies of frames, sampling, prompts, holes, mask codes and the writing of tables are real. The networks are not: each
call waits for the stand-in, which works on one call at a time, and lets go of Python's lock meanwhile. A call returns when
the stand-in has finished it, so the host never runs ahead of the device as it does on a GPU: the shares are lower bounds.
The device's seconds are estimates for an H100 (`COSTS`), not measurements.

`--stretch 4` makes the device four times as slow. This machine's cores then stand for four times as many beside a GPU.

First table: the share of time in which the device is busy, for one to three units at once in one process, from the end of
the first unit until a thread finds no unit left. Second table: CPU and device seconds of a unit by frame size, and the
cores that a GPU needs to be busy for 90 % of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import av
import numpy as np
import torch
from torch import Tensor, nn

from tests.benchmarks.bench_propagation import header
from tests.support.label_runs import instruction, write_table
from vrshq.operators.masks import rle
from vrshq.operators.models import preprocess, shared
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.config import ClipConfig, ModelConfig
from vrshq.operators.models.resample import Resize
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.tracker import Sam2Tracker
from vrshq.operators.models.sam2.values import Decoded, Features, Memory
from vrshq.operators.models.vrs_hq import load
from vrshq.operators.models.vrs_hq.network import ReadOut
from vrshq.operators.models.vrs_hq.prompt import Prompt
from vrshq.pipelines.label.planning.plan import begun, in_this_process, make_plan, worker_arguments
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.work.worker import UnitWorker

MODEL = "tiny"  # gives tokenizers and the widths of embeddings; its weights are not loaded
SIZES = {"480p": (480, 854), "1080p": (1080, 1920), "4K": (2160, 3840)}
# Seconds on an H100 in bfloat16: of a frame, a set of frames, an instruction, an object on a frame.
COSTS = {
    "clip": 0.001,
    "text": 0.002,
    "tower": 0.001,
    "prefix": 0.041,
    "suffix": 0.010,
    "encode": 0.010,
    "candidate": 0.002,
    "track": 0.002,
    "resize": 0.0002,
    "codes": 0.0003,
}
LOW = 256


@dataclass
class Device:
    """The stand-in: one call at a time. `calls` holds the begin and end of each on the monotonic clock."""

    stretch: float
    calls: list[tuple[float, float]] = field(default_factory=list)
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def work(self, kind: str, count: int = 1) -> None:
        with self._turn:
            begin = time.monotonic()
            time.sleep(self.stretch * COSTS[kind] * count)
            self.calls.append((begin, time.monotonic()))

    def busy(self, begin: float, end: float) -> float:
        """Seconds of work between two times."""
        return sum(max(0.0, min(one[1], end) - max(one[0], begin)) for one in self.calls)


class ClipThere(nn.Module):
    """The pre-sampling CLIP."""

    def __init__(self, config: ClipConfig, device: Device) -> None:
        super().__init__()
        self.config, self.there = config, device
        self.logit_scale = nn.Parameter(torch.tensor(2.66))
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def image_features(self, pixels: Tensor) -> Tensor:
        self.there.work("clip", len(pixels))
        return torch.ones(len(pixels), 8)

    def text_features(self, ids: Tensor) -> Tensor:
        self.there.work("text", len(ids))
        return torch.ones(len(ids), 8)


class LanguageThere(nn.Module):
    """The MLLM."""

    def __init__(self, config: ModelConfig, device: Device) -> None:
        super().__init__()
        self.config, self.there = config, device
        self.device, self.dtype = torch.device("cpu"), torch.float32

    def image_tokens(self, pixels: Tensor) -> Tensor:
        self.there.work("tower", len(pixels))
        return torch.zeros(len(pixels), 1, 1)

    def read_out_sets(
        self,
        sets: Sequence[tuple[Sequence[Prompt], Tensor]],
        max_suffixes: int,  # noqa: ARG002
    ) -> list[list[ReadOut]]:
        width = self.config.out_dim
        for prompts, _ in sets:
            self.there.work("prefix")
            self.there.work("suffix", len(prompts))
        return [
            [ReadOut(torch.rand(len(prompt.seg_positions), width), torch.rand(width)) for prompt in prompts]
            for prompts, _ in sets
        ]


class SegmenterThere(Segmenter):
    """SAM2: masks are a blob with four holes."""

    def __init__(self, config: ModelConfig, device: Device) -> None:
        super().__init__(replace(config.sam2, image_size=4 * LOW))
        self.there = device

    def encode(self, pixels: Tensor) -> Features:
        self.there.work("encode", len(pixels))
        maps = torch.zeros(len(pixels), 1, 1, 1)
        return Features(maps, maps, maps)

    def decode_prompt(self, features: Features, embedding: Tensor) -> Decoded:  # noqa: ARG002
        self.there.work("candidate", len(embedding))
        return _decoded(len(embedding))

    def condition(self, features: Features, masks: Tensor, hole_area: int) -> tuple[Tensor, Memory]:  # noqa: ARG002
        self.there.work("candidate", len(masks))
        return blob(len(masks)), Memory(torch.zeros(len(masks), 1, 1, 1), torch.zeros(len(masks), 1))

    def track(self, features: Features, conditioning: Any, *_: Any, **__: Any) -> tuple[Decoded, Memory]:  # noqa: ARG002
        count = len(conditioning[0].pointer)
        self.there.work("track", count)
        return _decoded(count), Memory(torch.zeros(count, 1, 1, 1), torch.zeros(count, 1))

    def to_image_size(self, low_res: Tensor) -> Tensor:
        return low_res


def blob(count: int) -> Tensor:
    """Mask logits (B, l, l): a round object with a wavy outline and four small holes."""
    y, x = torch.meshgrid(torch.arange(LOW) - 120.0, torch.arange(LOW) - 100.0, indexing="ij")
    radius = 50 + 6 * torch.sin(9 * torch.atan2(y, x))
    logits = radius - (x**2 + y**2).sqrt()
    for top, left in ((100, 90), (110, 120), (130, 80), (140, 110)):
        logits[top : top + 2, left : left + 2] = -1
    return logits.expand(count, -1, -1).clone()


def _decoded(count: int) -> Decoded:
    return Decoded(blob(count), torch.ones(count), torch.ones(count), torch.zeros(count, 1))


@contextmanager
def networks_there(device: Device, frame: tuple[int, int]) -> Iterator[None]:
    """A context in which the stages' networks, resizes and packed masks are the stand-in's."""
    logits = to_frame_size(blob(1), 4 * LOW, preprocess.sam2_size(*frame, 4 * LOW), frame)
    packed = rle.packed_changes(logits > 0).numpy()

    def resized(frames: np.ndarray, resize: Resize, _: torch.device) -> Tensor:
        for one in frames:
            np.empty_like(one)[:] = one  # the host's copy into pinned memory
        device.work("resize", len(frames))
        return torch.empty((len(frames), *resize.kept, 3), dtype=torch.uint8)

    def codes(masks: Tensor) -> list[rle.EncodedMask]:
        device.work("codes", len(masks))
        return rle.encode_changes(np.repeat(packed, len(masks), 0), *frame)

    model = open_bundle(MODEL).model
    there: dict[str, Any] = {
        "clip": ClipThere(model.clip, device),
        "language": LanguageThere(model, device),
        "segmenter": SegmenterThere(model, device).eval(),
    }
    with ExitStack() as patches:
        loaders = {part: lambda *_, network=network: network for part, network in there.items()}
        patches.enter_context(patch.dict(load.LOADERS, loaders))
        patches.enter_context(patch.object(preprocess, "_resized", resized))
        patches.enter_context(patch.object(preprocess.Pixels, "on", lambda pixels, *_: pixels.rows[:, :1, :1]))
        patches.enter_context(patch.object(Sam2Tracker, "full_size", lambda _, __, low_res: low_res))
        patches.enter_context(patch.object(rle, "encode_tensor", codes))
        shared.shared_network.cache_clear()
        shared.shared_segmenter.cache_clear()
        yield


@dataclass(frozen=True)
class Measured:
    """One run: the share of time in which the device was busy, and CPU and device seconds of a unit, not stretched."""

    at_once: int
    busy: float
    cpu_s: float
    device_s: float


def measure(
    video: Path, frame: tuple[int, int], at_once: int, units: int, instructions: int, stretch: float
) -> Measured:
    """Labels `units` copies of a video, `at_once` of them at the same time in threads of one worker."""
    device, ended, idle = Device(stretch), [], []
    with tempfile.TemporaryDirectory() as folder, networks_there(device, frame):
        rows = [
            instruction(str(video), number, f"thing {number}", video_id=f"v{unit}")
            for unit in range(units)
            for number in range(instructions)
        ]
        table = write_table(Path(folder) / "t.jsonl", rows)
        settings = Settings(model=MODEL, max_instructions_per_unit=instructions)
        plan = in_this_process(begun(make_plan(table, folder + "/run", settings), retry_errors=False))
        worker = UnitWorker(**worker_arguments(plan, plan.pools[0]))
        left = list(range(plan.todo.num_rows))

        def lane() -> None:
            while left:
                receipt = worker(plan.todo.slice(left.pop(), 1)).to_pylist()[0]
                assert receipt["errors"] == 0, receipt
                ended.append(time.monotonic())
            idle.append(time.monotonic())

        cpu = time.process_time()
        with ThreadPoolExecutor(at_once) as pool:
            for one in [pool.submit(lane) for _ in range(at_once)]:
                one.result()
        cpu = time.process_time() - cpu
    begin, end = min(ended), min(idle)
    whole = sum(stop - start for start, stop in device.calls)
    return Measured(at_once, device.busy(begin, end) / (end - begin), cpu / units, whole / units / stretch)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=100)
    parser.add_argument("--instructions", type=int, default=16)
    parser.add_argument("--stretch", type=float, default=4.0)
    parser.add_argument("--threads", type=int, default=1, help="of torch")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    with tempfile.TemporaryDirectory() as folder:
        videos = {}
        for name, size in SIZES.items():
            videos[name] = Path(folder) / f"{name}.mp4"
            film(videos[name], chosen.frames, size)
        cores = os.cpu_count() or 1
        if not chosen.json:
            print(header(chosen), f"\nunits of {chosen.frames} frames, {chosen.instructions} instructions; 1080p\n")
            print(f"at once   busy, {cores} cores   busy, as beside {chosen.stretch:g} x {cores} cores")
        shares: dict[int, list[float]] = {}
        for at_once in (1, 2, 3):
            of_one = (videos["1080p"], SIZES["1080p"], at_once, 2 * at_once + 1, chosen.instructions)
            shares[at_once] = [measure(*of_one, stretch).busy for stretch in (1.0, chosen.stretch)]
            if not chosen.json:
                print(f"{at_once:7}   {shares[at_once][0]:13.0%}   {shares[at_once][1]:.0%}")
        costs = {name: measure(videos[name], size, 1, 1, chosen.instructions, 1.0) for name, size in SIZES.items()}
        needed = {name: 0.9 * one.cpu_s / one.device_s for name, one in costs.items()}
        if chosen.json:
            print(json.dumps({"busy": shares, "cores": needed}))
            return
        print("\nframe    CPU s a unit   device s a unit   cores for 90 %")
        for name, one in costs.items():
            print(f"{name:7}  {one.cpu_s:12.1f}   {one.device_s:15.1f}   {needed[name]:.1f}")


def film(path: Path, frames: int, size: tuple[int, int]) -> None:
    """A moving texture of 25 frames per second in H.264."""
    height, width = size
    noise = np.random.default_rng(0).integers(0, 256, (height // 8 + frames, width // 8 + 1, 3), dtype=np.uint8)
    large = noise.repeat(8, 0).repeat(8, 1)
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25)
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        for number in range(frames):
            picture = np.ascontiguousarray(large[4 * number : 4 * number + height, :width])
            output.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        output.mux(stream.encode())


if __name__ == "__main__":
    main()

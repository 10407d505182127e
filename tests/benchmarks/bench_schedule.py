"""The shared schedule against one instruction at a time, and against the work that no schedule can leave out.

    python -m tests.benchmarks.bench_schedule [--quick] [--dims tiny hiera-tiny] [--large] [--clock wall|cpu] [--threads 1]

Both schedules run alternately in one process, from frames in memory to run-length codes. The bound is T image encodings,
E * T tracking steps (memory attention, mask decoder and memory encoder in the steady state), one prompt prefix for each
distinct set of sampled frames and E suffixes, each timed alone in the same process, at the better of the batch sizes tried.
SAM2's own modules make that bound, so it stays what it is when the tracking step is improved; the second bound has
`Segmenter.track`, timed alone in the same way, in their place.
The reference with many instructions of real size is not run but extrapolated from one instruction, and marked so. `--large`:
Hiera-L at 1024 px, of which nothing is run whole: both schedules are worked out from the times of their parts.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch

from tests.benchmarks.bench_propagation import (
    MAX_BATCH,
    Clock,
    Step,
    arguments,
    benchmark_model,
    benchmark_video,
    header,
    table,
)
from tests.benchmarks.reference_schedule import (
    HOLE_AREA,
    ReferenceSchedule,
    counted_calls,
    first_unit,
    shared_schedule,
)
from tests.support.array_video import ArrayVideo, unit_batch
from vrshq.operators.batch import Unit, run_operators
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.clip import image_embeddings
from vrshq.operators.models.preprocess import sam2_input, tower_input
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.tracking import condition_all
from vrshq.operators.models.shared import shared_network
from vrshq.operators.models.vrs_hq.prompt import normalize

MAX_SUFFIXES = 8  # instructions of one batch, at most `TokensConfig.max_suffixes`


def instructions(count: int) -> list[str]:
    return [f"the thing number {number} that moves" for number in range(count)]


def memory_mib(field: str) -> float:
    """`VmRSS` (now) or `VmHWM` (peak) of this process in MiB; 0 where the system does not tell."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    except OSError:
        return 0.0
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def forget_peak(*, trim: bool = False) -> None:
    """Lets `VmHWM` start again at what is held now; `trim`: once freed memory was given back (Linux)."""
    try:
        if trim:
            gc.collect()
            ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        pass


@dataclass(frozen=True)
class Run:
    """`peak` is the memory above what the process held before, in MiB; `calls` are SAM2 image encodings."""

    seconds: float
    peak: float
    calls: int


class Schedules:
    """Both schedules of one model on one video, to be run alternately."""

    def __init__(self, model: str, video: ArrayVideo, clock: Clock) -> None:
        self.model, self.video, self.clock = model, video, clock
        self.operators, self.reference = shared_schedule(model), ReferenceSchedule(model)
        self.unit: Unit = {}

    def run_shared(self, count: int) -> Run:
        def work() -> None:
            self.unit = first_unit(run_operators(self.operators, unit_batch(self.video, instructions(count))))

        return self._measure(work)

    def run_reference(self, count: int) -> Run:
        def work() -> None:
            for text in instructions(count):
                self.reference.answer(self.video, text)

        return self._measure(work)

    def _measure(self, work: Callable[[], None]) -> Run:
        self.unit = {}
        forget_peak(trim=True)
        before = memory_mib("VmRSS")
        with counted_calls(self.model) as calls:
            seconds = self.clock.seconds(work)
        return Run(seconds, memory_mib("VmHWM") - before, calls.sam2)


@dataclass(frozen=True)
class Work:
    """A kind of work, how often it is done, and the seconds of each when timed alone."""

    name: str
    count: int
    each: float

    @property
    def seconds(self) -> float:
        return self.count * self.each


def total_seconds(works: Iterable[Work]) -> float:
    return sum(work.seconds for work in works)


@dataclass(frozen=True)
class Bound:
    """The necessary work. `sam2_step`: the tracking steps by SAM2's own modules; `own_step`: the same by ours."""

    once: list[Work]
    sam2_step: list[Work]
    own_step: list[Work]


def bound(model: str, video: ArrayVideo, unit: Unit, clock: Clock) -> Bound:
    """The necessary work for the unit that the shared schedule has just answered."""
    segmenter = shared_network(model, "segmenter", "cpu", "float32")
    count, total = len(unit["texts"]), video.num_frames
    pixels, _ = sam2_input(video.array[:4], segmenter.image_size)

    def per_item(call: Callable[[], Any], items: int) -> float:
        return clock.median(call) / items

    encoding = min(per_item(lambda size=size: segmenter.encode(pixels[:size]), size) for size in (1, len(pixels)))  # type: ignore[misc]
    features = segmenter.encode(pixels[:1])
    # at the real sizes a batch of more is slower than one of four
    largest = min(count, MAX_BATCH if segmenter.image_size < 512 else 4)
    batches = [Step(segmenter, features, size) for size in sorted({1, largest})]
    parts = {name: min(per_item(step.parts()[name], step.batch) for step in batches) for name in batches[0].parts()}
    prefix, suffix = _language(model, video, unit, clock)
    own = min(per_item(step.track, step.batch) for step in batches)
    return Bound(
        once=[
            Work("image encoding", total, encoding),
            Work("prompt prefix", len(set(map(tuple, unit["sampled_frames"]))), prefix),
            Work("prompt suffix", count, suffix),
        ],
        sam2_step=[Work(name.replace("_", " "), count * total, seconds) for name, seconds in parts.items()],
        own_step=[Work("`Segmenter.track`", count * total, own)],
    )


def _language(model: str, video: ArrayVideo, unit: Unit, clock: Clock) -> tuple[float, float]:
    """Seconds of one prefix, and of one suffix in a batch of as many as the operator takes."""
    network = shared_network(model, "language", "cpu", "float32")
    tokenizer = open_bundle(model).prompt_tokenizer()
    frames = unit["sampled_frames"][0]
    texts = [normalize(text) for text in unit["texts"][:MAX_SUFFIXES]]
    prompts = [tokenizer.encode(text, len(frames)) for text in texts]
    tokens = network.image_tokens(tower_input(video.frames(frames), network.config.tower))
    prefix = network.run_prefix(prompts[0], tokens)
    seconds = clock.median(lambda: network.run_prefix(prompts[0], tokens))
    return seconds, clock.median(lambda: network.suffix_states(prefix, prompts)) / len(prompts)


def beside(model: str, video: ArrayVideo, unit: Unit, clock: Clock) -> list[Work]:
    """What the shared schedule does besides the bound's work."""
    segmenter = shared_network(model, "segmenter", "cpu", "float32")
    language, clip = (shared_network(model, part, "cpu", "float32") for part in ("language", "clip"))
    count, total = len(unit["texts"]), video.num_frames
    sampled = unit["sampled_frames"]
    candidates = sum(map(len, sampled))
    size = min(candidates, MAX_BATCH)
    features = VideoFeatures(segmenter, video, budget_bytes=1 << 30, batch_size=1)
    image = features.get([0])
    prompts = torch.tensor(unit["prompts"][0]).expand(size, -1)
    step = Step(segmenter, image, 1)
    frame = (video.height, video.width)
    pixels = tower_input(video.array[:1], language.config.tower)

    def condition() -> Any:
        return condition_all(segmenter, features, {0: 0}, {0: step.low_res[0]}, HOLE_AREA)

    return [
        Work("resizing for SAM2", total, clock.median(lambda: sam2_input(video.array[:1], segmenter.image_size))),
        Work("CLIP image", total, clock.median(lambda: image_embeddings(clip, video, 16)) / total),
        Work(
            "vision tower and clustering",
            len(set().union(*sampled)),
            clock.median(lambda: language.image_tokens(pixels)),
        ),
        Work(
            "TKS candidate mask",
            candidates,
            clock.median(lambda: segmenter.decode_prompt(image[[0] * size], prompts)) / size,
        ),
        Work("keyframe mask entered", count, clock.median(condition)),
        Work("output: holes, resize, RLE", count * total, clock.median(lambda: step.output(frame))),
    ]


def where_time_goes(needed: Bound, extra: list[Work], shared: float) -> str:
    """Each kind of work timed alone, times its count, beside the measured whole."""
    groups = {
        "bound": needed.once,
        "bound, SAM2's module": needed.sam2_step,
        "instead of those": needed.own_step,
        "besides": extra,
    }
    rows = [
        [
            f"{group}: {work.name}",
            str(work.count),
            f"{1000 * work.each:.2f}",
            f"{work.seconds:.2f}",
            f"{work.seconds / shared:.1%}",
        ]
        for group, works in groups.items()
        for work in works
    ]
    rest = shared - total_seconds([*needed.once, *needed.own_step, *extra])
    rows.append(["shared schedule less all that, with our step", "", "", f"{rest:.2f}", f"{rest / shared:.1%}"])
    return table(["work", "count", "ms each", "s", "of the shared schedule"], rows)


def compare(model: str, total: int, rounds: dict[int, int], extrapolate: bool, clock: Clock) -> None:
    """Prints the table of one model. `rounds`: for each number of instructions, how often the two are run."""
    video = benchmark_video(model, total)
    schedules = Schedules(model, video, clock)
    Schedules(model, benchmark_video(model, 2), clock).run_shared(1)  # warms up
    head = ["E", "reference, s", "shared, s", "ratio", "bound, s", "shared / bound", "with our step, s"]
    head += ["shared / that", "reference peak, MiB", "shared peak, MiB", "SAM2 encodings"]
    print(table(head, []), flush=True)
    details = ""
    single: list[Run] = []
    for count, repeats in rounds.items():
        shared: list[Run] = []
        reference: list[Run] = []
        for _ in range(repeats):
            shared.append(schedules.run_shared(count))
            unit = schedules.unit
            if count == 1 or not extrapolate:
                reference.append(schedules.run_reference(count))
        single = single or reference
        bases = reference or [Run(run.seconds * count, run.peak, run.calls * count) for run in single]
        necessary = bound(model, video, unit, clock)
        needed = total_seconds([*necessary.once, *necessary.sam2_step])
        ours = total_seconds([*necessary.once, *necessary.own_step])
        fast, slow = (median(run.seconds for run in runs) for runs in (shared, bases))
        row = [
            str(count),
            f"{slow:.2f}" + ("" if reference else " (extrapolated)"),
            f"{fast:.2f}",
            f"**{slow / fast:.2f}**",
            f"{needed:.2f}",
            f"**{fast / needed:.2f}**",
            f"{ours:.2f}",
            f"{fast / ours:.2f}",
            f"{median(run.peak for run in bases):.0f}",
            f"{median(run.peak for run in shared):.0f}",
            f"{bases[0].calls} / {shared[0].calls}",
        ]
        print("| " + " | ".join(row) + " |", flush=True)  # at once: the next one may take minutes
        if count == max(rounds):
            details = where_time_goes(necessary, beside(model, video, unit, clock), fast)
    print(f"\nE = {max(rounds)}, each kind of work timed alone:\n\n{details}", flush=True)


def from_components(model: str, total: int, sampled: int, counts: Iterable[int], clock: Clock) -> None:
    """Prints both schedules as the sum of their parts on SAM2's side, each part timed alone.

    For each instruction the reference encodes the sampled frames, the keyframe, the other frames, and the keyframe twice more.
    """
    video = benchmark_video(model, 4)
    segmenter = shared_network(model, "segmenter", "cpu", "float32")
    pixels, _ = sam2_input(video.array[:1], segmenter.image_size)
    encoding = clock.median(lambda: segmenter.encode(pixels))
    step = Step(segmenter, segmenter.encode(pixels), 1)
    parts = {name: clock.median(call) for name, call in step.parts().items()}
    track = clock.median(step.track)
    rows = [[name, f"{seconds:.3f}"] for name, seconds in {"image encoding": encoding, **parts}.items()]
    print(table(["part, B = 1", "seconds"], [*rows, ["whole tracking step, `Segmenter.track`", f"{track:.3f}"]]))
    rows = []
    for count in counts:
        calls = count * (sampled + 1 + (total - 1) + 2)
        reference = calls * encoding + count * total * sum(parts.values())
        shared = total * encoding + count * total * track
        share = calls * encoding / reference
        rows.append([str(count), f"{calls} / {total}", f"{reference:.0f}", f"{share:.0%}", f"{shared:.0f}"])
        rows[-1].append(f"**{reference / shared:.2f}**")
    head = ["E", "encodings", "reference, s", "of it encoding", "shared, s", "ratio"]
    print(f"\nWorked out for T = {total} and {sampled} sampled frames:\n\n{table(head, rows)}", flush=True)


def main() -> None:
    options = arguments(__doc__, large=True)
    clock = Clock(options.clock)
    print(header(options))
    if options.large:
        with benchmark_model("hiera-large") as model, torch.inference_mode():
            print("\n## hiera-large: 1024 px\n")
            from_components(model, 100, 11, (1, 5, 20, 34), clock)
        return
    for dims in options.dims:
        total, rounds = 40, {1: 3, 5: 2, 20: 1} if dims == "tiny" else {1: 2, 5: 1, 20: 1}
        if options.quick:
            total, rounds = (20, {1: 1, 5: 1}) if dims == "tiny" else (10, {1: 1, 5: 1})
        with benchmark_model(dims) as model, torch.inference_mode():
            image_size = shared_network(model, "segmenter", "cpu", "float32").image_size
            print(f"\n## {dims}: {image_size} px, T = {total}\n")
            compare(model, total, rounds, dims != "tiny", clock)


if __name__ == "__main__":
    main()

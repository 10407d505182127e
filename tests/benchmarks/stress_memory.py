"""Where tracking breaks: J against the distance from the keyframe, by the number of memories and their stride.

    python -m tests.benchmarks.stress_memory [--model tiny] [--videos 5] [--far 4096] [--output FOLDER]

Synthetic clips of 64 frames are played forth and back, as often as needed, so that a target is known on every frame at any
distance and its speed stays that of the clips. Each object that frame 0 shows gets its true mask there, and is tracked forward.
What is measured is therefore the memory alone: no text, no choice of a keyframe. `memories` counts the keyframe's own; with
`stride` r > 1, the nearest frame is followed by every r-th before it, as SAM 2 does it. Object pointers are those of SAM 2.

Prints a table and, with --output, writes `memory.json` and `memory.png`. The same clips and seeds give the same numbers.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.values import Features
from vrshq.operators.models.shared import shared_segmenter
from vrshq.operators.synth import SynthConfig, make_video

LENGTH = 64
DISTANCES = (8, 12, 16, 20, 64, 256, 1024, 4096)
WINDOW = 8  # frames from a distance on, over which J is averaged
SAMPLES = 1000


class Variant(NamedTuple):
    """How many memories a frame sees, the keyframe's included, and how far apart they are."""

    memories: int
    stride: int = 1

    @property
    def name(self) -> str:
        return f"{self.memories} memor{'ies' if self.memories > 1 else 'y'}" + (
            f", stride {self.stride}" if self.stride > 1 else ""
        )


# How far each is followed, as one of the options.
VARIANTS = {
    Variant(7): "far",
    Variant(1): "middle",
    Variant(7, 4): "middle",
    **dict.fromkeys((*(Variant(count) for count in range(2, 7)), Variant(7, 2), Variant(7, 8)), "near"),
}


@dataclass(frozen=True)
class Targets:
    """All objects of all clips: their features and true masks by frame, and the clip of each, (objects,)."""

    clips: list[VideoFeatures]
    clip_of: list[int]
    masks: np.ndarray  # (objects, LENGTH, H, W) bool


class Clip:
    """A clip in memory, (frames, H, W, 3) uint8, with the interface that models need."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array
        self.num_frames, self.height, self.width = array.shape[:3]

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        return self.array[list(indices)]


def place_at(distance: int) -> int:
    """The frame of the clip that lies at a distance from its frame 0 when it is played forth and back."""
    step = distance % (2 * (LENGTH - 1))
    return min(step, 2 * (LENGTH - 1) - step)


def seen_before(frame: int, variant: Variant) -> list[int]:
    """The tracked frames that a frame sees, nearest first, without the keyframe 0."""
    wanted = [frame - 1]
    last = (frame - 2) // variant.stride * variant.stride
    wanted += [last - step * variant.stride for step in range(variant.memories - 2)]
    return [one for one in wanted[: variant.memories - 1] if one > 0]


def make_targets(segmenter: Segmenter, videos: int, objects: int, seed: int) -> Targets:
    """Square clips of `LENGTH` frames, and of each the first objects that frame 0 shows."""
    side = segmenter.image_size
    config = SynthConfig(frames=(LENGTH, LENGTH), short_sides=(side,), aspects=(1.0,), expressions=1)
    clips, clip_of, masks = [], [], []
    for index in range(videos):
        video = make_video(seed, index, "test", config)
        clips.append(VideoFeatures(segmenter, Clip(np.asarray(video.frames)), budget_bytes=4 << 30, batch_size=4))
        shown = [mask for mask in video.masks if mask[0].sum() > 50][:objects]
        clip_of += [index] * len(shown)
        masks += shown
    return Targets(clips, clip_of, np.stack(masks))


def features_at(targets: Targets, frame: int) -> Features:
    """The features of a frame of each object's clip, a row for each object."""
    rows = [clip.get([frame]) for clip in targets.clips]
    return Features.concatenate([rows[clip] for clip in targets.clip_of])


@torch.inference_mode()
def track(segmenter: Segmenter, targets: Targets, variant: Variant, far: int) -> np.ndarray:
    """J of each object at each distance up to `far + WINDOW`: (objects, far + WINDOW) float32.

    NaN where the object is not shown, and at distances that no window needs.
    """
    count, size = len(targets.masks), targets.masks.shape[2:]
    found = np.full((count, far + WINDOW), np.nan, np.float32)
    needed = {step for start in DISTANCES for step in range(start, start + WINDOW)} | set(range(LENGTH))
    true = torch.from_numpy(targets.masks[:, 0])
    _, key = segmenter.condition(features_at(targets, 0), true, 0)
    kept: dict[int, Tensor] = {}
    pointers: list[Tensor] = []
    for frame in range(1, far + WINDOW):
        recent = [kept[one] for one in seen_before(frame, variant)]
        decoded, memory = segmenter.track(features_at(targets, place_at(frame)), [key], recent, pointers)
        kept[frame] = memory.features
        kept = {one: value for one, value in kept.items() if frame - one < variant.memories * variant.stride + 1}
        pointers = [memory.pointer, *pointers][: segmenter.max_obj_ptrs_in_encoder - 1]
        if frame in needed:
            masks = to_frame_size(decoded.low_res, segmenter.image_size, targets.clips[0].resized_hw, size).numpy() > 0
            found[:, frame] = overlap(targets.masks[:, place_at(frame)], masks)
    return found


def overlap(truth: np.ndarray, guess: np.ndarray) -> np.ndarray:
    """J of each object, (objects,); NaN where it is not shown."""
    union = (truth | guess).sum((1, 2))
    return np.where(truth.any((1, 2)), (truth & guess).sum((1, 2)) / np.maximum(union, 1), np.nan)


def summary(found: np.ndarray, clip_of: Sequence[int]) -> dict[str, dict[str, float]]:
    """By distance: J in percent with its interval over clips, and J as a share of that on the same frames, seen first."""
    result = {}
    random = np.random.default_rng(0)
    clips = np.array(clip_of)
    draws = random.integers(0, clips.max() + 1, (SAMPLES, clips.max() + 1))
    for distance in DISTANCES:
        if distance >= found.shape[1]:
            continue
        window = range(distance, distance + WINDOW)
        here = found[:, list(window)]
        first = found[:, [max(1, place_at(step)) for step in window]]
        shown = ~np.isnan(here).all(1)
        j, early = (np.nanmean(part[shown], 1) for part in (here, np.where(np.isnan(here), np.nan, first)))
        sums = np.array([[j[clips[shown] == one].sum(), (clips[shown] == one).sum()] for one in range(clips.max() + 1)])
        drawn = sums[draws].sum(1)
        means = drawn[drawn[:, 1] > 0, 0] / drawn[drawn[:, 1] > 0, 1]
        low, high = np.percentile(means, [2.5, 97.5])
        result[str(distance)] = {
            "objects": int(shown.sum()),
            "J": 100 * float(j.mean()),
            "low": 100 * float(low),
            "high": 100 * float(high),
            "of_first_pass": 100 * float(j.sum() / early.sum()),
            "lost": 100 * float((j < 0.1).mean()),
        }
    return result


def print_table(results: dict[str, dict[str, dict[str, float]]]) -> None:
    head = "".join(f"{distance:>8}" for distance in DISTANCES)
    for title, value in (
        ("J, percent, at frames from the keyframe", "J"),
        ("J as a share of that of the first pass over the same frames, percent", "of_first_pass"),
        ("objects lost (J below 10 percent), percent", "lost"),
    ):
        print(f"\n{title}\n{'':24}{head}")
        for name, found in results.items():
            cells = "".join(f"{found[str(d)][value]:8.1f}" if str(d) in found else f"{'-':>8}" for d in DISTANCES)
            print(f"{name:24}{cells}")


def draw(results: dict[str, dict[str, dict[str, float]]], path: Path) -> None:
    """A line for each variant, with the interval of the first, as PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5), dpi=110)
    for name, found in results.items():
        distances = [int(one) for one in found]
        axes.plot(distances, [one["J"] for one in found.values()], marker="o", markersize=4, label=name)
    base = next(iter(results.values()))
    low, high = ([one[end] for one in base.values()] for end in ("low", "high"))
    axes.fill_between([int(one) for one in base], low, high, alpha=0.15, color="C0")
    axes.set(xscale="log", xlabel="frames from the keyframe", ylabel="J, %", ylim=(0, 100), xticks=DISTANCES)
    axes.set_xticks(DISTANCES, [f"{one:,}" for one in DISTANCES])
    axes.minorticks_off()
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, ncol=2)
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--videos", type=int, default=5)
    parser.add_argument("--objects", type=int, default=2, help="of each video, at most")
    parser.add_argument("--seed", type=int, default=29)
    parser.add_argument("--far", type=int, default=4096, help="largest distance for SAM 2's own 7 memories")
    parser.add_argument("--middle", type=int, default=1024, help="largest distance for 1 memory, and for stride 4")
    parser.add_argument("--near", type=int, default=256, help="largest distance for the others")
    parser.add_argument("--output", type=Path, help="folder of memory.json and memory.png")
    options = parser.parse_args()
    torch.set_num_threads(1)
    segmenter: Segmenter = shared_segmenter(options.model, "cpu", "float32")
    targets = make_targets(segmenter, options.videos, options.objects, options.seed)
    print(f"{len(targets.clips)} clips, {len(targets.masks)} objects, {options.model}")
    results: dict[str, dict[str, dict[str, float]]] = {}
    for variant, distance in VARIANTS.items():
        begin = time.process_time()
        found = track(segmenter, targets, variant, getattr(options, distance))
        results[variant.name] = summary(found, targets.clip_of)
        print(f"{variant.name}: {time.process_time() - begin:.0f} s of CPU", flush=True)
        if options.output:
            options.output.mkdir(parents=True, exist_ok=True)
            (options.output / "memory.json").write_text(json.dumps(results, indent=2) + "\n")
            draw(results, options.output / "memory.png")
    print_table(results)


if __name__ == "__main__":
    main()

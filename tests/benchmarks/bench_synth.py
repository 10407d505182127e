"""How fast synthetic videos are made: videos a second of CPU time in one process, by size.

    OMP_NUM_THREADS=1 python -m tests.benchmarks.bench_synth [videos]

One process, one OpenCV thread; CPU time, so that other programs on the machine change little. The first rows are what a
trainer asks for in memory; the last is what `vrshq synth` makes by default, without and with the encoding of JPEG and mp4
(in memory: nothing goes to disk).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import cv2

from vrshq.operators.synth import SynthConfig, SynthVideo, make_video
from vrshq.pipelines.synth.encode import encode_jpeg, encode_mp4

CONFIGS = {
    "128 px, 8 frames": SynthConfig(frames=(8, 8), short_sides=(128,), aspects=(1.0,)),
    "128 px, 8 frames, 2-3 objects": SynthConfig(frames=(8, 8), short_sides=(128,), aspects=(1.0,), objects=(2, 3)),
    "128 px, 16 frames": SynthConfig(frames=(16, 16), short_sides=(128,), aspects=(1.0,)),
    "480p, 16 frames": SynthConfig(frames=(16, 16), short_sides=(480,), aspects=(16 / 9,)),
    "default": SynthConfig(),
}


def measure(config: SynthConfig, count: int, use: Callable[[SynthVideo], object]) -> tuple[float, float]:
    """Videos and expressions a second of CPU time."""
    make_video(0, 0, "train", config)
    begin, expressions = time.process_time(), 0
    for index in range(count):
        video = make_video(0, index, "train", config)
        expressions += len(video.expressions)
        use(video)
    seconds = time.process_time() - begin
    return count / seconds, expressions / seconds


def encode(video: SynthVideo) -> None:
    """What `vrshq synth` does with a video, short of writing it."""
    for frame in video.frames:
        encode_jpeg(frame)
    encode_mp4(video.frames)


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 100
    cv2.setNumThreads(1)
    for name, config in CONFIGS.items():
        few = max(5, count // (10 if config.short_sides[-1] > 128 else 1))
        videos, expressions = measure(config, few, lambda _: None)
        print(f"{name:<32} {videos:>7.1f} videos/CPU s  {expressions:>7.0f} expressions/CPU s", flush=True)
    videos, expressions = measure(SynthConfig(), max(5, count // 10), encode)
    print(f"{'default, encoded':<32} {videos:>7.1f} videos/CPU s  {expressions:>7.0f} expressions/CPU s")


if __name__ == "__main__":
    main()

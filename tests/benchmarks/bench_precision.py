"""What half precision costs and gives on this machine: time of SAM2's parts, and mask IoU against float32.

    python -m tests.benchmarks.bench_precision

Times are of Hiera-tiny's real sizes at 512 px with random weights, in processor seconds of one thread, each precision in turn,
median of the rounds. IoU is of all masks of the demo clips with `untrained-tiny`, whose masks have far more boundary than real
ones: a lower bound in spirit, not a quality figure.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch

from tests.support.paths import DEMO
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.masks import rle
from vrshq.operators.models.config import Sam2Config
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.values import Memory
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import MASKS, TRACKS

HIERA_TINY_512 = Sam2Config(
    image_size=512,
    embed_dim=96,
    num_heads=1,
    stages=(1, 2, 7, 2),
    window_spec=(8, 4, 14, 7),
    global_attention_blocks=(5, 7, 9),
)
PRECISIONS = ("float32", "bfloat16", "float16")
ROUNDS = 3
INSTRUCTIONS = DEMO / "instructions.jsonl"


def seconds(function: Callable[[], object]) -> float:
    begin = time.process_time()
    function()
    return time.process_time() - begin


@torch.inference_mode()
def times() -> dict[str, tuple[float, float]]:
    """Per precision the median seconds of one frame's encoding and of one tracking step with a full memory."""
    torch.manual_seed(0)
    weights = Segmenter(HIERA_TINY_512).state_dict()
    segmenters = {}
    for precision in PRECISIONS:
        segmenter = Segmenter(HIERA_TINY_512).eval()
        segmenter.load_state_dict(weights)
        segmenters[precision] = segmenter.compute_in(getattr(torch, precision))
    pixels = torch.randn(1, 3, 512, 512)
    keyframe = Memory(torch.randn(1, 64, 32, 32), torch.randn(1, 256))
    recent = [torch.randn(1, 64, 32, 32) for _ in range(6)]
    pointers = [torch.randn(1, 256) for _ in range(15)]
    found: dict[str, tuple[list[float], list[float]]] = {precision: ([], []) for precision in PRECISIONS}
    for round_number in range(ROUNDS + 1):
        for precision, (encode, track) in found.items():
            segmenter = segmenters[precision]
            features = segmenter.encode(pixels)
            like = features.s16.dtype
            pair = (
                seconds(partial(segmenter.encode, pixels)),
                seconds(
                    partial(
                        segmenter.track,
                        features,
                        [Memory(keyframe.features.to(like), keyframe.pointer.to(like))],
                        [memory.to(like) for memory in recent],
                        [pointer.to(like) for pointer in pointers],
                    )
                ),
            )
            if round_number:  # the first round warms up
                encode.append(pair[0])
                track.append(pair[1])
    return {name: (statistics.median(encode), statistics.median(track)) for name, (encode, track) in found.items()}


def masks_of(precision: str, folder: str) -> tuple[dict[tuple[str, str, int], np.ndarray], list[int]]:
    run = str(Path(folder, precision))
    label(
        str(INSTRUCTIONS), run, Settings.model_validate({"model": "untrained-tiny", "dtype": precision}), use_ray=False
    )
    directory = RunDirectory(run)
    masks = {
        (row["video_id"], row["instruction_id"], row["frame_index"]): rle.decode(
            row["rle"], row["height"], row["width"]
        )
        for row in directory.read("masks", MASKS).to_pylist()
    }
    return masks, directory.read("tracks", TRACKS, ["keyframe_index"])["keyframe_index"].to_pylist()


def main() -> None:
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread, {ROUNDS} rounds in turn")
    base = (times_by := times())["float32"]
    with tempfile.TemporaryDirectory() as folder:
        reference, keyframes = masks_of("float32", folder)
        print("| precision | encode s | ratio | track s | ratio | mean IoU | worst IoU | keyframes that differ |")
        print("| --- | --- | --- | --- | --- | --- | --- | --- |")
        for precision in PRECISIONS:
            masks, chosen = masks_of(precision, folder)
            overlaps = [
                (mask & masks[key]).sum() / max(1, (mask | masks[key]).sum()) if mask.any() or masks[key].any() else 1.0
                for key, mask in reference.items()
            ]
            encode, track = times_by[precision]
            moved = sum(one != other for one, other in zip(chosen, keyframes, strict=True))
            print(
                f"| {precision} | {encode:.3f} | {encode / base[0]:.2f} | {track:.3f} | {track / base[1]:.2f} "
                f"| {np.mean(overlaps):.4f} | {min(overlaps):.4f} | {moved} of {len(keyframes)} |"
            )


if __name__ == "__main__":
    main()

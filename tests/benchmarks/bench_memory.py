"""Peak memory of the whole chain of operators against the length of the video.

    python -m tests.benchmarks.bench_memory [--quick] [--threads 1]

A fresh process for each length decodes an H.264 file of 160 x 96 pixels and answers two instructions with the tiny model.
The budgets are scaled down with the model, so that the shortest video already fills them: what still grows with the video
would show. The peak while each operator runs is shown above what the process held before the video, when it was warm.
"""

from __future__ import annotations

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import torch

from tests.benchmarks.bench_propagation import arguments, header, table
from tests.benchmarks.bench_schedule import forget_peak, instructions, memory_mib
from tests.benchmarks.reference_schedule import counted_calls, first_unit, shared_schedule
from tests.support.clips import h264
from vrshq.operators.batch import close_videos, new_batch, run_operators
from vrshq.operators.decode import Decode
from vrshq.operators.video.files import DecodeConfig

FRAME_CACHE, FEATURE_CACHE = 4 << 20, 16 << 20  # 91 frames of 160 x 96, and features of 64 at 256 px
MODEL = "untrained-tiny"
STAGES = ("decode", "pre-sampling", "tokens", "fusion", "keyframe", "propagation")


def label(short: str, path: str, threads: int) -> list[str]:
    """Answers a short video, after which all libraries are loaded, then the one in question: its row of the table."""
    torch.set_num_threads(threads)
    operators = [
        Decode(DecodeConfig(frame_cache_bytes=FRAME_CACHE)),
        *shared_schedule(MODEL, feature_cache_bytes=FEATURE_CACHE),
    ]
    texts = instructions(2)
    unit = {"unit_id": "u", "video_id": "v", "instruction_ids": texts, "texts": texts}
    close_videos(run_operators(operators, new_batch([unit | {"video_uri": short}])))
    forget_peak(trim=True)
    before, begin = memory_mib("VmRSS"), time.perf_counter()
    batch, peaks = new_batch([unit | {"video_uri": path}]), []
    with counted_calls(MODEL) as calls:
        for operator in operators:
            forget_peak()
            batch = operator(batch)
            peaks.append(memory_mib("VmHWM"))
    seconds = time.perf_counter() - begin
    done = first_unit(batch)
    masks = sum(len(code) for row in done["rles"] for code in row) / 2**20
    row = [
        str(done["num_frames"]),
        f"{max(peaks):.0f}",
        f"**{max(peaks) - before:.0f}**",
        *(f"{peak - before:.0f}" for peak in peaks),
        f"{masks:.2f}",
        str(calls.sam2),
        str(done["video"].decode_passes),
        f"{seconds:.0f}",
    ]
    close_videos(batch)
    return row


def run(options: argparse.Namespace) -> str:
    lengths = (50, 150, 400) if options.quick else (100, 500, 2000)
    rows = []
    fresh = multiprocessing.get_context("spawn")
    with tempfile.TemporaryDirectory() as folder:
        short = h264(Path(folder) / "short.mp4", frames=16)
        for length in lengths:
            clip = h264(Path(folder) / f"{length}.mp4", frames=length)
            with fresh.Pool(1) as pool:
                rows.append(pool.apply(label, (str(short), str(clip), options.threads)))
    head = ["T", "peak, MiB", "above a warm process, MiB", *STAGES]
    head += ["masks, MiB", "SAM2 encodings", "decode passes", "s"]
    return table(head, rows)


def main() -> None:
    options = arguments(__doc__, dims=False)
    print(header(options), flush=True)
    budgets = f"frame cache {FRAME_CACHE >> 20} MiB, feature cache {FEATURE_CACHE >> 20} MiB, E = 2"
    print(f"\n{budgets}:\n\n{run(options)}")


if __name__ == "__main__":
    main()

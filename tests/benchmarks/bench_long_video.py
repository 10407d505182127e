"""One very long video of small pictures: time by stage, memory, and what kills in the middle cost.

    python -m tests.benchmarks.bench_long_video --frames 216000 --kills 5

The model has untrained weights and the smallest sizes that the architecture allows, so that a frame takes milliseconds. The
command `vrshq label` runs undisturbed, then once more with `--kills` SIGKILLs, each when it has stored some more windows. The
tables must be equal. Redone work is counted in windows: those that were written more often than in the undisturbed run.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import av
import numpy as np
import psutil

from tests.support.label_runs import content
from vrshq.operators.models.bundle import BUNDLED
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.video import open_video

SMALLEST = {
    "image_size": 64,
    "d_model": 32,
    "memory_dim": 8,
    "embed_dim": 8,
    "stages": [1, 1, 2, 1],
    "window_spec": [8, 4, 4, 4],
    "global_attention_blocks": [3],
    "memory_attention_layers": 1,
    "memory_attention_dim_feedforward": 32,
    "decoder_dim_feedforward": 32,
    "num_maskmem": 3,
    "max_object_pointers": 4,
}
TEXTS = ["the square that moves"]


def write_video(path: Path, frames: int, side: int = 64) -> None:
    """A square that goes round and one that stays, 30 frames/s, groups of 250 frames as x264 makes them by default."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=30, options={"preset": "ultrafast", "g": "250"})
        stream.width = stream.height = side
        stream.pix_fmt = "yuv420p"
        for number in range(frames):
            picture = np.full((side, side, 3), 40, np.uint8)
            x, y = (int(side / 2 + side / 3 * move(number / 90)) for move in (np.cos, np.sin))
            picture[y - 5 : y + 5, x - 5 : x + 5] = (220, 60, 60)
            picture[4:14, 4:14] = (60, 60, 220)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode())


def write_model(folder: Path) -> None:
    """The built-in untrained model with a smaller SAM2."""
    shutil.copytree(BUNDLED / "untrained-tiny", folder)
    path = folder / "bundle.json"
    described = json.loads(path.read_text())
    described["model"]["sam2"] |= SMALLEST
    path.write_text(json.dumps(described))


class Command:
    """`vrshq label` in a process of its own, in which no Ray is started."""

    def __init__(self, place: Path, run: Path) -> None:
        code = (
            "import logging, sys; logging.basicConfig(level=logging.INFO, format='%(message)s', stream=sys.stdout);"
            "logging.getLogger('vrshq.units').setLevel(logging.INFO);"
            "from vrshq.pipelines.label.run import label; from vrshq.pipelines.label.settings import Settings;"
            f"label({str(place / 'table.jsonl')!r}, {str(run)!r}, Settings(model={str(place / 'model')!r}), use_ray=False)"
        )
        self.process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
        self.windows: list[str] = []
        self.peak = 0
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        threading.Thread(target=self._watch, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout or ():
            if line.startswith("{") and (done := json.loads(line).get("done", "")).startswith(("window", "clip")):
                self.windows.append(done)

    def _watch(self) -> None:
        watched = psutil.Process(self.process.pid)
        while self.process.poll() is None:
            try:
                self.peak = max(self.peak, watched.memory_info().rss)
            except psutil.NoSuchProcess:
                return
            time.sleep(0.2)

    def kill_after(self, windows: int) -> None:
        """Kills the process when it has stored so many more windows."""
        while len(self.windows) < windows and self.process.poll() is None:
            time.sleep(0.05)
        self.process.send_signal(signal.SIGKILL)
        self.wait()

    def wait(self) -> None:
        self.process.wait()
        self._reader.join()


def opening(path: Path) -> None:
    """Seconds to open the file and to read its last frame, by decord and by PyAV's index."""
    for decord_bytes, name in ((256 << 20, "default"), (1 << 20, "groups of pictures above decode.decord_bytes")):
        begin = time.perf_counter()
        with open_video(str(path), DecodeConfig(decord_bytes=decord_bytes)) as video:
            opened = time.perf_counter() - begin
            video.frames([video.num_frames - 1])
            last = time.perf_counter() - begin - opened
            print(
                f"{name}: {video.reader} ({video.reader_reason}), opened in {opened:.2f} s, last frame in {last:.2f} s"
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--frames", type=int, default=216_000)
    parser.add_argument("--kills", type=int, default=5)
    parser.add_argument("--place", type=Path, required=True, help="folder for the video and the runs")
    given = parser.parse_args()
    place: Path = given.place
    place.mkdir(parents=True, exist_ok=True)
    if not (place / "video.mp4").exists():
        write_video(place / "video.mp4", given.frames)
        write_model(place / "model")
        rows = [
            {"video_uri": "video.mp4", "instruction_id": str(number), "text": text} for number, text in enumerate(TEXTS)
        ]
        (place / "table.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"{given.frames:,} frames, {os.path.getsize(place / 'video.mp4') >> 20} MiB")  # noqa: PTH202
    opening(place / "video.mp4")

    whole, cost = place / "undisturbed", 0
    begin = time.perf_counter()
    undisturbed = Command(place, whole)
    undisturbed.wait()
    tables = content(str(whole))
    assert not tables["errors"], tables["errors"][0]
    print(f"undisturbed: {time.perf_counter() - begin:.0f} s, peak {undisturbed.peak >> 20} MiB, {stages(whole)}")
    cost = len(undisturbed.windows)

    killed, done = place / "killed", 0
    peaks = []
    for number in range(given.kills):
        command = Command(place, killed)
        command.kill_after(random.Random(number).randint(1, max(1, 2 * cost // (given.kills + 2))))
        done += len(command.windows)
        peaks.append(command.peak >> 20)
        print(f"kill {number + 1}: exit {command.process.returncode}, after {len(command.windows)} windows", flush=True)
    command = Command(place, killed)
    command.wait()
    done += len(command.windows)
    redone = done - cost
    print(f"killed: peaks {[*peaks, command.peak >> 20]} MiB, tables equal: {content(str(killed)) == tables}")
    print(f"windows written: {cost} undisturbed, {done} with kills: {redone / cost:.2%} more")
    assert content(str(killed)) == tables


def stages(run: Path) -> dict[str, Any]:
    """Seconds of each stage."""
    seconds = json.loads((run / "stats.json").read_text())["commands"][-1]["seconds_by_stage"]
    return {name: round(value, 1) for name, value in seconds.items()}


if __name__ == "__main__":
    main()

"""Promise 1: a corpus full of poison ends with one row for each instruction, and the good videos have their masks."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.support import clips
from tests.support.fault_kit import Command, accounted
from tests.support.label_runs import instruction, write_table
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import ERRORS, MASKS, TRACKS

pytestmark = pytest.mark.ray

# What native code does to its process. The actors do it when they open videos of these names, and after they wrote the
# tables of one of them; the driver does not.
FAULTS = """
import ctypes, os, signal, sys, time

def poison(path):
    if "segfault" in path:
        ctypes.string_at(0)
    if "exits" in path:
        os._exit(0)
    if "hangs" in path:
        time.sleep(10**6)
    if "bomb" in path:
        kept = [bytearray(os.urandom(1 << 20)) * 100 for _ in range(5)]
        os.kill(os.getpid(), signal.SIGKILL)  # as the kernel does when memory runs out
    if "sticky" in path:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

class Late:
    def find_spec(self, name, path=None, target=None):
        if name == "vrshq.operators.keyframe":
            import vrshq.operators.decode as decode
            opened = decode.open_video
            def deadly(path, *rest, **named):
                poison(path)
                return opened(path, *rest, **named)
            decode.open_video = deadly
            import vrshq.pipelines.label.work.worker as worker
            write = worker.UnitWorker._write
            def deadly_write(self, unit, begin):
                receipt = write(self, unit, begin)
                if "written" in unit["video_id"]:
                    os._exit(1)
                return receipt
            worker.UnitWorker._write = deadly_write
        return None

sys.meta_path.insert(0, Late())
"""
DEADLY = {
    "segfault.mp4": ("WorkerDied", "its worker process died"),
    "exits.mp4": ("WorkerDied", "its worker process died"),
    "hangs.mp4": ("DeadlineExceeded", "took longer than"),
    "bomb.mp4": ("WorkerDied", "its worker process died"),
    "sticky.mp4": ("WorkerError", "CUDA error: an illegal memory access"),
}
BROKEN = ["missing.mp4", "text.mp4", "zero.mp4", "truncated.mp4", "audio.mp4", "absurd.avi", "broken_frame", "pipe.mp4"]
GOOD = ["good-1.mp4", "good-2.mp4", "good-3.mp4"]
WRITTEN = "written.mp4"  # the process dies between its tables and its receipt
TRICKS = "<script>alert(1)</script> ../../etc/passwd [SEG] <video> $(reboot) \\u202e"


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("poison")
    for number, name in enumerate(GOOD):
        clips.h264(folder / name, frames=6 + number)
    for name in (*DEADLY, WRITTEN):
        shutil.copy(folder / GOOD[0], folder / name)
    (folder / "text.mp4").write_bytes(b"this is no video\n" * 100)
    (folder / "zero.mp4").write_bytes(b"")
    clips.h264(folder / "whole.mp4", frames=60)
    data = (folder / "whole.mp4").read_bytes()
    (folder / "truncated.mp4").write_bytes(data[: len(data) * 2 // 3])
    clips.write_audio(folder / "audio.mp4")
    clips.write_absurd_header(folder / "absurd.avi")
    (folder / "broken_frame").mkdir()
    for number in range(6):
        Image.fromarray(clips.code_frame(number)).save(folder / "broken_frame" / f"{number:05d}.jpg")
    (folder / "broken_frame" / "00003.jpg").write_bytes(b"no picture")
    os.mkfifo(folder / "pipe.mp4")
    shutil.copy(folder / GOOD[0], folder / "secret.mp4")
    (folder / "secret.mp4").chmod(0)
    rows = [instruction(name, 0, "the block") for name in (*GOOD, *DEADLY, WRITTEN, *BROKEN, "secret.mp4")]
    rows += [instruction(GOOD[0], "../../up", TRICKS), instruction("../../../etc/passwd", 0, "the block")]
    write_table(folder / "instructions.jsonl", rows)
    return folder


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("attempts", [1, pytest.param(2, marks=pytest.mark.long)])
def test_poison_of_sixteen_kinds_costs_only_itself_in_bounded_attempts(
    attempts: int, corpus: Path, tmp_path: Path
) -> None:
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(FAULTS)
    environment = {"PYTHONPATH": f"{tmp_path / 'site'}{os.pathsep}{Path.cwd()}"}
    run = str(tmp_path / "run")
    limits = ["--set", f"resources.attempts={attempts}", "--set", "resources.deadline_seconds=8"]
    table = str(corpus / "instructions.jsonl")
    command = Command("label", table, "--output", run, "--model", "untrained-tiny", *limits, environment=environment)
    assert command.end(900) == 0, command.output

    counts = accounted(run)
    asked = 1 + len(GOOD) + len(DEADLY) + len(BROKEN) + 3
    assert (len(counts), set(counts.values())) == (asked, {1})
    tracks = {
        (row["video_id"], row["instruction_id"]): row for row in RunDirectory(run).read("tracks", TRACKS).to_pylist()
    }
    for name, (error_type, words) in DEADLY.items():
        row = tracks[name, "0"]
        assert (row["status"], row["error_type"], row["attempts"]) == ("error", error_type, attempts), (
            row,
            command.output,
        )
        assert words in row["error_message"], row["error_message"]
    assert "its worker process died" in command.output
    for name in (*BROKEN, "../../../etc/passwd"):
        row = tracks[name, "0"]
        assert (row["status"], row["error_type"], row["attempts"]) == ("error", "InputError", 1), row
    if os.geteuid() != 0:  # to root every file is readable
        assert "Permission denied" in tracks["secret.mp4", "0"]["error_message"]
    errors = RunDirectory(run).read("errors", ERRORS).to_pylist()
    assert {row["video_id"] for row in errors} == {key[0] for key, row in tracks.items() if row["status"] == "error"}

    rows = [instruction(name, 0, "the block") for name in (*GOOD, WRITTEN)] + [instruction(GOOD[0], "../../up", TRICKS)]
    good = write_table(tmp_path / "good.jsonl", rows)
    alone = str(tmp_path / "alone")
    label(good, alone, Settings(model="untrained-tiny"), videos=str(corpus), use_ray=False)
    rows = RunDirectory(run).read("masks", MASKS).to_pylist()
    got = [row for row in rows if row["video_id"] in (*GOOD, WRITTEN)]
    keys = ("video_id", "instruction_id", "object_id", "frame_index")
    expected = RunDirectory(alone).read("masks", MASKS).to_pylist()
    assert sorted(got, key=lambda row: [row[key] for key in keys]) == sorted(
        expected, key=lambda row: [row[key] for key in keys]
    )
    assert tracks[GOOD[0], "../../up"]["status"] in ("ok", "empty")
    assert tracks[GOOD[0], "../../up"]["text"] == TRICKS
    assert sorted(path.name for path in tmp_path.iterdir()) == ["alone", "good.jsonl", "run", "site"]

"""Helpers of the fault tests: a corpus, a Ray cluster of several raylets, the command as a process, and checksums."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pyarrow as pa

from tests.support import clips
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.tables.schema import ERRORS, MASKS, TRACKS

SCHEMAS = {"masks": MASKS, "tracks": TRACKS, "errors": ERRORS}
# columns that depend on the course of a run, not on its input
COURSE = ("seconds", "attempts", "attempt", "at")


def write_corpus(folder: Path, videos: int, instructions: int = 1, frames: int = 8) -> Path:
    """Writes `videos` small H.264 clips of different lengths and their instruction table; returns the path of the table."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for number in range(videos):
        name = f"video-{number:03d}.mp4"
        clips.h264(folder / name, frames=frames + number % 5)
        rows += [
            {"video_uri": name, "instruction_id": str(one), "text": f"block {one} of clip {number}"}
            for one in range(instructions)
        ]
    table = folder / "instructions.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return table


def checksums(run_uri: str) -> dict[str, str]:
    """SHA-256 of all rows of each table in the order of their keys, without the columns in `COURSE`."""
    run = RunDirectory(run_uri)
    result = {}
    for name, schema in SCHEMAS.items():
        columns = [column for column in schema.names if column not in COURSE]
        keys = [
            (key, "ascending") for key in ("video_id", "instruction_id", "object_id", "frame_index") if key in columns
        ]
        rows = run.read(name, schema, columns).sort_by(keys).combine_chunks()
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, rows.schema) as writer:
            writer.write_table(rows)
        result[name] = hashlib.sha256(sink.getvalue()).hexdigest()
    return result


def accounted(run_uri: str) -> Counter[tuple[str, str]]:
    """Number of rows in `tracks/` of each (video_id, instruction_id)."""
    tracks = RunDirectory(run_uri).read("tracks", TRACKS, ["video_id", "instruction_id"]).to_pylist()
    return Counter((row["video_id"], row["instruction_id"]) for row in tracks)


class Command:
    """`vrshq ...` as a process. A thread reads its output while it runs."""

    def __init__(self, *arguments: str, environment: dict[str, str] | None = None) -> None:
        code = "from vrshq.pipelines.cli.main import main; main()"
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **(environment or {}), "PYTHONUNBUFFERED": "1"},
        )
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        self.lines.extend(self.process.stdout)

    @property
    def output(self) -> str:
        return "".join(self.lines)

    def kill(self) -> bool:
        """Sends SIGKILL; returns whether the process was still running."""
        alive = self.process.poll() is None
        self.process.send_signal(signal.SIGKILL)
        self.end(60)
        return alive

    def end(self, timeout: float) -> int:
        """Waits for the end of the process; returns its exit code."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise AssertionError(f"not ended after {timeout} s:\n{self.output}") from None
        self._reader.join(10)
        return code


class Nodes:
    """A Ray cluster on this machine: a head and further raylets with one CPU each."""

    def __init__(self, workers: int) -> None:
        # imported here: it makes Ray read its environment, which a test of the same process may still set
        from ray.cluster_utils import Cluster

        self._cluster = Cluster(initialize_head=True, head_node_args=self._size())
        self._workers = [self._cluster.add_node(**self._size()) for _ in range(workers)]

    @staticmethod
    def _size() -> dict[str, int]:
        return {"num_cpus": 1, "object_store_memory": 100 << 20}

    @property
    def address(self) -> str:
        return str(self._cluster.address)

    @property
    def logs(self) -> Path:
        """The folder with the log files of all processes."""
        return Path(self._cluster.head_node.get_logs_dir_path())

    def units_begun(self) -> list[str]:
        """Ids of the units that actors have begun since the cluster started; a unit that began n times occurs n times."""
        found: list[str] = []
        for file in self.logs.glob("worker-*.err"):
            lines = file.read_text(errors="replace").splitlines()
            found += [json.loads(line)["unit_id"] for line in lines if line.startswith('{"event": "begin"')]
        return found

    def actors(self) -> list[psutil.Process]:
        """The processes of the pools' actors, on all nodes."""
        found = []
        for node in (self._cluster.head_node, *self._workers):
            raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
            for process in raylet.children(recursive=True):
                try:
                    if "ray::Guarded" in " ".join(process.cmdline()):
                        found.append(process)
                except psutil.NoSuchProcess:
                    pass
        return found

    def kill_worker_node(self) -> None:
        """Sends SIGKILL to a raylet, which ends its actors and its part of the object store, and adds a new raylet."""
        node = self._workers.pop()
        os.kill(node.all_processes["raylet"][0].process.pid, signal.SIGKILL)
        time.sleep(1)
        self._cluster.remove_node(node, allow_graceful=False)
        self._workers.append(self._cluster.add_node(**self._size()))

    def shutdown(self) -> None:
        self._cluster.shutdown()


@contextmanager
def nodes(workers: int) -> Iterator[Nodes]:
    cluster = Nodes(workers)
    try:
        yield cluster
    finally:
        cluster.shutdown()


def wait_until(condition: Callable[[], bool], timeout: float, what: str) -> None:
    """Polls until the condition is true. After `timeout` seconds it fails with `what` in the message."""
    end = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < end, f"waited {timeout} s for {what}"
        time.sleep(0.05)

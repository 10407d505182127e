"""What a compaction costs: requests by kind and seconds, on an S3 server on this machine.

    python -m tests.benchmarks.bench_compaction [--parts 10000] [--file-mib 256] [--actors 0] [--kills 0] [--profile]

The run is made without a model: units with one part in each of masks/, tracks/ and tokens/, `--parts` in all. With --actors the
parts are merged in so many actors of Ray, whose requests are not counted. With --kills the compaction is a process that is
killed so many times at random moments; each next one goes on where it finds the run. At the end the rows of every unit are
compared.
"""

from __future__ import annotations

import argparse
import contextlib
import cProfile
import io
import os
import pstats
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from aiobotocore.client import AioBaseClient

from tests.support.made_runs import mask_row, unit_id
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.cluster.ray.merges import InActors
from vrshq.cluster.ray.session import ray_session
from vrshq.cluster.storage import merging
from vrshq.cluster.storage.compaction import Spread, one_by_one
from vrshq.cluster.storage.run_directory import RunDirectory, part_name
from vrshq.operators.masks.rle import encode
from vrshq.pipelines.label.tables.schema import MASKS

URI = f"s3://{S3_BUCKET}/run"
OTHERS = pa.schema([("video_id", pa.string()), ("values", pa.list_(pa.float32()))])
TABLES = {"masks": MASKS, "tracks": OTHERS, "tokens": OTHERS}
FRAMES = 24
_ID = "0123456789abcdef"  # stands in the file from which those of all units are made


def rows(name: str) -> pa.Table:
    """The rows of a unit, with another id."""
    if name != "masks":
        return pa.table({"video_id": [_ID], "values": [[0.5] * 256]}, schema=OTHERS)
    shape = np.zeros((1, 480, 854), bool)
    for line in range(60):  # an outline with as many runs as that of an animal
        shape[0, 100 + line * 4 : 104 + line * 4, 200 + line % 7 * 9 : 420 + line % 11 * 13] = True
    (code,) = encode(shape)
    return pa.Table.from_pylist([mask_row(_ID, "0", 0, frame, code, (480, 854)) for frame in range(FRAMES)], MASKS)


def make(place: Path, units: list[str]) -> None:
    """Writes the parts of the run into the bucket's folder. They differ in the id, which lies there uncompressed."""
    for name, schema in TABLES.items():
        (place / name).mkdir(parents=True)
        sink = io.BytesIO()
        packed = {field.name: "none" if field.name == "video_id" else "zstd" for field in schema}
        pq.write_table(rows(name), sink, compression=packed | {"bbox": "zstd", "values": "zstd"})
        for unit in units:
            Path(place, part_name(name, unit)).write_bytes(sink.getvalue().replace(_ID.encode(), unit.encode()))


def counted() -> Counter[str]:
    """Counts the requests of this process from now on, by the name of the operation."""
    counts: Counter[str] = Counter()
    send = AioBaseClient._make_api_call

    async def sent(self: Any, operation: str, given: Any) -> Any:
        counts[operation] += 1
        return await send(self, operation, given)

    AioBaseClient._make_api_call = sent
    return counts


def compact(units: list[str], actors: int) -> None:
    """Compacts the run, and prints what it cost."""
    with ray_session(num_cpus=actors) if actors else contextlib.nullcontext():
        counts = counted()
        begin, busy = time.perf_counter(), time.process_time()
        spread: Spread = InActors(actors) if actors else one_by_one
        done = RunDirectory(URI).compact(units, to_the_end=True, spread=spread)
        seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    parts, files = (sum(numbers) for numbers in zip(*done.values(), strict=True))
    requests = ", ".join(f"{count:,} {operation}" for operation, count in sorted(counts.items()))
    print(f"| {parts:,} | {files} | {seconds:.1f} | {busy:.1f} | {sum(counts.values()):,} | {requests} |", flush=True)


def kill(arguments: list[str], place: Path, times: int, longest_s: float, environment: dict[str, str]) -> None:
    """Compacts in processes, each of which is killed after a random time."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_compaction", *arguments, "--there"]

    def left() -> int:
        return sum(name.startswith("part-") for table in TABLES for name in os.listdir(place / table))  # noqa: PTH208

    for number in range(times):
        process = subprocess.Popen(command, env=os.environ | environment)
        until = time.monotonic() + random.uniform(4, longest_s)
        while time.monotonic() < until and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        merged = sum(name.startswith("merged-") for table in TABLES for name in os.listdir(place / table))  # noqa: PTH208
        print(f"kill {number + 1}: exit {process.wait()}, {left():,} parts and {merged} merged files", flush=True)
    subprocess.run(command, env=os.environ | environment, check=True)


def check(units: list[str]) -> None:
    """Every unit is there once, with its rows."""
    run = RunDirectory(URI)
    assert run.finished_units() == set(units)
    for name, schema in TABLES.items():
        expected = rows(name).drop_columns("video_id").combine_chunks()
        found = []
        for table in run.reader(name, schema).batches(schema.names):
            for first in range(0, table.num_rows, len(expected)):
                unit = table.slice(first, len(expected)).combine_chunks()
                (one,) = set(unit["video_id"].to_pylist())
                assert unit.drop_columns("video_id").equals(expected), (name, one)
                found.append(one)
        assert sorted(found) == sorted(units)
        assert not any("part-" in file for file in run.folder.list(name))
    print(f"all {len(units):,} units are in each table once, with their rows", flush=True)


def main() -> None:
    """Makes the run, compacts it and prints the costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--file-mib", type=float, default=256, help="size of a merged file")
    parser.add_argument("--actors", type=int, default=0)
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument(
        "--longest", type=float, default=60, help="seconds after which a process is killed at the latest"
    )
    parser.add_argument(
        "--profile", action="store_true", help="print the functions that take most time of the main thread"
    )
    parser.add_argument("--there", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    units = [unit_id(number) for number in range(given.parts // 3)]
    merging.TARGET_BYTES = int(given.file_mib * 2**20)
    if given.there:
        compact(units, given.actors)
        return
    with tempfile.TemporaryDirectory() as served:
        make(Path(served, S3_BUCKET, "run"), units)
        with S3Server(Path(served)) as server, server.reached():
            print(
                "| parts | files | seconds | CPU seconds | requests | by kind |\n| --- | --- | --- | --- | --- | --- |"
            )
            if given.kills:
                kill(sys.argv[1:], Path(served, S3_BUCKET, "run"), given.kills, given.longest, server.environment())
            elif given.profile:
                profile = cProfile.Profile()
                profile.runcall(compact, units, 0)
                pstats.Stats(profile).sort_stats("tottime").print_stats(15)
            else:
                compact(units, given.actors)
            check(units)


if __name__ == "__main__":
    main()

"""What a compaction costs: requests by kind and seconds, on an S3 server on this machine.

    python -m tests.benchmarks.bench_compaction [--parts 10000] [--file-mib 256] [--kills 0] [--profile]

The run is made without a model: units with one part in each of masks/, tracks/ and tokens/, `--parts` in all. With --kills the
compaction is a process that is killed so many times in its middle; each next one goes on where it finds the run.
"""

from __future__ import annotations

import argparse
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
from vrshq.cluster.storage import merging
from vrshq.cluster.storage.run_directory import RunDirectory, part_name
from vrshq.operators.masks.rle import encode
from vrshq.pipelines.label.schema import MASKS

URI = f"s3://{S3_BUCKET}/run"
OTHERS = pa.schema([("instruction_id", pa.string()), ("values", pa.list_(pa.float32()))])
TABLES = {"masks": MASKS, "tracks": OTHERS, "tokens": OTHERS}
FRAMES = 24


def make(place: Path, units: list[str]) -> None:
    """Writes the parts of the run into the bucket's folder. Those of a table have the same content."""
    shape = np.zeros((1, 480, 854), bool)
    for line in range(60):  # an outline with as many runs as that of an animal
        shape[0, 100 + line * 4 : 104 + line * 4, 200 + line % 7 * 9 : 420 + line % 11 * 13] = True
    (code,) = encode(shape)
    masks = [mask_row("v.mp4", "0", 0, frame, code, (480, 854)) for frame in range(FRAMES)]
    other = pa.table({"instruction_id": ["0"], "values": [[0.5] * 256]}, schema=OTHERS)
    for name in TABLES:
        (place / name).mkdir(parents=True)
        sink = io.BytesIO()
        pq.write_table(
            pa.Table.from_pylist(masks, schema=MASKS) if name == "masks" else other, sink, compression="zstd"
        )
        for unit in units:
            Path(place, part_name(name, unit)).write_bytes(sink.getvalue())


def counted() -> Counter[str]:
    """Counts the requests of this process from now on, by the name of the operation."""
    counts: Counter[str] = Counter()
    send = AioBaseClient._make_api_call

    async def sent(self: Any, operation: str, given: Any) -> Any:
        counts[operation] += 1
        return await send(self, operation, given)

    AioBaseClient._make_api_call = sent
    return counts


def compact(units: list[str]) -> None:
    """Compacts the run, and prints what it cost."""
    counts = counted()
    begin, busy = time.perf_counter(), time.process_time()
    done = RunDirectory(URI).compact(units, to_the_end=True)
    seconds, busy = time.perf_counter() - begin, time.process_time() - busy
    parts, files = (sum(numbers) for numbers in zip(*done.values(), strict=True))
    requests = ", ".join(f"{count:,} {operation}" for operation, count in sorted(counts.items()))
    print(f"| {parts:,} | {files} | {seconds:.1f} | {busy:.1f} | {sum(counts.values()):,} | {requests} |", flush=True)


def kill(arguments: list[str], place: Path, times: int, environment: dict[str, str]) -> None:
    """Compacts in processes, each of which is killed when it has removed some number of parts."""
    command = [sys.executable, "-m", "tests.benchmarks.bench_compaction", *arguments, "--there"]

    def left() -> int:
        return sum(name.startswith("part-") for table in TABLES for name in os.listdir(place / table))  # noqa: PTH208

    share = left() / (times + 1)
    for number in range(times):
        enough = left() - random.uniform(0.2, 1.2) * share
        process = subprocess.Popen(command, env=os.environ | environment)
        while left() > enough and process.poll() is None:
            time.sleep(0.02)
        process.kill()
        print(f"kill {number + 1}: exit {process.wait()}, {left():,} parts left", flush=True)
    subprocess.run(command, env=os.environ | environment, check=True)


def check(units: list[str]) -> None:
    """Every unit is there once."""
    run = RunDirectory(URI)
    assert run.finished_units() == set(units)
    for name, schema in TABLES.items():
        rows = run.read(name, schema, schema.names[:1]).num_rows
        assert rows == len(units) * (FRAMES if name == "masks" else 1), (name, rows)
        assert not any("part-" in file for file in run.folder.list(name))
    print(f"all {len(units):,} units are in each table once", flush=True)


def main() -> None:
    """Makes the run, compacts it and prints the costs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=10_000)
    parser.add_argument("--file-mib", type=float, default=256, help="size of a merged file")
    parser.add_argument("--kills", type=int, default=0)
    parser.add_argument(
        "--profile", action="store_true", help="print the functions that take most time of the main thread"
    )
    parser.add_argument("--there", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    units = [unit_id(number) for number in range(given.parts // 3)]
    merging.TARGET_BYTES = int(given.file_mib * 2**20)
    if given.there:
        compact(units)
        return
    with tempfile.TemporaryDirectory() as served:
        make(Path(served, S3_BUCKET, "run"), units)
        with S3Server(Path(served)) as server, server.reached():
            print(
                "| parts | files | seconds | CPU seconds | requests | by kind |\n| --- | --- | --- | --- | --- | --- |"
            )
            if given.kills:
                kill(sys.argv[1:], Path(served, S3_BUCKET, "run"), given.kills, server.environment())
            elif given.profile:
                profile = cProfile.Profile()
                profile.runcall(compact, units)
                pstats.Stats(profile).sort_stats("tottime").print_stats(15)
            else:
                compact(units)
            check(units)


if __name__ == "__main__":
    main()

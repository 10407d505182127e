"""What it costs to read units of a large run: requests, bytes and seconds, on an S3 server on this machine.

    python -m tests.benchmarks.bench_readers [--units 20000] [--parts 2000] [--files 40] [--folder FOLDER] [--anew]

The run is made without a model: units with one instruction on 24 frames, most of them in merged files, some still in parts. A
sheet reads the columns of `masks/` that a contact sheet of `vrshq report` shows. With --anew every read opens the run again, as
every read did before there was a reader. With --folder the run is kept and used again.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support.faulty_proxy import FaultyProxy
from tests.support.made_runs import mask_row, unit_id
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.cluster.storage import merging
from vrshq.cluster.storage.run_directory import RunDirectory, part_name
from vrshq.operators.masks.rle import encode
from vrshq.pipelines.label.tables.schema import MASKS

COLUMNS = ("instruction_id", "object_id", "frame_index", "height", "width", "rle", "object_score")
FRAMES, SIZE, SHEETS = 24, (480, 854), 50

Read = Callable[[str], pa.Table]


def make(served: Path, units: int, parts: int, files: int) -> list[str]:
    """Writes the masks of the run into the bucket's folder, if they are not there; the ids of all units, the merged first."""
    ids = [unit_id(number) for number in range(units + parts)]
    place = served / S3_BUCKET / "run"
    if (served / "made").exists():
        return ids
    shapes = np.zeros((FRAMES, *SIZE), bool)
    for frame in range(FRAMES):
        for line in range(60):  # an outline with as many runs as that of an animal
            shapes[frame, 100 + line * 4 : 104 + line * 4, 200 + 5 * frame + line % 7 * 9 : 420 + line % 11 * 13] = True
    codes = encode(shapes)
    run = RunDirectory(str(place))
    (place / "masks").mkdir(parents=True)
    sizes = [_write_part(place, unit, codes) for unit in ids[:units]]
    merging.TARGET_BYTES = sum(sizes) // files
    print(run.compact(ids[:units], to_the_end=True), flush=True)
    for unit in ids[units:]:
        _write_part(place, unit, codes)
    (served / "made").touch()
    return ids


def _write_part(place: Path, unit: str, codes: Sequence[object]) -> int:
    rows = [mask_row(f"{unit}.mp4", "0", 0, frame, code, SIZE) for frame, code in enumerate(codes)]  # type: ignore[arg-type]
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=MASKS), sink, compression="zstd")
    return Path(place, part_name("masks", unit)).write_bytes(sink.getvalue())


def reader(uri: str, *, anew: bool) -> Read:
    """Reads a unit's rows."""
    run = RunDirectory(uri)
    if anew:
        return lambda unit: run.read("masks", MASKS, COLUMNS, [unit])
    table = run.reader("masks", MASKS)
    return lambda unit: table.read([unit], COLUMNS)


def measure(name: str, proxy: FaultyProxy, read: Read, units: Sequence[str]) -> None:
    """Prints a row of the table: requests, MiB and seconds of reading units one by one."""
    proxy.counts.clear()
    proxy.answered_bytes = 0
    begin = time.perf_counter()
    for unit in units:
        assert read(unit).num_rows == FRAMES
    seconds = time.perf_counter() - begin
    requests = sum(proxy.counts.values())
    print(f"| {name} | {requests:,} | {proxy.answered_bytes / 2**20:,.1f} | {seconds:.2f} |", flush=True)


def main() -> None:
    """Makes the run and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=20_000)
    parser.add_argument("--parts", type=int, default=2_000)
    parser.add_argument("--files", type=int, default=40, help="merged files")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--anew", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        served = given.folder or Path(scratch)
        ids = make(served, given.units, given.parts, given.files)
        merged, parts = ids[: given.units], ids[given.units :]
        spread = [*merged[:: -(-len(merged) // (SHEETS - 5))], *parts[:: -(-len(parts) // 5)]][:SHEETS]
        print("| read | requests | MiB | seconds |\n| --- | --- | --- | --- |")
        with S3Server(served) as server, FaultyProxy(server.port) as proxy, server.reached(proxy.port):
            uri = f"s3://{S3_BUCKET}/run"
            for name, units in (
                ("one unit", [merged[len(merged) // 2]]),
                (f"{len(spread)} sheets, spread over the run", spread),
                (f"{SHEETS} sheets of units side by side", merged[:SHEETS]),
            ):
                measure(name, proxy, reader(uri, anew=given.anew), units)


if __name__ == "__main__":
    main()

"""What the tools read of a large run, in parts and merged: requests and seconds, on an S3 server on this machine.

    python -m tests.benchmarks.bench_tools [--parts 99999] [--export 100] [--evaluate 1000] [--sheets 20]

The run is made without a model: units with one instruction on 4 frames, with one part in each of masks/, tracks/ and tokens/.
A report shows so many sheets; an export writes the instructions that were accepted; an evaluation scores a benchmark of so many
of the run's videos. All are first run on parts, and again when these are merged.
"""

from __future__ import annotations

import argparse
import io
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from tests.support import clips
from tests.support.faulty_proxy import FaultyProxy
from tests.support.made_runs import Made, box, make_run, unit_id, write_benchmark
from tests.support.s3_server import S3_BUCKET, S3Server
from vrshq.cluster.storage.run_directory import RunDirectory, part_name
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.export.run import export
from vrshq.pipelines.label.tables.reviews import ByOutcome, Reviews
from vrshq.pipelines.label.tables.schema import MANIFEST
from vrshq.pipelines.report.run import write_report

FRAMES, SIZE = 4, (48, 64)
_ID = "0123456789abcdef"  # stands in the files from which those of all units are made


def make(place: Path, scratch: Path, units: list[str]) -> None:
    """Writes the run: one video for each unit, which has the unit's id."""
    clip = str(clips.h264(scratch / "v.mp4", frames=FRAMES, width=SIZE[1], height=SIZE[0]))
    small = make_run(str(scratch / "one"), {_ID: (clip, [Made("the box", [box(FRAMES, *SIZE)])])})
    small.write_part("tokens", unit_id(0), pa.table({"video_id": [_ID]}), pa.schema([("video_id", pa.string())]))
    for name in ("masks", "tracks", "tokens"):
        (place / name).mkdir(parents=True)
        table = pq.read_table(io.BytesIO(small.folder.read_bytes(part_name(name, unit_id(0)))))
        sink = io.BytesIO()
        pq.write_table(table, sink, compression="none")
        for unit in units:
            Path(place, part_name(name, unit)).write_bytes(sink.getvalue().replace(_ID.encode(), unit.encode()))
    (place / "run.json").write_bytes(small.folder.read_bytes("run.json"))
    (row,) = small.read_manifest().to_pylist()
    manifest = [row | {"unit_id": unit, "video_id": unit} for unit in units]
    RunDirectory(str(place)).write_manifest(pa.Table.from_pylist(manifest, schema=MANIFEST))


def measure(name: str, proxy: FaultyProxy, work: Callable[[], object]) -> None:
    """Prints a row of the table: requests by folder of the run, and seconds."""
    proxy.counts.clear()
    begin = time.perf_counter()
    work()
    seconds = time.perf_counter() - begin
    folders: Counter[str] = Counter()
    for (_, path), count in proxy.counts.items():
        folders[path.removeprefix(f"/{S3_BUCKET}/run/").partition("/")[0] if "/run/" in path else "listings"] += count
    by_folder = ", ".join(f"{count:,} {folder}" for folder, count in folders.most_common())
    print(f"| {name} | {sum(folders.values()):,} | {seconds:.1f} | {by_folder} |", flush=True)


def main() -> None:
    """Makes the run and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", type=int, default=99_999)
    parser.add_argument("--export", type=int, default=100, help="instructions")
    parser.add_argument("--evaluate", type=int, default=1000, help="expressions")
    parser.add_argument("--sheets", type=int, default=20)
    given = parser.parse_args()
    units = [unit_id(number) for number in range(given.parts // 3)]
    with tempfile.TemporaryDirectory() as place:
        scratch, served = Path(place), Path(place, "s3")
        run = served / S3_BUCKET / "run"
        make(run, scratch, units)
        (scratch / "truth").mkdir()
        chosen = units[:: len(units) // given.evaluate][: given.evaluate]
        write_benchmark(scratch / "truth", chosen, box(FRAMES, *SIZE))
        reviews = Reviews(RunDirectory(str(run)))
        for number, unit in enumerate(units[:: len(units) // given.export][: given.export]):
            reviews.add(f"{number:032x}", (unit, "0"), "someone", "accept")
        print("| run | requests | seconds | by folder |\n| --- | --- | --- | --- |")
        uri = f"s3://{S3_BUCKET}/run"
        for state in ("parts", "merged"):
            if state == "merged":  # by files: a server would show what it has listed before
                RunDirectory(str(run)).compact(units, to_the_end=True)
            works: dict[str, Callable[[], object]] = {
                f"report of {given.sheets} sheets": lambda: write_report(
                    uri, str(scratch / "report"), limit=given.sheets
                ),
                f"export of {given.export} instructions": lambda state=state: export(  # type: ignore[misc]
                    uri, "png", str(scratch / f"export-{state}"), judged=ByOutcome(only="accepted")
                ),
                f"evaluate {given.evaluate} expressions": lambda state=state: _evaluated(scratch, uri, state),  # type: ignore[misc]
            }
            with S3Server(served) as server, FaultyProxy(server.port) as proxy, server.reached(proxy.port):
                for name, work in works.items():
                    measure(f"{state}: {name}", proxy, work)


def _evaluated(scratch: Path, uri: str, state: str) -> None:
    done = evaluate(
        "revos", str(scratch / "truth"), str(scratch / f"scores-{state}"), predictions=uri, split="valid", use_ray=False
    )
    assert done.scores is not None, done.note


if __name__ == "__main__":
    main()

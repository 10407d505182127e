"""How long `vrshq plan` takes on a corpus of many units of which most are done, and its peak memory.

    python -m tests.benchmarks.bench_plan --units 1000000 --finished 900000

Writes a table of so many instructions (each on a video of its own) and the parts of the finished ones as empty files, as
listing sees them, into a folder under --scratch that is removed at the end; then plans the fresh run, the half-done run,
and the same run compacted (one ledger file instead of the parts).
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.pipelines.label.asked.instructions import read_instructions
from vrshq.pipelines.label.asked.units import build_manifest


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--units", type=int, default=1_000_000)
    parser.add_argument("--finished", type=int, default=900_000)
    parser.add_argument("--scratch", default="/dev/shm")
    options = parser.parse_args()
    place = Path(tempfile.mkdtemp(prefix="bench-plan-", dir=options.scratch))
    try:
        table = write_table(place / "instructions.parquet", options.units)
        print(f"{options.units:,} units, {options.finished:,} of them finished")
        measure("fresh run", table, place / "fresh")
        unit_ids = finished_ids(table, options.finished)
        folder = place / "parts" / "tracks"
        folder.mkdir(parents=True)
        for unit_id in unit_ids:
            os.close(os.open(folder / f"part-{unit_id}.parquet", os.O_CREAT | os.O_WRONLY))
        measure("finished units as parts", table, place / "parts")
        write_merged(place / "merged", unit_ids)
        measure("finished units compacted", table, place / "merged")
    finally:
        shutil.rmtree(place)


def write_table(path: Path, units: int) -> str:
    numbers = range(units)
    columns = {
        "video_uri": [f"clips/{number % 1000:03d}/{number:08d}.mp4" for number in numbers],
        "instruction_id": ["0"] * units,
        "text": [f"the person who picks up object {number % 977}" for number in numbers],
    }
    pq.write_table(pa.table(columns), path)
    return str(path)


def finished_ids(table: str, count: int) -> list[str]:
    manifest = build_manifest(read_instructions(table), videos_root=None, base=".", max_instructions_per_unit=16)
    ids: list[str] = manifest["unit_id"].slice(0, count).to_pylist()
    return ids


def write_merged(run: Path, unit_ids: list[str]) -> None:
    """A compacted run as listing sees it: one merged file, which planning does not open, and its ledger."""
    stem = "merged-00000-000000000000"
    (run / "tracks").mkdir(parents=True)
    (run / "ledger" / "tracks").mkdir(parents=True)
    (run / "tracks" / f"{stem}.parquet").touch()
    ledger = pa.table({"unit_id": unit_ids, "rows": pa.array([1] * len(unit_ids), pa.int64())})
    pq.write_table(ledger, run / "ledger" / "tracks" / f"{stem}.units", compression="zstd")


def measure(name: str, table: str, run: Path) -> None:
    """Runs the command in a process of its own and prints its wall time and its own report of its peak memory."""
    code = (
        "import resource, sys\n"
        "from vrshq.pipelines.cli.main import main\n"
        "try: main()\n"
        "finally: print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, file=sys.stderr)\n"
    )
    begin = time.perf_counter()
    arguments = ["plan", table, "--output", str(run), "--model", "untrained-tiny"]
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    seconds = time.perf_counter() - begin
    peak = done.stderr.split()[-1]
    line = next(line for line in done.stdout.splitlines() if line.startswith("done"))
    print(f"{name}: {seconds:.1f} s, peak memory {peak} MiB; {' '.join(line.split())}", flush=True)


if __name__ == "__main__":
    main()

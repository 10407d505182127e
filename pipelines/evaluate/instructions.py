"""A benchmark as an instruction table, and its labelling."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.pipelines.evaluate.datasets.base import Benchmark
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.summary import RunSummary


def label_benchmark(benchmark: Benchmark, root: str, output: str, settings: Settings | None, **how: Any) -> RunSummary:
    """Labels the videos of a benchmark at `root` into the run directory `output`; `how` as for `label`."""
    with tempfile.TemporaryDirectory(prefix="vrshq-evaluate-") as scratch:
        table = write_instructions(benchmark, Path(scratch) / "instructions.parquet")
        return label(table, output, settings, videos=root, **how)


def write_instructions(benchmark: Benchmark, path: Path) -> str:
    """Writes the benchmark's expressions as a Parquet table and returns its path.

    `instruction_id` is the id of the expression; `video_uri` is relative to the benchmark's root.
    """
    rows = [
        {
            "video_id": video.video_id,
            "video_uri": video.uri,
            "instruction_id": expression.expression_id,
            "text": expression.text,
            "kind": expression.kind,
        }
        for video in benchmark.videos
        for expression in video.expressions
    ]
    fields = [pa.field(name, pa.string()) for name in ("video_id", "video_uri", "instruction_id", "text", "kind")]
    pq.write_table(pa.Table.from_pylist(rows, schema=pa.schema(fields)), path)
    return str(path)

"""Instruction tables, the rows of a run directory, and the command `vrshq` in this process or as a process of its own."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pycocotools import mask as coco

from vrshq.pipelines.cli import main as cli
from vrshq.pipelines.label.tables.schema import ERRORS, MASKS, TOKENS, TRACKS

TABLES = {"masks": MASKS, "tracks": TRACKS, "tokens": TOKENS, "errors": ERRORS}
# Columns that a run measures. All others are computed from the input.
MEASURED = {"seconds", "at"}


def instruction(video: str, number: int | str, text: str, **extra: Any) -> dict[str, Any]:
    """A row of an instruction table; `extra` holds optional columns."""
    return {"video_uri": video, "instruction_id": str(number), "text": text, **extra}


def write_table(path: Path, rows: list[dict[str, Any]]) -> str:
    """Writes the rows as JSONL and returns the path as a string."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def content(run: str) -> dict[str, list[dict[str, Any]]]:
    """The rows of every table in the order of their keys, without the measured columns."""
    result = {}
    for name in TABLES:
        files = sorted(Path(run, name).glob("*.parquet"))
        rows = pa.concat_tables([pq.read_table(file) for file in files]).to_pylist() if files else []
        kept = [{key: value for key, value in row.items() if key not in MEASURED} for row in rows]
        keys = ("video_id", "instruction_id", "object_id", "frame_index")
        result[name] = sorted(kept, key=lambda row: tuple(row.get(key, 0) for key in keys))
    return result


def decoded(row: dict[str, Any]) -> np.ndarray:
    """The mask of a row of `masks/`: (H, W) uint8, 0 or 1."""
    mask: np.ndarray = coco.decode({"size": [row["height"], row["width"]], "counts": row["rle"]})
    return mask


def vrshq(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs the command line's entry point in this process: its exit code and everything that Python code printed."""
    output, errors = io.StringIO(), io.StringIO()
    with (
        pytest.MonkeyPatch.context() as patch,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(errors),
    ):
        patch.setattr(sys, "argv", ["vrshq", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
    assert isinstance(ended.value.code, int)
    return subprocess.CompletedProcess(list(arguments), ended.value.code, output.getvalue(), errors.getvalue())


def vrshq_process(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Runs the command as a process of its own: its exit code and everything that reached its two streams."""
    command = [sys.executable, "-c", "from vrshq.pipelines.cli.main import main; main()", *arguments]
    variables = {**os.environ, **(environment or {})}
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False, env=variables)

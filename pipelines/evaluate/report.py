"""`scores.parquet`, `scores.json`, `scores.md` and `scores.html`: the files of an evaluation."""

from __future__ import annotations

import io
import json
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.evaluate.markdown import markdown
from vrshq.pipelines.evaluate.page import page
from vrshq.pipelines.evaluate.score_sections import sections


def write_scores(output: str, table: pa.Table, scores: dict[str, Any]) -> list[str]:
    """Writes `scores.parquet`, `scores.json`, `scores.md` and `scores.html` into `output`; returns their uris.

    Args:
        output: folder, local or in a bucket.
        table: rows of `vrshq.pipelines.evaluate.scores.SCORES`.
        scores: as from `vrshq.pipelines.evaluate.breakdowns.statistics`, with the names of data set and predictions.

    Raises:
        StorageError: the folder cannot be written.
    """
    folder = Folder(output)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    title, parts = f"{scores['protocol']['name']}: {scores['predictions']}", sections(scores)
    text = json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
    contents = {
        "scores.parquet": sink.getvalue(),
        "scores.json": text.encode(),
        "scores.md": markdown(title, parts).encode(),
        "scores.html": page(title, parts).encode(),
    }
    for name, content in contents.items():
        folder.write_bytes(name, content)
    return [folder.uri_of(name) for name in contents]

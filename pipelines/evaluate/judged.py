"""The scores of the answers that people judged in a certain way."""

from __future__ import annotations

import pyarrow as pa

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.tables.reviews import ByOutcome, ReviewError


def judged_rows(table: pa.Table, predictions: str, judged: ByOutcome) -> pa.Table:
    """The rows of a table of scores whose answers were judged so. The scores are computed from all answers before.

    Where the objects of a video share a palette, an answer's score depends on its neighbours, judged or not.

    Args:
        table: rows of `SCORES`.
        predictions: uri of the run directory that holds the answers.
        judged: the choice.

    Raises:
        ReviewError: the predictions are no run directory, nobody has judged them, or nothing is left.
    """
    if not judged:
        return table
    if predictions.endswith(".json") or not Folder(predictions).exists("run.json"):
        raise ReviewError(f"{judged.words()}: {predictions} is no run directory, so nobody has judged it")
    chosen = judged.chooser(RunDirectory(predictions))
    keys = zip(table["video_id"].to_pylist(), table["expression_id"].to_pylist(), strict=True)
    rows = table.filter(pa.array([chosen(*key) for key in keys], pa.bool_()))
    if not rows.num_rows:
        raise ReviewError(f"{judged.words()}: none of the {table.num_rows} expressions is left to be scored")
    return rows

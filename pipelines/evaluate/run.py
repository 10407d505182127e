"""`vrshq evaluate`: a benchmark and predictions in, the published protocol's numbers out.

open the benchmark -> label it, if a model is to answer -> open the predictions -> score each video, on Ray or here ->
account for what is missing -> means, intervals, break-downs -> scores.parquet, scores.json, scores.md, scores.html.

Labelling continues where it was stopped, by the run directory's ledger. Scores are always computed anew: they depend on
nothing but the masks, and are written whole at the end.
"""

from __future__ import annotations

import io
import json
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.evaluate.breakdowns import statistics
from vrshq.pipelines.evaluate.datasets import open_benchmark
from vrshq.pipelines.evaluate.datasets.base import Benchmark, DatasetError, Folders, Video
from vrshq.pipelines.evaluate.predictions import open_predictions
from vrshq.pipelines.evaluate.protocols import PROTOCOLS, Protocol
from vrshq.pipelines.evaluate.report import write_scores_report
from vrshq.pipelines.evaluate.scores import SCORES, read_keyframes, score_video, unscored
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.summary import RunSummary
from vrshq.pipelines.label.watcher import Watcher

ATTEMPTS = 3
_UNITS = pa.schema([pa.field("unit_id", pa.string(), nullable=False)])


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation did.

    Attributes:
        labelled: counts of the labelling, where a model answered.
        scores: the content of `scores.json`; None where the split has no ground truth, or labelling is incomplete.
        written: uris of the files.
        note: why there are no scores.
    """

    labelled: RunSummary | None
    scores: dict[str, Any] | None
    written: list[str]
    note: str | None = None


def evaluate(
    dataset: str,
    root: str,
    output: str,
    settings: Settings | None = None,
    *,
    predictions: str | None = None,
    split: str | None = None,
    folders: Folders = Folders(),  # noqa: B008 - frozen
    address: str | None = None,
    use_ray: bool = True,
    watcher: Watcher | None = None,
) -> Evaluation:
    """Scores predictions for a benchmark; without `predictions`, labels it into the run directory `output` first.

    Args:
        dataset: a name of `vrshq.pipelines.evaluate.protocols.PROTOCOLS`.
        root: the data set's folder.
        output: where the scores go, and the run if a model answers; local or in a bucket.
        settings: of the labelling; default `Settings()`.
        predictions: what `vrshq.pipelines.evaluate.predictions.open_predictions` takes; default: a model answers.
        split: default: the data set's own.
        folders: names inside `root` that differ from the layout's.
        address: Ray cluster, as for `label`.
        use_ray: False labels and scores in this process, one video after the other; the scores are the same.
        watcher: follows the labelling.

    Raises:
        DatasetError, PredictionsError, StorageError, and what `label` raises; one line each.
    """
    benchmark = open_benchmark(dataset, root, split=split, folders=folders)
    source = output if predictions is None else predictions
    if not benchmark.has_masks and predictions is not None:
        raise DatasetError(f"{root}: split {split} of {dataset} has no ground truth, so nothing can be scored")
    summary = None
    if predictions is None:
        with tempfile.TemporaryDirectory(prefix="vrshq-evaluate-") as scratch:
            table = write_instructions(benchmark, Path(scratch) / "instructions.parquet")
            summary = label(
                table,
                output,
                settings,
                videos=root,
                address=address,
                use_ray=use_ray,
                watcher=watcher,
            )
        if summary.incomplete:
            return Evaluation(summary, None, [], f"{summary.incomplete} units are not labelled yet")
        if not benchmark.has_masks:
            return Evaluation(summary, None, [], "this split has no ground truth; export the run for its server")
    arguments: dict[str, Any] = {
        "dataset": dataset,
        "root": root,
        "split": split,
        "folders": asdict(folders),
        "predictions": source,
    }
    worker = ScoreWorker(**arguments)  # here too: what cannot be opened is said before anything starts
    units = pa.table({"unit_id": worker.units()}, schema=_UNITS)
    rows = _on_ray(units, arguments, address) if use_ray else _in_process(units, worker)
    table = in_order(benchmark, list(rows), worker.protocol)
    scores = statistics(table, worker.protocol) | {
        "dataset": dataset,
        "split": split,
        "root": root,
        "predictions": source,
        "foreground_value": "as read from PNG files; 255 for masks of other sources",
    }
    return Evaluation(summary, scores, write_scores(output, table, scores))


def write_instructions(benchmark: Benchmark, path: Path) -> str:
    """The benchmark as an instruction table (Parquet): instruction_id is the expression's, video_uri relative to the root."""
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


class ScoreWorker:
    """Scores one video a call, from names alone, so that it travels to any process.

    In: `unit_id`, the video's position in the benchmark. Out: `unit_id` and `SCORES`, one row an expression.
    Costs the metadata and, for a results.json, all predictions in memory, once an actor; then one video at a time.
    """

    def __init__(
        self, dataset: str, root: str, split: str | None, folders: dict[str, str | None], predictions: str
    ) -> None:
        self.benchmark = open_benchmark(dataset, root, split=split, folders=Folders(**folders))
        self.predictions = open_predictions(predictions, root)
        self.keyframes = read_keyframes(self.predictions)
        self.protocol = PROTOCOLS[dataset]

    def units(self) -> list[str]:
        """The positions of the videos that have an expression."""
        return [str(number) for number, video in enumerate(self.benchmark.videos) if video.expressions]

    def __call__(self, units: pa.Table) -> pa.Table:
        rows = [
            {"unit_id": unit_id} | row
            for unit_id in units["unit_id"].to_pylist()
            for row in self._score(self.benchmark.videos[int(unit_id)])
        ]
        return pa.Table.from_pylist(rows, schema=pa.schema([*_UNITS, *SCORES]))

    def _score(self, video: Video) -> list[dict[str, Any]]:
        return score_video(self.benchmark, video, self.predictions, self.protocol, self.keyframes)


def in_order(benchmark: Benchmark, rows: list[dict[str, Any]], protocol: Protocol) -> pa.Table:
    """`SCORES` in the benchmark's order, whatever order the rows came in; every expression has a row.

    A video without rows is one whose worker died with it, each time it was tried.
    """
    by_key = {(row["video_id"], row["expression_id"]): row for row in rows}
    lost = "the worker process died while it held this video"
    ordered = [
        by_key.get((video.video_id, expression.expression_id))
        or unscored(video, expression, protocol, "scoring-failed", lost)
        for video in benchmark.videos
        for expression in video.expressions
    ]
    return pa.Table.from_pylist(ordered, schema=SCORES)


def write_scores(output: str, table: pa.Table, scores: dict[str, Any]) -> list[str]:
    """Writes `scores.parquet`, `scores.json`, `scores.md` and `scores.html` into `output`; returns their uris."""
    folder = Folder(output)
    sink = io.BytesIO()
    pq.write_table(table, sink, compression="zstd")
    folder.write_bytes("scores.parquet", sink.getvalue())
    text = json.dumps(scores, indent=2, ensure_ascii=False, allow_nan=False)
    folder.write_bytes("scores.json", text.encode() + b"\n")
    return [folder.uri_of("scores.parquet"), folder.uri_of("scores.json"), *write_scores_report(output, scores)]


def _in_process(units: pa.Table, worker: ScoreWorker) -> Iterator[dict[str, Any]]:
    for place in range(units.num_rows):
        yield from worker(units.slice(place, 1)).to_pylist()


def _on_ray(units: pa.Table, arguments: dict[str, Any], address: str | None) -> Iterator[dict[str, Any]]:
    from vrshq.cluster.ray.engine import Pool, stream_receipts
    from vrshq.cluster.ray.resources import cluster_resources, local_resources
    from vrshq.cluster.ray.session import ray_session

    with ray_session(address, num_cpus=max(2, int(local_resources().cpus))):  # one to score, one to feed
        actors = max(1, int(cluster_resources().cpus) - 1)
        pool = Pool(name="score", worker=ScoreWorker, arguments=arguments, actors=actors)
        for row in stream_receipts(units, [pool], attempts=ATTEMPTS):
            if isinstance(row, dict):  # a lost unit has no rows; its expressions are found by their absence
                yield row

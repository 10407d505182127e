"""Scoring of a benchmark's videos, on Ray or in this process."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from vrshq.pipelines.evaluate.datasets import open_benchmark
from vrshq.pipelines.evaluate.datasets.base import Benchmark, Folders, Video
from vrshq.pipelines.evaluate.predictions import Objects, open_predictions
from vrshq.pipelines.evaluate.protocols import PROTOCOLS, Protocol
from vrshq.pipelines.evaluate.scores import SCORES, read_keyframes, score_video, unscored

ATTEMPTS = 3
UNITS = pa.schema([pa.field("unit_id", pa.string(), nullable=False)])


class ScoreWorker:
    """Scores videos of a benchmark. Its arguments are names, so that any process can make one.

    In: `unit_id`, string: the video's position in the benchmark.
    Out: `unit_id` and the columns of `SCORES`, one row per expression.
    Cost: each actor holds the metadata and, for a results.json, all predictions; else the masks of one video at a time.

    Args:
        dataset: name of the benchmark.
        root: the data set's folder.
        split: None: the data set's own.
        folders: fields of `Folders`.
        predictions: as for `open_predictions`.
        objects: as for `open_predictions`.

    Raises:
        DatasetError: the benchmark cannot be read.
        PredictionsError: the predictions cannot be read.
    """

    def __init__(
        self,
        dataset: str,
        root: str,
        split: str | None,
        folders: dict[str, str | None],
        predictions: str,
        objects: Objects = "first",
    ) -> None:
        self.benchmark = open_benchmark(dataset, root, split=split, folders=Folders(**folders))
        self.predictions = open_predictions(
            predictions, root, objects, {video.video_id for video in self.benchmark.videos}
        )
        self.keyframes = read_keyframes(self.predictions)
        self.protocol = PROTOCOLS[self.benchmark.name]

    def units(self) -> list[str]:
        """The unit ids of the videos with an expression: their positions in the benchmark."""
        return [str(number) for number, video in enumerate(self.benchmark.videos) if video.expressions]

    def __call__(self, units: pa.Table) -> pa.Table:
        """Scores the videos of the units in order."""
        rows = [
            {"unit_id": unit_id} | row
            for unit_id in units["unit_id"].to_pylist()
            for row in self._score(self.benchmark.videos[int(unit_id)])
        ]
        return pa.Table.from_pylist(rows, schema=pa.schema([*UNITS, *SCORES]))

    def _score(self, video: Video) -> list[dict[str, Any]]:
        return score_video(self.benchmark, video, self.predictions, self.protocol, self.keyframes)


def score(benchmark: Benchmark, arguments: dict[str, Any], *, use_ray: bool, address: str | None) -> pa.Table:
    """The table of `SCORES` of a benchmark's videos, in its order.

    Args:
        benchmark: the opened benchmark.
        arguments: those of `ScoreWorker`.
        use_ray: False scores one video after the other in this process.
        address: Ray cluster, as for `label`.
    """
    worker = ScoreWorker(**arguments)  # also for Ray: an error in an input ends the command before Ray starts
    units = pa.table({"unit_id": worker.units()}, schema=UNITS)
    rows = score_on_ray(units, arguments, address) if use_ray else score_in_process(units, worker)
    return in_order(benchmark, list(rows), worker.protocol)


def score_in_process(units: pa.Table, worker: ScoreWorker) -> Iterator[dict[str, Any]]:
    """Rows of `SCORES` with their unit ids, scored in this process in the order of the units."""
    for place in range(units.num_rows):
        yield from worker(units.slice(place, 1)).to_pylist()


def score_on_ray(units: pa.Table, arguments: dict[str, Any], address: str | None) -> Iterator[dict[str, Any]]:
    """Rows of `SCORES` with their unit ids, scored on Ray, in any order.

    A video that ended its worker process `ATTEMPTS` times has no rows.
    """
    from vrshq.cluster.ray.engine import stream_receipts
    from vrshq.cluster.ray.pool import ActorPool
    from vrshq.cluster.ray.resources import cluster_resources, local_resources
    from vrshq.cluster.ray.session import ray_session

    with ray_session(address, num_cpus=max(2, int(local_resources().cpus))):  # one scores, one feeds it
        actors = max(1, int(cluster_resources().cpus) - 1)
        pool = ActorPool(name="score", worker=ScoreWorker, arguments=arguments, actors=actors)
        for row in stream_receipts(units, [pool], attempts=ATTEMPTS):
            if isinstance(row, dict):  # a lost unit has no rows; `in_order` finds its expressions by their absence
                yield row


def in_order(benchmark: Benchmark, rows: list[dict[str, Any]], protocol: Protocol) -> pa.Table:
    """The rows as a table of `SCORES` in the benchmark's order, with one row for every expression.

    An expression without a row gets the status `scoring-failed`: its worker process died in every attempt.
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

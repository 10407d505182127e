"""`vrshq evaluate`: scores predictions for a benchmark by the published protocol.

open the benchmark -> label it, unless predictions are given -> open the predictions -> score each video, on Ray or in this
process -> list missing answers -> means, intervals, break-downs -> scores.parquet, scores.json, scores.md, scores.html.

An interrupted labelling continues from its run directory. Scores are computed again each time, their files written at the end.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from vrshq.pipelines.evaluate.breakdowns import statistics
from vrshq.pipelines.evaluate.datasets import open_benchmark
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Folders
from vrshq.pipelines.evaluate.evaluation import Evaluation
from vrshq.pipelines.evaluate.instructions import label_benchmark
from vrshq.pipelines.evaluate.judged import judged_rows
from vrshq.pipelines.evaluate.predictions import Objects
from vrshq.pipelines.evaluate.protocols import PROTOCOLS
from vrshq.pipelines.evaluate.report import write_scores
from vrshq.pipelines.evaluate.reproduce import how_to_reproduce
from vrshq.pipelines.evaluate.scoring import score
from vrshq.pipelines.evaluate.unanswered import unanswered
from vrshq.pipelines.label.error_policy import ErrorPolicy
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.reviews import EVERYTHING, ByOutcome
from vrshq.pipelines.label.watcher import Watcher


def evaluate(  # noqa: PLR0913 - each is an option of the command
    dataset: str,
    root: str,
    output: str,
    settings: Settings | None = None,
    *,
    predictions: str | None = None,
    objects: Objects = "first",
    judged: ByOutcome = EVERYTHING,
    split: str | None = None,
    folders: Folders = Folders(),  # noqa: B008 - frozen
    address: str | None = None,
    use_ray: bool = True,
    errors: ErrorPolicy | None = None,
    watcher: Watcher | None = None,
    command: str | None = None,
) -> Evaluation:
    """Scores predictions for a benchmark. Without `predictions`, it labels the benchmark into the run directory `output` first.

    Args:
        dataset: a name of `vrshq.pipelines.evaluate.protocols.PROTOCOLS`.
        root: the data set's folder.
        output: folder of the scores, local or in a bucket; the run directory, too, if the benchmark is labelled.
        settings: settings of the labelling; default: `Settings()`.
        predictions: as for `vrshq.pipelines.evaluate.predictions.open_predictions`; default: label with a model.
        objects: what is scored of an answer with several objects.
        judged: the expressions whose scores count, by what people judged of their answers in the run; default: all.
        split: default: the data set's own.
        folders: names inside `root` that differ from the layout's.
        address: Ray cluster, as for `label`.
        use_ray: False labels and scores one video after the other in this process, with the same scores.
        errors: how the labelling treats failing instructions; default `ErrorPolicy()`.
        watcher: follows the labelling.
        command: the command line that asked for this, which `scores.json` states.

    Returns:
        The scores. If no expression has an answer that can be scored, there are none, and no file is written.

    Raises:
        DatasetError: the data set cannot be read, or its split has no ground truth.
        PredictionsError: the predictions cannot be read. ReviewError: nobody has judged them.
        UserError: any other error of `label`, or of the storage, in one line.
    """
    benchmark = open_benchmark(dataset, root, split=split, folders=folders)
    dataset = benchmark.name
    source = output if predictions is None else predictions
    if not benchmark.has_masks and predictions is not None:
        raise DatasetError(f"{root}: split {benchmark.split} of {dataset} has no ground truth; nothing can be scored")
    summary = None
    if predictions is None:
        how: dict[str, Any] = {"address": address, "use_ray": use_ray, "errors": errors, "watcher": watcher}
        summary = label_benchmark(benchmark, root, output, settings, **how)
        if summary.incomplete:
            return Evaluation(summary, None, [], f"{summary.incomplete} units are not labelled yet")
        if not benchmark.has_masks:
            return Evaluation(summary, None, [], "this split has no ground truth; export the run for its server")
    given = {"dataset": dataset, "root": root, "split": split, "predictions": source, "objects": objects}
    scored = score(benchmark, given | {"folders": asdict(folders)}, use_ray=use_ray, address=address)
    table = judged_rows(scored, source, judged)
    missing = unanswered(table)
    if not missing.scored:
        return Evaluation(summary, None, [], missing.line(), missing)
    scores = statistics(table, PROTOCOLS[dataset]) | {
        **given,
        **({"judged": judged.words()} if judged else {}),
        "reproduce": how_to_reproduce(benchmark, PROTOCOLS[dataset], scored, source, objects, command),
        "foreground_value": "as read from PNG files; 255 for masks of other sources",
    }
    return Evaluation(summary, scores, write_scores(output, table, scores), unanswered=missing)

"""`vrshq ablate --study presence`: what tells expressions without a target from the others, and what a threshold costs.

one evaluation in which no mask is left out -> the signals of each expression -> AUROC by kind of question; J&F, N-acc, T-acc
and Final at thresholds; the same question asked of each frame -> presence.json, presence.md, presence.html.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.cluster.storage.uris import join_uri
from vrshq.operators.models.bundle import Bundle, open_bundle
from vrshq.operators.models.presence import head_of, presence_threshold
from vrshq.operators.models.weights import map_file
from vrshq.pipelines.evaluate.breakdowns import measures
from vrshq.pipelines.evaluate.datasets import open_benchmark
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Folders
from vrshq.pipelines.evaluate.evaluation import Evaluation
from vrshq.pipelines.evaluate.figures import reliability_figure
from vrshq.pipelines.evaluate.markdown import markdown
from vrshq.pipelines.evaluate.page import page
from vrshq.pipelines.evaluate.presence import auroc, calibration_error, final_score, reliability
from vrshq.pipelines.evaluate.presence_frames import Frames, Key, frame_sections, read_frames
from vrshq.pipelines.evaluate.protocols import summarize
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.evaluate.scores import OK
from vrshq.pipelines.evaluate.section import Section
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.schema import TOKENS, TRACKS
from vrshq.pipelines.models.locate import local_model

RUN = "unthresholded"
LOST = (0.0, 0.02, 0.04, 0.06, 0.08, 0.1)  # shares of the expressions with a target that lose the mask they had
_HEAD, _SCORE, _TOKEN = "presence head", "object score", "[TAK] alone"
_TOLD = {
    "flicker": -1.0,
    "area_jump": -1.0,
    "lowest_score": 1.0,
}  # signals of trust, and the sign with which high means present
_HEADS = "heads.safetensors"  # the training-only heads that a trained bundle keeps


@dataclass(frozen=True)
class Judged:
    """The answered expressions of the evaluation, one entry each.

    Attributes:
        target: whether there is one, bool (n,).
        masked: whether there is a mask on any frame, bool (n,).
        asks: the kind of question, str (n,).
        signals: by name, float (n,): higher is more confident; NaN where a signal has nothing to look at.
        columns: of `scores.parquet`, for these expressions.
        empty: J = F of an answer without masks, percent (n,): the share of frames without the target.
    """

    target: np.ndarray
    masked: np.ndarray
    asks: np.ndarray
    signals: dict[str, np.ndarray]
    columns: dict[str, np.ndarray]
    empty: np.ndarray

    def at(self, signal: str, threshold: float) -> dict[str, float]:
        """Accuracies, J&F and Final, in percent, with masks only where a signal is above a threshold."""
        kept = self.masked & ~(self.signals[signal] <= threshold)
        rows = measures(self.columns, "_fixed", np.ones(len(kept), bool))
        for name in ("J", "F"):
            rows[name] = np.where(kept, rows[name], self.empty)
        jf = summarize(rows).get("overall", {}).get("JF", float("nan"))
        n_acc, t_acc = (100 * _mean(one) for one in (~kept[~self.target], kept[self.target]))
        kinds = {f"absent, {kind}": 100 * _mean(kept[~self.target & (self.asks == kind)]) for kind in self.kinds}
        shares = {"absent with a mask": 100 - n_acc, **kinds, "present without": 100 - t_acc}
        return shares | {"J&F": jf, "N-acc": n_acc, "T-acc": t_acc, "Final": final_score(jf, n_acc, t_acc)}

    @property
    def kinds(self) -> list[str]:
        """The kinds of question that some expression without a target has."""
        return sorted({kind for kind in self.asks[~self.target].tolist() if kind})


def presence_study(
    dataset: str,
    root: str,
    output: str,
    settings: Settings,
    *,
    split: str | None = None,
    folders: Folders = Folders(),  # noqa: B008 - frozen
    **how: Any,
) -> tuple[Evaluation, list[Section], list[str]]:
    """Evaluates once with every mask, and compares what tells presence. The same call again continues.

    Args:
        dataset: name of the benchmark, as for `evaluate`.
        root: the data set's folder.
        output: folder of the run and of the page.
        settings: of the run; its `masks.presence` is left aside.
        split: default: the data set's own.
        folders: names inside `root` that differ from the layout's.
        how: `address` and `use_ray`, as for `evaluate`.

    Returns:
        the evaluation, the tables, and the uris of the files; no tables where the evaluation is incomplete.

    Raises:
        DatasetError: the split has no ground truth, or no expression without a target.
    """
    benchmark = open_benchmark(dataset, root, split=split, folders=folders)
    if not benchmark.has_masks or not any(
        one.kind == "no-target" for video in benchmark.videos for one in video.expressions
    ):
        raise DatasetError(
            f"{root}: split {split or 'by default'} of {dataset} has no expressions without a target and ground truth for the "
            "others; --study presence needs both"
        )
    every = settings.model_copy(update={"masks": settings.masks.model_copy(update={"presence": 0.0})})
    run = join_uri(output, RUN)
    done = evaluate(dataset, root, run, every, split=split, folders=folders, **how)
    if done.scores is None:
        return done, [], []
    bundle = open_bundle(local_model(settings.model, "--model"))
    judged = read_judged(run, bundle)
    parts = sections(judged, presence_threshold(bundle)) + frame_sections(_frames(run, judged))
    folder, title = Folder(output), f"Presence of a target, on {dataset}"
    contents = {
        "presence.json": json.dumps(_plain(parts), indent=1, ensure_ascii=False) + "\n",
        "presence.md": markdown(title, parts),
        "presence.html": page(title, parts),
    }
    for name, text in contents.items():
        folder.write_bytes(name, text.encode())
    return done, parts, [folder.uri_of(name) for name in contents]


def read_judged(run: str, bundle: Bundle) -> Judged:
    """The answered expressions of an evaluated run, with the signals that its tables and its bundle give."""
    table = pq.read_table(io.BytesIO(Folder(run).read_bytes("scores.parquet")))
    columns = {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names if name != "object_ids"}
    scored = columns["status"] == OK
    columns = {name: values[scored] for name, values in columns.items()}
    keys = list(zip(columns["video_id"].tolist(), columns["expression_id"].tolist(), strict=True))
    wanted = ["video_id", "instruction_id", "presence", "object_scores", *_TOLD]
    tracks = _by_key(RunDirectory(run).read("tracks", TRACKS, wanted).to_pylist())
    shown = [np.asarray(one, bool) for one in columns["frame_shown"]]
    return Judged(
        columns["kind"] != "no-target",
        columns["empty_frames"] != columns["frames"],
        np.array([one or "" for one in columns["asks"]]),
        _signals(run, bundle, tracks, keys),
        columns,
        np.array([100 * _mean(~one) for one in shown]),
    )


def _frames(run: str, judged: Judged) -> Frames:
    """The frames of the expressions."""
    keys = list(zip(judged.columns["video_id"].tolist(), judged.columns["expression_id"].tolist(), strict=True))
    shown = [np.asarray(one, bool) for one in judged.columns["frame_shown"]]
    return read_frames(run, keys, judged.target, shown, judged.asks.tolist())


def _signals(run: str, bundle: Bundle, tracks: Mapping[Key, Any], keys: list[Key]) -> dict[str, np.ndarray]:
    def column(value: Callable[[Any], float | None], rows: Mapping[Key, Any] = tracks) -> np.ndarray:
        return np.array([value(rows[key]) for key in keys], np.float64)

    found = {_HEAD: column(lambda row: row["presence"])} if head_of(bundle) else {}
    found[_SCORE] = column(lambda row: max(row["object_scores"] or [float("nan")]))
    if (read := _token_head(bundle)) is not None:
        weight, bias = read
        tokens = _by_key(RunDirectory(run).read("tokens", TOKENS, ["video_id", "instruction_id", "tak"]).to_pylist())
        found[_TOKEN] = column(lambda row: float(np.asarray(row["tak"]) @ weight + bias), tokens)
    for name, sign in _TOLD.items():
        found[name.replace("_", " ")] = sign * column(itemgetter(name))
    return found


def _token_head(bundle: Bundle) -> tuple[np.ndarray, float] | None:
    """The training-only head that reads presence from [TAK], as weight (d,) and bias; None where the bundle keeps none."""
    path = bundle.folder / _HEADS
    if not path.exists():
        return None
    tensors = map_file(path)
    if "on_tak.weight" not in tensors:
        return None
    return tensors["on_tak.weight"][-1].double().numpy(), float(tensors["on_tak.bias"][-1])


def sections(judged: Judged, own: float) -> list[Section]:
    """The tables of the study; `own` is the threshold of the model's presence."""
    counts = f"{int((~judged.target).sum()):,} answered expressions without a target and {int(judged.target.sum()):,} with one"
    kinds = judged.kinds
    rows = [
        [
            name,
            *(_shown(100 * value) for value in (_auroc(judged, name), *(_auroc(judged, name, kind) for kind in kinds))),
        ]
        for name in judged.signals
    ]
    token = "" if _TOKEN in judged.signals else " The bundle has no special token that tells presence."
    line = (
        f"AUROC in percent, over {counts}; of a kind of question, its expressions without a target against those with one. "
        f"50 is chance.{token}"
    )
    parts = [Section("What tells presence", [line], ["signal", "all", *kinds], rows)]
    main = next(iter(judged.signals))
    parts += [_thresholds(judged, name, own if name == main else None) for name in dict.fromkeys((main, _SCORE))]
    told = judged.signals[main]
    if main != _HEAD:
        told = 1 / (1 + np.exp(-np.clip(told, -60, 60)))
    known = np.isfinite(told)
    bins = reliability(judged.target[known], told[known])
    line = f"Expected calibration error of {main}: {calibration_error(bins):.4f}."
    figure = reliability_figure([vars(one) for one in bins])
    return [*parts, Section("Calibration", [line], figure=figure)]


def _thresholds(judged: Judged, name: str, own: float | None) -> Section:
    """What is gained and lost at the thresholds where shares of the expressions with a target lose their masks."""
    values = np.sort(judged.signals[name][judged.target & judged.masked])
    chosen: list[tuple[str, float]] = [("none", -np.inf)]
    for share in LOST[1:]:
        allowed = int(share * len(values))
        if 0 < allowed < len(values):
            chosen.append((f"loses {share:.0%}", float(values[allowed - 1])))
    if own:
        logit = own if name == _HEAD else float(np.log(own / (1 - own))) if own < 1 else np.inf
        chosen.append(("the model's own", logit))
    rows = []
    for label, threshold in chosen:
        numbers = judged.at(name, threshold)
        rows.append([label, f"{threshold:.4f}" if np.isfinite(threshold) else "", *map(_shown, numbers.values())])
    line = (
        f"Masks only where the {name} is above the threshold. A threshold that loses 4 % takes the masks of 4 % of the "
        "expressions with a target that have one. J&F is the corrected mean; Final, MeViS v2's, is the mean of J&F, N-acc and "
        "T-acc, and rewards refusing."
    )
    return Section(f"Thresholds of the {name}", [line], ["threshold", "value", *judged.at(name, -np.inf)], rows)


def _auroc(judged: Judged, name: str, kind: str | None = None) -> float:
    values = judged.signals[name]
    # nothing to look at is what an answer without a mask gives: the least confident
    values = np.where(np.isfinite(values), values, -np.inf)
    chosen = np.ones(len(values), bool) if kind is None else judged.asks == kind
    return auroc(judged.target[chosen], values[chosen])


def _by_key(rows: list[dict[str, Any]]) -> dict[Key, dict[str, Any]]:
    return {(row["video_id"], row["instruction_id"]): row for row in rows}


def _mean(values: np.ndarray) -> float:
    return float(np.mean(values)) if values.size else float("nan")


def _shown(value: float) -> str:
    return f"{value:.2f}" if np.isfinite(value) else ""


def _plain(parts: list[Section]) -> list[dict[str, Any]]:
    return [
        {
            "title": one.title,
            "lines": list(one.lines),
            "rows": [dict(zip(one.head, row, strict=True)) for row in one.rows],
        }
        for one in parts
    ]

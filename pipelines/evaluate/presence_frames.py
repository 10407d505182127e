"""Presence by frame: how well the object scores of a frame tell whether that frame shows the target."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.evaluate.figures import reliability_figure
from vrshq.pipelines.evaluate.presence import ReliabilityBin, auroc, calibration_error, reliability
from vrshq.pipelines.evaluate.section import Section
from vrshq.pipelines.label.tables.schema import MASKS, TRACKS

_HEAD = [
    "asks",
    "frames with the target",
    "frames without",
    "AUROC",
    "without the target, with a mask",
    "with the target, without a mask",
]

_SIGNALS: dict[str, Callable[[Frames], np.ndarray]] = {
    "score of the tracked mask": lambda frames: frames.score,
    "score of the frame's own prompt": lambda frames: frames.prompted,
    "mean of both": lambda frames: (frames.score + frames.prompted) / 2,
}

Key = tuple[str, str]


@dataclass(frozen=True)
class Frames:
    """The frames of expressions, one entry each. Scores are logits, and of several objects the highest.

    Attributes:
        target: whether the expression has a target, bool (n,).
        shown: whether the true mask has a pixel, bool (n,).
        score: object score of the mask in the answer, which is tracked on most frames, float (n,).
        prompted: object score from the prompt alone, without memory; between two sampled frames on the line between theirs,
            before the first and after the last as on that one; float (n,), NaN where there is none.
        masked: whether the predicted mask has a pixel, bool (n,).
        asks: the kind of question, str (n,).
    """

    target: np.ndarray
    shown: np.ndarray
    score: np.ndarray
    prompted: np.ndarray
    masked: np.ndarray
    asks: np.ndarray

    def where(self, chosen: np.ndarray) -> Frames:
        """Some of the frames, by a bool (n,)."""
        return Frames(*(getattr(self, one.name)[chosen] for one in fields(self)))


def read_frames(
    run: str, keys: Sequence[Key], target: np.ndarray, shown: Sequence[np.ndarray], asks: Sequence[str]
) -> Frames:
    """The frames of expressions in an evaluated run.

    Args:
        run: uri of the run directory.
        keys: video and instruction of each expression.
        target: whether each has a target, bool (E,).
        shown: whether each frame's true mask has a pixel, bool (T,) per expression.
        asks: the kind of question of each expression.

    Returns:
        the frames of the expressions for which the run has as many frames as there are true masks.
    """
    wanted = ["video_id", "instruction_id", "frame_index", "object_score", "area"]
    rows = RunDirectory(run).read("masks", MASKS, wanted)
    by_frame = rows.group_by(wanted[:3]).aggregate([("object_score", "max"), ("area", "max")]).sort_by("frame_index")
    one_each = by_frame.group_by(wanted[:2], use_threads=False)  # one thread keeps the order of the frames
    listed = one_each.aggregate([("object_score_max", "list"), ("area_max", "list")]).to_pylist()
    found = {(row["video_id"], row["instruction_id"]): row for row in listed}
    chosen = [place for place, key in enumerate(keys) if len(shown[place]) == _frames(found.get(key))]
    of_chosen, lengths = [found[keys[place]] for place in chosen], [len(shown[place]) for place in chosen]
    tracks = RunDirectory(run).read("tracks", TRACKS, [*wanted[:2], "sampled_frames", "object_scores"]).to_pylist()
    sampled = {(row["video_id"], row["instruction_id"]): row for row in tracks}
    own = [_prompted(sampled[keys[place]], length) for place, length in zip(chosen, lengths, strict=True)]
    return Frames(
        np.repeat(target[chosen], lengths),
        np.concatenate([shown[place] for place in chosen] or [np.zeros(0, bool)]),
        np.array([score for row in of_chosen for score in row["object_score_max_list"]], np.float64),
        np.concatenate(own or [np.zeros(0)]),
        np.array([area > 0 for row in of_chosen for area in row["area_max_list"]], bool),
        np.repeat([asks[place] for place in chosen], lengths),
    )


def _prompted(row: dict[str, Any], length: int) -> np.ndarray:
    """The scores (length,) from the prompts alone, of a row of `tracks/`."""
    frames, scores = row["sampled_frames"] or [], np.array(row["object_scores"] or [], np.float64)
    if not len(scores) or not frames or len(scores) % len(frames):
        return np.full(length, np.nan)
    prompted: np.ndarray = np.interp(np.arange(length), frames, scores.reshape(-1, len(frames)).max(axis=0))
    return prompted


def _frames(row: dict[str, Any] | None) -> int:
    return 0 if row is None else len(row["area_max_list"])


def frame_sections(frames: Frames) -> list[Section]:
    """The tables and the reliability figure of presence by frame; none where no frame lacks its target."""
    there = frames.where(frames.target)
    if there.shown.all():
        return []
    rows = [_row("all", there)]
    rows += [
        _row(kind, there.where(there.asks == kind)) for kind in sorted({one for one in there.asks.tolist() if one})
    ]
    line = (
        "Frames of the expressions that have a target, with every mask: does the object score of a frame tell whether it shows "
        "the target? Counted are expressions with a true mask for every frame. In percent; AUROC is over frames, 50 is chance."
    )
    return [Section("Presence by frame", [line], _HEAD, rows), _as_probabilities(frames, there)]


def _as_probabilities(frames: Frames, there: Frames) -> Section:
    """How good the scores are as probabilities, over all expressions and over those with a target."""
    rows = []
    for name, signal in _SIGNALS.items():
        numbers = []
        for some in (frames, there):
            logits = signal(some)
            known = np.isfinite(logits)
            error = calibration_error(_bins(some.shown[known], logits[known]))
            numbers += [_percent(auroc(some.shown[known], logits[known])), f"{error:.4f}"]
        rows.append([name, *numbers])
    known = np.isfinite(frames.prompted)
    bins = _bins(frames.shown[known], frames.prompted[known])
    what = (
        "The sigmoid of a score as the probability that a frame shows what the expression means. AUROC in percent; ECE is the "
        "expected calibration error. The figure shows the score of the frame's own prompt, over all expressions."
    )
    how = (
        "SAM2 gives a score for each sampled frame from its prompt alone, before tracking (object_scores of tracks/), and one "
        "with its memory (object_score of masks/). Between sampled frames the first is interpolated."
    )
    head = ["signal", "AUROC, all expressions", "ECE", "AUROC, with a target", "ECE of these"]
    figure = reliability_figure([vars(one) for one in bins], "frames")
    return Section("Presence by frame, as a probability", [what, how], head, rows, figure=figure)


def _bins(shown: np.ndarray, logits: np.ndarray) -> list[ReliabilityBin]:
    return reliability(shown, 1 / (1 + np.exp(-np.clip(logits, -60, 60))))


def _percent(share: float) -> str:
    return f"{100 * share:.2f}" if np.isfinite(share) else ""


def _row(name: str, frames: Frames) -> list[str]:
    shown, score, masked = frames.shown, frames.score, frames.masked
    with_it, without = int(shown.sum()), int((~shown).sum())
    numbers = (
        auroc(shown, score),
        masked[~shown].mean() if without else np.nan,
        (~masked[shown]).mean() if with_it else np.nan,
    )
    return [name, f"{with_it:,}", f"{without:,}", *map(_percent, numbers)]

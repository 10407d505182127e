"""Presence by frame: how well the object score of a frame tells whether that frame shows the target."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.evaluate.figures import reliability_figure
from vrshq.pipelines.evaluate.presence import auroc, calibration_error, reliability
from vrshq.pipelines.evaluate.section import Section
from vrshq.pipelines.label.tables.schema import MASKS

_HEAD = [
    "asks",
    "frames with the target",
    "frames without",
    "AUROC",
    "without the target, with a mask",
    "with the target, without a mask",
]

Key = tuple[str, str]


@dataclass(frozen=True)
class Frames:
    """The frames of expressions that have a target, one entry each.

    Attributes:
        shown: whether the true mask has a pixel, bool (n,).
        score: object score, the highest of several objects, as a logit, float (n,).
        masked: whether the predicted mask has a pixel, bool (n,).
        asks: the kind of question, str (n,).
    """

    shown: np.ndarray
    score: np.ndarray
    masked: np.ndarray
    asks: np.ndarray


def read_frames(run: str, keys: Sequence[Key], shown: Sequence[np.ndarray], asks: Sequence[str]) -> Frames:
    """The frames of expressions in an evaluated run.

    Args:
        run: uri of the run directory.
        keys: video and instruction of each expression.
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
    of_chosen = [found[keys[place]] for place in chosen]
    return Frames(
        np.concatenate([shown[place] for place in chosen] or [np.zeros(0, bool)]),
        np.array([score for row in of_chosen for score in row["object_score_max_list"]], np.float64),
        np.array([area > 0 for row in of_chosen for area in row["area_max_list"]], bool),
        np.repeat([asks[place] for place in chosen], [len(shown[place]) for place in chosen]),
    )


def _frames(row: dict[str, Any] | None) -> int:
    return 0 if row is None else len(row["area_max_list"])


def frame_sections(frames: Frames) -> list[Section]:
    """The table and the reliability figure of presence by frame; none where no frame lacks its target."""
    if frames.shown.all():
        return []
    rows = [_row("all", frames, np.ones(len(frames.shown), bool))]
    rows += [_row(kind, frames, frames.asks == kind) for kind in sorted({one for one in frames.asks.tolist() if one})]
    bins = reliability(frames.shown, 1 / (1 + np.exp(-np.clip(frames.score, -60, 60))))
    line = (
        "Frames of the expressions that have a target, with every mask: does the object score of a frame tell whether it shows "
        "the target? Counted are expressions with a true mask for every frame. In percent; AUROC is over frames, 50 is chance. "
        f"Expected calibration error: {calibration_error(bins):.4f}."
    )
    return [
        Section(
            "Presence by frame", [line], _HEAD, rows, figure=reliability_figure([vars(one) for one in bins], "frames")
        )
    ]


def _row(name: str, frames: Frames, chosen: np.ndarray) -> list[str]:
    shown, score, masked = frames.shown[chosen], frames.score[chosen], frames.masked[chosen]
    with_it, without = int(shown.sum()), int((~shown).sum())
    numbers = (
        auroc(shown, score),
        masked[~shown].mean() if without else np.nan,
        (~masked[shown]).mean() if with_it else np.nan,
    )
    return [name, f"{with_it:,}", f"{without:,}", *(f"{100 * one:.2f}" if np.isfinite(one) else "" for one in numbers)]

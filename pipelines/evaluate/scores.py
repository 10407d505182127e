"""Scores the expressions of one video: one row of `scores.parquet` for each."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pyarrow as pa

from vrshq.operators.masks.bits import runs
from vrshq.operators.masks.rle import Rle
from vrshq.pipelines.evaluate.datasets.base import Benchmark, DatasetError, Expression, Video
from vrshq.pipelines.evaluate.metrics import FrameMeasures, measure, merged
from vrshq.pipelines.evaluate.predictions import Prediction, Predictions, RunPredictions, frame_number, merge_objects
from vrshq.pipelines.evaluate.presence import temporal_iou, volume_iou
from vrshq.pipelines.evaluate.protocols import Protocol, expression_score, group_of

OK = "ok"
# Reasons for an expression without a score. All except `no-truth` count as a missing answer of the protocol.
PROBLEMS = ("missing-video", "missing-expression", "missing-frames", "wrong-size", "scoring-failed", "no-truth")

SCORES = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("expression_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("kind", pa.string()),
        pa.field("asks", pa.string()),
        pa.field("subtype", pa.string()),
        pa.field("source", pa.string()),
        pa.field("object_ids", pa.list_(pa.string()), nullable=False),
        pa.field("group", pa.string()),
        pa.field("motion", pa.bool_(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("missing_frames", pa.int32(), nullable=False),
        pa.field("frames", pa.int32(), nullable=False),
        # percent, rounded as the protocol says; 0 without a usable answer, null without ground truth
        *(pa.field(name, pa.float64()) for name in ("J", "F", "JF", "A", "R")),
        # percent, not rounded, on 0/1 masks
        *(pa.field(f"{name}_fixed", pa.float64()) for name in ("J", "F", "JF", "A", "R")),
        pa.field("tIoU", pa.float64()),
        pa.field("vIoU", pa.float64()),
        # pixels, summed over frames
        pa.field("truth_area", pa.int64()),
        pa.field("predicted_area", pa.int64()),
        pa.field("intersection", pa.int64()),
        pa.field("union", pa.int64()),
        pa.field("pixels", pa.int64()),
        pa.field("truth_frames", pa.int32()),
        pa.field("empty_frames", pa.int32()),
        # 0..1; if the predictions hold no presence, 1 for some mask and 0 for none
        pa.field("presence", pa.float64()),
        pa.field("frames_read", pa.int32()),  # sampled frames that the model read; null: not known
        # by frame: J (0..1), whether the true mask has a pixel, and frames from the keyframe (null: no keyframe is known);
        # null without a score
        pa.field("frame_J", pa.list_(pa.float32())),
        pa.field("frame_shown", pa.list_(pa.bool_())),
        pa.field("frame_distance", pa.list_(pa.int32())),
    ]
)

_MOTION_STEMS = (
    "approach bounc chas circl climb crawl cross danc div driv drop enter escap fall flap fli float fly follow hop jump "
    "kick leav lift mov overtak pac pass pull push rac rid ris roll rotat run shak shift slid spin stop "
    "swim swing throw toss travel turn twirl walk wander wav wrestl"
)
_MOTION = re.compile(
    r"\b(?:(?:" + "|".join(_MOTION_STEMS.split()) + r")(?:e|es|ed|ing|s|y|ying|ies)?|motion\w*|motionless|"
    r"(?:run|swim|hop|spin|stop|drop|flap|skip)(?:ning|ming|ping|ned|ped)|fell|flew|rode|ran|swam|threw|left to right|"
    r"right to left|forward|backward|fast(?:er|est)?|slow(?:er|est|ly)?|quick(?:er|est|ly)?)\b",
    re.IGNORECASE,
)


def is_about_motion(expression: Expression) -> bool:
    """Whether an expression asks about motion or time: as the data set tells, else by the words of its text.

    The sets of `vrshq synth` tell it by `asks`, Long-RVOS by its types dynamic and hybrid.
    """
    if expression.asks is not None:
        return expression.asks == "motion"
    if expression.kind in ("static", "dynamic", "hybrid"):
        return expression.kind != "static"
    return has_motion_word(expression.text)


def has_motion_word(text: str) -> bool:
    """Whether a text holds a word of motion, from a fixed list of English verbs and adverbs."""
    return _MOTION.search(text) is not None


# (video_id, expression_id) -> frame index of the keyframe, and number of frames of the labelled video
Keyframes = Mapping[tuple[str, str], tuple[int, int]]


def read_keyframes(predictions: Predictions) -> Keyframes:
    """The keyframes of predictions from a run; other kinds of predictions have none."""
    if not isinstance(predictions, RunPredictions):
        return {}
    return {
        (video, track["instruction_id"]): (track["keyframe_index"], track["num_frames"])
        for video, tracks in predictions.tracks.items()
        for track in tracks
        if track["keyframe_index"] is not None
    }


def keyframe_distances(video: Video, keyframe: tuple[int, int] | None) -> list[int] | None:
    """Number of frames between each of the video's frames and the keyframe; None if it is not known.

    A run orders the frames of a folder by the numbers in their names, independent of the order in the metadata. The distance
    is not known if there is no keyframe, or if the metadata lists another number of frames than were labelled.
    """
    if keyframe is None or keyframe[1] != len(video.frames):
        return None
    rank = {name: place for place, name in enumerate(sorted(video.frames, key=frame_number))}
    return [abs(rank[name] - keyframe[0]) for name in video.frames]


def score_video(
    benchmark: Benchmark, video: Video, predictions: Predictions, protocol: Protocol, keyframes: Keyframes
) -> list[dict[str, Any]]:
    """One row of `SCORES` for every expression of a video. An error is the `status` of a row; it raises nothing."""
    try:
        found = predictions.of(video)
        if found is not None and protocol.palette:
            found = _one_palette(video, found, protocol)
    except Exception as error:  # noqa: BLE001 - one broken part must not end the evaluation
        return [
            _without_answer(benchmark, video, expression, protocol, "scoring-failed", _reason(error))
            for expression in video.expressions
        ]
    rows = []
    for expression in video.expressions:
        if found is not None and expression.expression_id in found:
            rows.append(_score(benchmark, video, expression, found[expression.expression_id], protocol))
        else:
            status = "missing-video" if found is None else "missing-expression"
            why = predictions.failure(video.video_id, expression.expression_id)
            rows.append(_without_answer(benchmark, video, expression, protocol, status, why))
    for row in rows:
        if row["status"] == OK and found is not None:
            distances = keyframe_distances(video, keyframes.get((video.video_id, row["expression_id"])))
            asked = asked_frames(video, found[row["expression_id"]])
            row["frames_read"] = predictions.frames_read(video.video_id, row["expression_id"])
            row["frame_distance"] = distances and [distances[place] for place in asked]
    return rows


def unscored(
    video: Video, expression: Expression, protocol: Protocol, status: str, detail: str | None
) -> dict[str, Any]:
    """The row of an expression without a score: 0 in every measure, or null if there is no ground truth."""
    nothing = None if status == "no-truth" else 0.0
    row: dict[str, Any] = dict.fromkeys(SCORES.names)
    row |= dict.fromkeys(("J", "F", "JF", "A", "R", "tIoU", "vIoU"), nothing)
    row |= {f"{name}_fixed": nothing for name in ("J", "F", "JF", "A", "R")}
    return row | {
        "video_id": video.video_id,
        "expression_id": expression.expression_id,
        "text": expression.text,
        "kind": expression.kind,
        "asks": expression.asks,
        "subtype": expression.subtype,
        "source": video.source,
        "object_ids": list(expression.object_ids),
        "group": group_of(protocol, expression.expression_id, expression.kind),
        "motion": is_about_motion(expression),
        "status": status,
        "detail": detail,
        "missing_frames": 0,
        "frames": len(video.frames),
    }


def _score(
    benchmark: Benchmark,
    video: Video,
    expression: Expression,
    prediction: Prediction,
    protocol: Protocol,
) -> dict[str, Any]:
    asked = asked_frames(video, prediction)
    masks = [mask for place in asked if (mask := prediction.masks[place]) is not None]
    missing = len(asked) - len(masks)
    if missing and protocol.gaps_are_empty and prediction.masks[asked[0]] is not None:
        empty = merged([], *masks[0]["size"])
        masks = [prediction.masks[place] or empty for place in asked]
        prediction = replace(
            prediction, problem=prediction.problem or f"{missing} frames without a mask count as empty"
        )
        missing = 0
    if missing or not masks:
        row = _without_answer(benchmark, video, expression, protocol, "missing-frames", prediction.problem)
        return row | {"missing_frames": missing}
    try:
        truth, foreground = benchmark.masks(video, expression), benchmark.foreground(video)
        if prediction.asked is not None and len(truth) == len(video.frames):
            truth = [truth[place] for place in asked]
            foreground = foreground and [foreground[place] for place in asked]
    except Exception as error:  # noqa: BLE001 - whatever the file does that its masks come from, the others are scored
        detail = str(error) if isinstance(error, DatasetError) else _reason(error)
        return unscored(video, expression, protocol, "no-truth", detail)
    try:
        wrong = _wrong_size(video, truth, masks, foreground)
        if wrong:
            return _without_answer(benchmark, video, expression, protocol, "wrong-size", wrong)
        measures = measure(truth, masks, foreground, value=prediction.value)
    except Exception as error:  # noqa: BLE001 - as above, for the predicted masks
        return _without_answer(benchmark, video, expression, protocol, "scoring-failed", _reason(error))
    row = unscored(video, expression, protocol, OK, prediction.problem) | {"frames": len(asked)}
    return row | _measured(measures, prediction, protocol)


def asked_frames(video: Video, prediction: Prediction) -> list[int]:
    """The places, among the video's frames, of those that the prediction is for."""
    places = range(len(video.frames))
    return [place for place in places if prediction.asked is None or prediction.asked[place]]


def _measured(measures: FrameMeasures, prediction: Prediction, protocol: Protocol) -> dict[str, Any]:
    exact = replace(protocol, decimals=None)
    published = {
        name: expression_score(values, protocol)
        for name, values in (("J", measures.j), ("F", measures.f), ("A", measures.a), ("R", measures.r))
    }
    fixed = {
        f"{name}_fixed": expression_score(values, exact)
        for name, values in (("J", measures.j), ("F", measures.f), ("A", measures.a_fixed), ("R", measures.r_fixed))
    }
    true, predicted = measures.truth_area > 0, measures.predicted_area > 0
    both = (fixed["J_fixed"] + fixed["F_fixed"]) / 2
    row = {
        **published,
        "JF": both if protocol.decimals is None else round(both, protocol.decimals),
        **fixed,
        "JF_fixed": both,
        "tIoU": 100 * temporal_iou(true, predicted),
        "vIoU": 100 * volume_iou(measures.j, true, predicted),
        "truth_area": int(measures.truth_area.sum()),
        "predicted_area": int(measures.predicted_area.sum()),
        "intersection": int(measures.intersection.sum()),
        "union": int(measures.union.sum()),
        "pixels": measures.pixels * len(true),
        "truth_frames": int(true.sum()),
        "empty_frames": int((~predicted).sum()),
        "presence": float(predicted.any()) if prediction.presence is None else prediction.presence,
    }
    return {name: None if value != value else value for name, value in row.items()} | {
        "frame_J": measures.j.tolist(),
        "frame_shown": true.tolist(),
    }


def _without_answer(
    benchmark: Benchmark, video: Video, expression: Expression, protocol: Protocol, status: str, detail: str | None
) -> dict[str, Any]:
    """The row of an expression that scores 0. Its true area still counts in sums over expressions."""
    row = unscored(video, expression, protocol, status, detail)
    try:
        truth = benchmark.masks(video, expression)
        area = sum(_area(masks) for masks in truth)
    except Exception as error:  # noqa: BLE001 - as above
        return unscored(video, expression, protocol, "no-truth", f"{_reason(error)} (and the answer: {status})")
    frames = sum(_area(masks) > 0 for masks in truth)
    return row | {"truth_area": area, "union": area, "intersection": 0, "truth_frames": frames}


def _one_palette(video: Video, found: Mapping[str, Prediction], protocol: Protocol) -> dict[str, Prediction]:
    """The predictions of each group without overlaps, as one palette image per frame would hold them."""
    groups: dict[str | None, dict[str, Prediction]] = {}
    for expression in video.expressions:
        name = expression.expression_id
        if name in found:
            groups.setdefault(group_of(protocol, name, expression.kind), {})[name] = found[name]
    return {name: prediction for group in groups.values() for name, prediction in merge_objects(group).items()}


def _wrong_size(
    video: Video, truth: list[list[Rle]], predicted: list[Rle], foreground: list[list[Rle]] | None
) -> str | None:
    """A description of sizes or numbers of frames that differ between predictions, truth and foreground; None: none differ."""
    sizes = {tuple(mask["size"]) for mask in predicted}
    true = {tuple(mask["size"]) for masks in truth for mask in masks}
    if not true and video.height and video.width:
        true = {(video.height, video.width)}
    around = {tuple(mask["size"]) for masks in foreground or () for mask in masks}
    if len(truth) != len(predicted) or (foreground is not None and len(foreground) != len(predicted)):
        ours = f"{len(predicted)} predicted masks, {len(truth)} frames of truth"
        return ours if foreground is None else f"{ours}, {len(foreground)} of foreground"
    if len(sizes | true | around) > 1:
        named = (("predicted", sizes), ("truth", true), ("foreground", around))
        return ", ".join(f"{name} {' '.join(f'{h}x{w}' for h, w in sorted(found))}" for name, found in named if found)
    return None


def _area(masks: list[Rle]) -> int:
    return runs([merged(masks, *masks[0]["size"])])[0].area if masks else 0


def _reason(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"

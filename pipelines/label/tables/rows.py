"""From a finished unit to the rows of the run directory's tables."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa

from vrshq.operators.batch import Unit
from vrshq.operators.masks.rle import EncodedMask
from vrshq.operators.masks.trust import Trust, trust, united
from vrshq.operators.masks.windows import Answers, Summed
from vrshq.pipelines.label.tables.carried import carried_columns
from vrshq.pipelines.label.tables.schema import ERRORS, MASKS, SCHEMA_VERSION, STAGES, TOKENS, TRACKS


def tracks_schema(carried: pa.Schema) -> pa.Schema:
    """`tracks/` of a run: the declared columns, then the instruction table's own."""
    return pa.schema([*TRACKS, *carried])


def unit_tables(unit: Unit, carried: pa.Schema, attempts: int = 1) -> dict[str, pa.Table]:
    """All rows of one unit, whether it succeeded or failed: exactly one row of `tracks` per instruction.

    Args:
        unit: the columns of `vrshq.operators.batch` and of every operator that ran; missing ones are null in `tracks`.
        carried: types of the instruction table's other columns.
        attempts: number of attempts at the unit.

    Returns:
        The tables `masks`, `tokens`, `errors` and `tracks`, by name.
    """
    positions = range(len(unit["texts"]))
    # masks of a long unit are in its windows already
    answered = [position for position in positions if unit["errors"][position] is None]
    return {
        "masks": _masks(unit, [] if unit.get("summed") else answered),
        "tokens": _tokens(unit, answered),
        "errors": _errors(unit, attempts),
        "tracks": _tracks(unit, attempts, carried),
    }


def _masks(unit: Unit, answered: list[int]) -> pa.Table:
    frames = unit["num_frames"] if answered else 0
    # one (instruction, object) after the other; an instruction without an object has one with empty masks
    shown = [(position, number) for position in answered for number in range(len(unit["rles"][position]))]
    rows = len(shown) * (frames or 0)

    def flat(column: str) -> list[Any]:
        return [value for position, number in shown for value in unit[column][position][number]]

    columns = [
        pa.repeat(unit["video_id"], rows),
        [unit["instruction_ids"][position] for position, _ in shown for _ in range(frames)],
        [number for _, number in shown for _ in range(frames)],
        list(frame_numbers(unit)) * len(shown),
        pa.repeat(pa.scalar(unit.get("height") or 0, pa.int32()), rows),
        pa.repeat(pa.scalar(unit.get("width") or 0, pa.int32()), rows),
        flat("rles"),
        flat("areas"),
        flat("bboxes"),
        flat("frame_scores"),
    ]
    return _table(columns, MASKS)


def window_rows(unit: Unit, frames: range, answers: Answers) -> pa.Table:
    """The rows of `masks/` of some frames of a unit, in the order in which those of a whole unit are.

    Args:
        unit: its video is open.
        frames: indices of the frames.
        answers: objects by position of the instruction, with a mask for each of the frames.
    """
    numbers = frame_numbers(unit)[frames.start : frames.stop]
    found = {
        "rles": {key: [[mask.rle for mask in one.masks if mask] for one in own] for key, own in answers.items()},
        "areas": {key: [[mask.area for mask in one.masks if mask] for one in own] for key, own in answers.items()},
        "bboxes": {key: [[mask.bbox for mask in one.masks if mask] for one in own] for key, own in answers.items()},
        "frame_scores": {key: [one.scores for one in own] for key, own in answers.items()},
    }
    span = {"num_frames": len(frames), "frame_range": (numbers.start, numbers.stop, numbers.step)}
    return _masks({**unit, **found, **span}, sorted(answers))


def _tokens(unit: Unit, answered: list[int]) -> pa.Table:
    return _table(
        [
            [unit["video_id"]] * len(answered),
            [unit["instruction_ids"][position] for position in answered],
            [_in_video(unit, "sampled_frames", position) for position in answered],
            *[[unit[column][position] for position in answered] for column in ("seg", "tak")],
            [unit["d"]] * len(answered) if answered else [],
        ],
        TOKENS,
    )


def _errors(unit: Unit, attempts: int) -> pa.Table:
    now = datetime.datetime.now(datetime.UTC)
    rows = [
        {
            "unit_id": unit["unit_id"],
            "video_id": unit["video_id"],
            "instruction_id": unit["instruction_ids"][position],
            "stage": error["stage"],
            "error_type": error["error_type"],
            "message": error["message"],
            "attempt": attempts,
            "at": now,
        }
        for position, error in enumerate(unit["errors"])
        if error is not None
    ]
    return pa.Table.from_pylist(rows, schema=ERRORS)


def _tracks(unit: Unit, attempts: int, carried: pa.Schema) -> pa.Table:
    seconds = {stage: unit["seconds"].get(stage) for stage in STAGES}
    rows = []
    for position, text in enumerate(unit["texts"]):
        error = unit["errors"][position]
        shown = not error and _shown(unit, position)
        scores = _at(unit, "object_scores", position)
        rows.append(
            {
                "video_id": unit["video_id"],
                "video_uri": unit["video_uri"],
                "instruction_id": unit["instruction_ids"][position],
                "text": text,
                "answer": _at(unit, "answers", position),
                "num_objects": _at(unit, "num_objects", position),
                "status": "error" if error else "ok" if shown else "empty",
                "num_frames": unit.get("total_frames") or unit.get("num_frames"),
                **dict(zip(("start", "end", "every"), unit.get("frame_range") or (None, None, None), strict=True)),
                "height": unit.get("height"),
                "width": unit.get("width"),
                "pixel_aspect": unit.get("pixel_aspect"),
                "keyframe_index": next(iter(_in_video(unit, "keyframes", position) or ()), None),
                "sampled_frames": _in_video(unit, "sampled_frames", position),
                "clip_probs": _at(unit, "clip_probs", position),
                "similarities": _at(unit, "similarities", position),
                "object_scores": scores and [score for row in scores for score in row],
                "presence": _at(unit, "presence", position),
                **({} if error else vars(_trust(unit, position))),
                "attempts": attempts,
                "seconds": seconds,
                "notes": _notes(unit, position),
                "error_type": error["error_type"] if error else None,
                "error_message": error["message"] if error else None,
                "schema_version": SCHEMA_VERSION,
            }
        )
    table = pa.Table.from_pylist(rows, schema=TRACKS)
    extra = carried_columns(unit["carried"], carried)
    for field in carried:
        table = table.append_column(field, extra[field.name])
    return table


def _shown(unit: Unit, position: int) -> bool:
    summed: Summed | None = _at(unit, "summed", position)
    return summed.shown if summed else any(any(areas) for areas in unit["areas"][position])


def _trust(unit: Unit, position: int) -> Trust:
    """The signals of the union of an answer's objects; without an object there are no scores to look at."""
    summed: Summed | None = _at(unit, "summed", position)
    if summed:
        return summed.trust
    size = unit["height"], unit["width"]
    coded = (unit[column][position] for column in ("rles", "areas", "bboxes"))
    objects = [[EncodedMask(*mask) for mask in zip(*one, strict=True)] for one in zip(*coded, strict=True)]
    scores = [max(on_frame) for on_frame in zip(*unit["frame_scores"][position], strict=True)]
    return trust(united(objects, *size), scores if unit["num_objects"][position] else [], *size)


def _notes(unit: Unit, position: int) -> str | None:
    """The note on the video and the one on the text; a note from an earlier run's `tracks/` holds both already."""
    video, text = unit.get("video_note") or "", _at(unit, "notes", position) or ""
    return text or None if text.startswith(video) else "; ".join(filter(None, (video, text)))


def frame_numbers(unit: Unit) -> range:
    """The numbers, in the whole video, of the unit's frames; empty where its video was not opened."""
    chosen = unit.get("frame_range")
    return range(*chosen) if chosen else range(unit.get("num_frames") or 0)


def _in_video(unit: Unit, column: str, position: int) -> Any:
    """A column of frame indices of the unit's span, as numbers of the whole video."""
    numbers, value = frame_numbers(unit), _at(unit, column, position)
    if isinstance(value, list):
        return [numbers[index] for index in value]
    return None if value is None else numbers[value]


def _at(unit: Unit, column: str, position: int) -> Any:
    values = unit.get(column)
    return values[position] if values else None


def _table(columns: list[Any], schema: pa.Schema) -> pa.Table:
    arrays = [
        column.cast(field.type) if isinstance(column, pa.Array) else pa.array(column, type=field.type)
        for column, field in zip(columns, schema, strict=True)
    ]
    return pa.Table.from_arrays(arrays, schema=schema)

"""The batch that travels from operator to operator, and the for-loop that runs a list of operators over it.

A batch is a dict of columns, each a list with one entry per *unit* (one video with E of its instructions). Columns that
hold one value per instruction are lists of length E inside the unit's entry. An operator takes the columns it needs, adds
its own and returns the batch; it never drops or reorders units or instructions.

Columns that every batch has:

| column | entry of a unit | meaning |
| --- | --- | --- |
| `unit_id` | str | stable id of the unit |
| `video_id`, `video_uri` | str | the video; `video_uri` is a local path by the time an operator sees it |
| `instruction_ids`, `texts` | list[str], E | the instructions |
| `carried` | list[str], E | JSON of the instruction table's other columns |
| `errors` | list[Failure or None], E | why an instruction has no answer; set once, by the stage that failed |
| `seconds` | dict[str, float] | seconds each operator took for the unit |

*Live* columns (`LIVE_COLUMNS`) hold objects of this process, such as an open video. They never leave the actor. One of them,
`kept` (a dict; None or missing for a unit alone), is the same for all units of one video that a worker works on one after the
other: what a stage puts there by `once` serves the later units, too. Another, `windows` (a `masks.windows.WindowStore`; None
or missing for a short video), is where a long unit keeps what another attempt at it need not do again.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol, TypedDict

from vrshq.errors import UserError

Batch = dict[str, list[Any]]
Unit = dict[str, Any]

LIVE_COLUMNS = frozenset({"video", "features", "keyframe_logits", "evidence", "kept", "windows"})


class Failure(TypedDict):
    """Why an instruction (or its whole video) has no answer."""

    stage: str
    error_type: str
    message: str


class Made:
    """What this process has made so far, for whoever shows progress while a unit is worked on.

    Attributes:
        masks: one for each object and frame.
    """

    masks = 0


class Operator(Protocol):
    """One stage of the way of the data. `name` is its name in placements, timings and error rows."""

    name: str

    def __call__(self, batch: Batch) -> Batch:
        """Maps a batch to a batch with the stage's columns added."""


class InputError(UserError, ValueError):
    """The given video or instruction cannot be used; the message names it, and says what was expected."""


def check_text(text: str, expected: str = "a phrase or a question about the video") -> None:
    """Raises InputError if an instruction's text is empty or not valid Unicode."""
    if not text.strip():
        raise InputError(f"empty instruction text; expected {expected}")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise InputError(f"instruction text is not valid Unicode ({error.reason})") from error


def failure(stage: str, error: BaseException) -> Failure:
    """The failure row of an exception: its class name and its message on one line, at most 2,000 characters."""
    text = str(error).encode(errors="backslashreplace").decode()  # names of files may hold bytes that are no text
    message = " ".join(text.split()) or type(error).__name__
    return Failure(stage=stage, error_type=type(error).__name__, message=message[:2000])


# What CUDA's libraries say when an allocation fails inside them.
_NO_DEVICE_MEMORY = re.compile(r"CUDA out of memory|STATUS_ALLOC_FAILED|NVML_SUCCESS == r INTERNAL ASSERT")


def is_out_of_device_memory(error: BaseException) -> bool:
    """Whether an exception means that the GPU has no memory left: torch's own error, or that of a CUDA library."""
    names = {one.__name__ for one in type(error).__mro__}
    return "OutOfMemoryError" in names or bool(_NO_DEVICE_MEMORY.search(str(error)))


def once(unit: Unit, name: str, make: Callable[[], Any]) -> Any:
    """What `make` returns: made for each unit, or once for all units of a video whose `kept` is there."""
    kept = unit.get("kept")
    if kept is None:
        return make()
    if name not in kept:
        kept[name] = make()
    return kept[name]


def open_instructions(unit: Unit) -> list[int]:
    """Positions of the instructions that no stage has failed yet."""
    return [position for position, error in enumerate(unit["errors"]) if error is None]


def new_batch(units: Iterable[Unit]) -> Batch:
    """A batch of the given units, with empty `errors` and `seconds` where they are missing."""
    rows = [
        {"carried": ["{}"] * len(unit["texts"]), "errors": [None] * len(unit["texts"]), "seconds": {}} | unit
        for unit in units
    ]
    return {column: [row[column] for row in rows] for column in rows[0]} if rows else {}


def map_units(stage: str, batch: Batch, function: Callable[[Unit], Unit], empty: Unit) -> Batch:
    """Applies `function` to each unit that still has an open instruction, and catches what it raises.

    Args:
        stage: name for `seconds` and for the failure of a unit.
        batch: the batch; it is not changed.
        function: from a unit (a dict of its columns) to the columns it adds or replaces.
        empty: the columns to add where `function` was not run or raised.

    An exception becomes the failure of every open instruction of that unit; the other units go on. A `MemoryError` is
    caught like any other; what ends the process is the engine's matter. A device that is out of memory is no fault of the
    unit: that exception is raised, for whoever can try again with smaller batches.
    """
    size = len(batch["unit_id"])
    rows = [{column: values[index] for column, values in batch.items()} for index in range(size)]
    done: list[Unit] = []
    for unit in rows:
        begin = time.perf_counter()
        added: Unit = {}
        if open_instructions(unit):
            try:
                added = function(dict(unit))
            except Exception as error:
                if is_out_of_device_memory(error):
                    raise
                # the quarantine: any other failure of one unit becomes its error row
                why = failure(stage, error)
                added = {"errors": [old or why for old in unit["errors"]]}
        seconds = unit["seconds"] | {stage: unit["seconds"].get(stage, 0.0) + time.perf_counter() - begin}
        done.append(
            unit | {key: value for key, value in empty.items() if key not in unit} | added | {"seconds": seconds}
        )
    return {column: [row[column] for row in done] for column in done[0]} if done else dict(batch)


def run_operators(operators: Sequence[Operator], batch: Batch) -> Batch:
    """The for-loop: each operator in turn over the batch. The distributed run must equal this."""
    for operator in operators:
        batch = operator(batch)
    return batch


def close_videos(batch: Batch) -> Batch:
    """Closes the open videos of a batch and returns the batch without its `video` column."""
    for video in batch.get("video", []):
        if video is not None:
            video.close()
    return {column: values for column, values in batch.items() if column != "video"}

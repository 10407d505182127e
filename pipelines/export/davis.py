"""The official Ref-DAVIS17 submission: four folders, one for each annotator, all objects merged in one palette image.

The public scripts merge by argmax of the objects' probabilities against a background of 0.1, with probabilities below 0.5
set to 0 (ReferFormer). A run keeps a mask per object, which is exactly "probability above 0.5", and one object logit per
frame. So every pixel that at most one object claims comes out as there. A pixel that several claim goes to the object with
the highest object logit on that frame, the lower index where they tie; there, the per-pixel probabilities that would have
decided are gone. Several objects of one answer are one mask.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from vrshq.pipelines.export.answers import Answers, ExportSummary, FrameMask, RunVideo
from vrshq.pipelines.export.names import path_of
from vrshq.pipelines.export.pictures import painted, palette_png
from vrshq.pipelines.export.sinks import FolderSink

ANNOTATORS = 4
_NUMBER = re.compile(r"0|[1-9][0-9]{0,3}")


def write_davis(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`anno_0` to `anno_3`, in each `<video>/<frame>.png`; instruction_id = 4 * object_index + annotator, value = index + 1.

    Holds one video's masks. A video with other instruction ids is left out, and noted.
    """
    sink = FolderSink(output)
    for video, found in answers:
        listed = list(found)
        numbers = {int(answer.instruction_id): answer for answer in listed if _NUMBER.fullmatch(answer.instruction_id)}
        if len(numbers) < len(listed) or max(numbers, default=0) >= 255 * ANNOTATORS:
            summary.notes.append(
                f"{video.video_id} is left out: its instruction ids are not numbers 4 * object_index + annotator"
            )
            continue
        expected = -(-(max(numbers, default=-1) + 1) // ANNOTATORS) * ANNOTATORS
        if missing := [number for number in range(expected) if number not in numbers]:
            summary.notes.append(
                f"{video.video_id}: no answer for {', '.join(map(str, missing))}; those objects are absent"
            )
        folder = path_of(video.video_id)
        merged = {number: answer.merged(video, summary) for number, answer in numbers.items()}
        for annotator in range(ANNOTATORS):
            objects = {
                number // ANNOTATORS: masks for number, masks in merged.items() if number % ANNOTATORS == annotator
            }
            draw = partial(_picture, video, objects)
            with ThreadPoolExecutor(os.cpu_count()) as pool:
                for name, data in zip(video.names, pool.map(draw, range(len(video.frames))), strict=True):
                    sink.write(f"anno_{annotator}/{folder}/{name}.png", data)


def _picture(video: RunVideo, objects: Mapping[int, Sequence[FrameMask | None]], frame: int) -> bytes:
    return palette_png(painted(video, {index: masks[frame] for index, masks in objects.items()}))

"""Contact sheets of one video: opens the video once, reads the masks of the shown frames and draws every sheet."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from vrshq.cluster.storage.table_reader import TableReader
from vrshq.operators.masks.rle import decode as decode_rle
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.pixel_aspect import displayed_size
from vrshq.operators.video.video import Video, open_video
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.tables.spans import labelled_frames
from vrshq.pipelines.label.work.videos import local_video
from vrshq.pipelines.report.sheets import Answer, Track, draw_sheet, picture_size, sheet_frames


def draw_video(
    masks: TableReader,
    tracks: list[Track],
    units: dict[tuple[str, str], str],
    count: int,
    decoding: DecodeConfig,
    limits: Limits,
) -> Iterator[tuple[Track, Image.Image, int]]:
    """Draws the sheets of one video.

    The video is opened once, and only if a track has an answer. A video or a mask that cannot be read leaves a message
    on the sheet and raises nothing.

    Args:
        masks: reader of the run's `masks/`.
        tracks: rows of `tracks/`, all of the same video.
        units: unit id by (video_id, instruction_id).
        count: frames on a sheet at most.
        decoding: how the run read its videos.
        limits: whom the video's uri may call.

    Yields:
        the track, its sheet, and the height in pixels of the sheet's header that the page repeats as text.
    """
    drawn = [
        track["status"] != "error" and all(track[name] for name in ("num_frames", "height", "width"))
        for track in tracks
    ]
    wanted = [
        sheet_frames(labelled_frames(track), count, track["keyframe_index"]) if has_answer else []
        for track, has_answer in zip(tracks, drawn, strict=True)
    ]
    pictures: dict[int, np.ndarray] = {}
    note = None
    indices = sorted(set().union(*wanted))
    if indices:
        track = tracks[drawn.index(True)]
        size = picture_size(*displayed_size(track["height"], track["width"], track["pixel_aspect"] or 1.0))
        try:
            with (
                tempfile.TemporaryDirectory(prefix="vrshq-report-") as scratch,
                local_video(track["video_uri"], scratch, limits) as path,
                open_video(path, decoding) as video,
            ):
                pictures = _read_frames(video, indices, size)
        except Exception as error:  # noqa: BLE001 - the masks can be shown without the video
            note = f"the video cannot be read now: {error}"
            pictures = {index: np.full((*size, 3), 96, np.uint8) for index in indices}
    rows: dict[
        str, list[dict[str, Any]]
    ] = {}  # rows of the current unit only, because the tracks of a unit follow each other
    for track, frames in zip(tracks, wanted, strict=True):
        try:
            unit = units.get((track["video_id"], track["instruction_id"]))
            if frames and unit and unit not in rows:
                rows = {unit: _read_rows(masks, unit, indices)}
            mine = [row for row in rows.get(unit or "", []) if row["instruction_id"] == track["instruction_id"]]
            answers: dict[int, list[Answer]] = {}
            for row in mine:
                if row["frame_index"] in frames:
                    answers.setdefault(row["frame_index"], []).append(_answer(row))
            sheet, repeated = draw_sheet(track, {index: pictures[index] for index in frames}, answers, note)
        except Exception as error:  # noqa: BLE001 - one unreadable part must not prevent the other sheets
            sheet, repeated = draw_sheet(track, {}, {}, f"this sheet cannot be drawn: {type(error).__name__}: {error}")
        yield track, sheet, repeated


def _read_frames(video: Video, indices: list[int], size: tuple[int, int]) -> dict[int, np.ndarray]:
    """The frames at `indices`, by index, RGB uint8 of `size` (height, width)."""
    return dict(zip(indices, video.resized(indices, size), strict=True))


def _read_rows(masks: TableReader, unit_id: str, frames: list[int]) -> list[dict[str, Any]]:
    """Rows of `masks/` of one unit on the given frames; [] if the unit has none."""
    columns = ["instruction_id", "object_id", "frame_index", "height", "width", "rle", "object_score"]
    table = masks.read([unit_id], columns).sort_by("object_id")
    rows: list[dict[str, Any]] = table.filter(pc.is_in(table["frame_index"], pa.array(frames, pa.int32()))).to_pylist()
    return rows


def _answer(row: dict[str, Any]) -> Answer:
    return Answer(decode_rle(row["rle"], row["height"], row["width"]), row["object_score"])

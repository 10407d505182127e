"""`vrshq report`: one contact sheet (PNG) per instruction and a page of all sheets, from a run directory.

read tracks -> choose the instructions to show -> per video: open it once, decode the frames, draw the sheets ->
report.html.
"""

from __future__ import annotations

import hashlib
import json
from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.schema import TRACKS
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.report.run_page import Sheet, run_page
from vrshq.pipelines.report.sheets import Track, png
from vrshq.pipelines.report.videos import draw_video

TRACK_COLUMNS = (
    *("video_id", "video_uri", "instruction_id", "text", "status", "num_frames", "height", "width"),
    *("start", "end", "every", "pixel_aspect", "keyframe_index", "presence", "notes", "error_type", "error_message"),
)


def write_report(
    run_uri: str,
    output: str | None = None,
    *,
    frames_per_sheet: int = 12,
    limit: int = 200,
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> list[str]:
    """Draws the answers of a run: `report.html`, and `report/NAME.png` for each instruction that it shows.

    A video or a mask that cannot be read leaves a message on its sheet; the report is written nevertheless. Names of
    sheets are hashes of the ids, so the same run gives the same names.

    Cost: reads `manifest/` and `tracks/` whole, and `masks/` of the shown units; decodes each shown video once.

    Args:
        run_uri: the run directory, finished or not.
        output: folder for the files; default: the run directory.
        frames_per_sheet: frames on a sheet, evenly spread, always with the keyframe.
        limit: maximum number of sheets, spread evenly over the run's instructions in the order of their ids.
        limits: of the videos, and whom their uris may call.

    Returns:
        the uris of the written files, the page first.

    Raises:
        StorageError: there is no run at `run_uri`, or the output cannot be written.
        ValueError: `frames_per_sheet` is below 1 or `limit` below 0.
    """
    if frames_per_sheet < 1 or limit < 0:
        raise ValueError(f"frames_per_sheet must be at least 1 and limit at least 0: {frames_per_sheet}, {limit}")
    run = RunDirectory(run_uri)
    folder = Folder(output) if output is not None else run.folder
    manifest = run.read_manifest().select(["unit_id", "video_id", "instruction_ids"])
    tracks = run.read("tracks", TRACKS, TRACK_COLUMNS).sort_by(
        [("video_id", "ascending"), ("instruction_id", "ascending")]
    )
    shown = tracks.take(_spread(tracks.num_rows, limit)).to_pylist()
    units = _units_of(manifest, shown)

    sheets: list[Sheet] = []
    for _, video in groupby(shown, key=lambda track: track["video_id"]):
        for track, sheet, repeated in draw_video(run, list(video), units, frames_per_sheet, limits):
            name = f"report/{sheet_name(track['video_id'], track['instruction_id'])}"
            folder.write_bytes(name, png(sheet))
            sheets.append(Sheet(track, name, sheet.size, repeated))
    folder.write_bytes("report.html", run_page(run, tracks, manifest, sheets).encode())
    return [folder.uri_of("report.html"), *(folder.uri_of(sheet.name) for sheet in sheets)]


def sheet_name(video_id: str, instruction_id: str) -> str:
    """The file name of an instruction's sheet: hexadecimal digits only, for any ids."""
    return hashlib.sha256(json.dumps([video_id, instruction_id]).encode()).hexdigest()[:16] + ".png"


def _spread(count: int, limit: int) -> pa.Array:
    """`limit` of `count` row numbers, evenly spread; all of them if `count` is at most `limit`."""
    chosen = range(count) if count <= limit else (place * count // limit for place in range(limit))
    return pa.array(chosen, pa.int64())


def _units_of(manifest: pa.Table, tracks: list[Track]) -> dict[tuple[str, str], str]:
    """The unit of each shown (video_id, instruction_id)."""
    videos = pa.array({track["video_id"] for track in tracks}, pa.string())
    near = manifest.filter(pc.is_in(manifest["video_id"], videos))
    return {
        (unit["video_id"], instruction_id): unit["unit_id"]
        for unit in near.to_pylist()
        for instruction_id in unit["instruction_ids"]
    }

"""`vrshq report`: one contact sheet (PNG) per instruction and a page of all sheets, from a run directory.

read tracks -> choose the instructions to show -> per video: open it once, decode the frames, draw the sheets ->
report.html.
"""

from __future__ import annotations

from itertools import groupby

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.moved import VideoPlaces
from vrshq.pipelines.label.schema import TRACKS
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.report.names import remove_other_sheets, sheet_name
from vrshq.pipelines.report.run_page import Sheet, run_page
from vrshq.pipelines.report.sheets import TRACK_COLUMNS, Track, png
from vrshq.pipelines.report.videos import draw_video


def write_report(
    run_uri: str,
    output: str | None = None,
    *,
    frames_per_sheet: int = 12,
    limit: int = 200,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    videos: str | None = None,
) -> list[str]:
    """Draws the answers of a run: `report.html`, and `report/NAME.png` for each instruction that it shows.

    Sheets of an earlier report in the same folder that this one does not show are removed.

    A video or a mask that cannot be read leaves a message on its sheet. The same run gives the same names.

    Cost: reads `manifest/` and `tracks/` whole, and `masks/` of the shown units; decodes each shown video once.

    Args:
        run_uri: the run directory, finished or not.
        output: folder for the files; default: the run directory.
        frames_per_sheet: frames on a sheet, evenly spread, always with the keyframe.
        limit: maximum number of sheets, spread evenly over the run's instructions in the order of their ids.
        limits: of the videos, and whom their uris may call.
        videos: folder where the videos lie now (`VideoPlaces`); default: where the run found them.

    Returns:
        the uris of the written files, the page first.

    Raises:
        StorageError: there is no run at `run_uri`, or the output cannot be written. MovedVideosError: none is in `videos`.
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
    places = VideoPlaces(videos, (track["video_uri"] for track in shown))
    shown = [track | {"video_uri": places.now(track["video_uri"])} for track in shown]
    units = _units_of(manifest, shown)

    sheets: list[Sheet] = []
    for _, video in groupby(shown, key=lambda track: track["video_id"]):
        for track, sheet, repeated in draw_video(run, list(video), units, frames_per_sheet, limits):
            name = sheet_name(track["video_id"], track["instruction_id"])
            folder.write_bytes(name, png(sheet))
            sheets.append(Sheet(track, name, sheet.size, repeated))
    folder.write_bytes("report.html", run_page(run, tracks, manifest, sheets).encode())
    remove_other_sheets(folder, {sheet.name for sheet in sheets})
    return [folder.uri_of("report.html"), *(folder.uri_of(sheet.name) for sheet in sheets)]


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

"""`vrshq report`: one contact sheet (PNG) per instruction and a page of all sheets, from a run directory.

read tracks -> choose the instructions to show -> per video: open it once, decode the frames, draw the sheets -> overlay
videos, if asked for -> report.html.
"""

from __future__ import annotations

from itertools import groupby

import pyarrow as pa

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.decoding import decode_config
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.tables.doubt import Sort
from vrshq.pipelines.label.tables.moved import VideoPlaces
from vrshq.pipelines.label.tables.schema import MASKS, TRACKS
from vrshq.pipelines.report.choice import by_video, chosen, units_of
from vrshq.pipelines.report.films import write_films
from vrshq.pipelines.report.names import remove_other_files, sheet_name
from vrshq.pipelines.report.run_page import Sheet, in_order, run_page
from vrshq.pipelines.report.sheets import TRACK_COLUMNS, png
from vrshq.pipelines.report.videos import draw_video


def write_report(
    run_uri: str,
    output: str | None = None,
    *,
    frames_per_sheet: int = 12,
    limit: int = 200,
    limits: Limits = Limits(),  # noqa: B008 - frozen
    videos: str | None = None,
    sort: Sort = "id",
    films: bool = False,
) -> list[str]:
    """Draws the answers of a run: `report.html`, and `report/NAME.png` for each instruction that it shows.

    Files of an earlier report in the same folder that this one does not show are removed.

    A video or a mask that cannot be read leaves a message on its sheet. The same run gives the same names.

    Cost: reads `manifest/` and `tracks/` whole, and `masks/` of the shown units; decodes each shown video once.

    Args:
        run_uri: the run directory, finished or not.
        output: folder for the files; default: the run directory.
        frames_per_sheet: frames on a sheet, evenly spread, always with the keyframe.
        limit: maximum number of sheets: spread evenly over the run's instructions, or the first ones of `sort`.
        limits: of the videos, and whom their uris may call.
        videos: folder where the videos lie now (`VideoPlaces`); default: where the run found them.
        sort: the order of the sheets: by id, or "least-trusted" as `vrshq.pipelines.label.tables.doubt` ranks answers.
        films: also write an overlay video, `report/NAME.mp4`, beside each sheet; costs a decode of the video for each.

    Returns:
        the uris of the written files: the page, the sheets, the videos.

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
    shown = tracks.take(pa.array(chosen(tracks, limit, sort), pa.int64())).to_pylist()
    places = VideoPlaces(videos, (track["video_uri"] for track in shown))
    shown = [track | {"video_uri": places.now(track["video_uri"])} for track in shown]
    units = units_of(manifest, shown)

    masks, decoding = run.reader("masks", MASKS), decode_config(run, limits)
    sheets: list[Sheet] = []
    for _, video in groupby(by_video(shown), key=lambda track: track["video_id"]):
        for track, sheet, repeated in draw_video(masks, list(video), units, frames_per_sheet, decoding, limits):
            name = sheet_name(track["video_id"], track["instruction_id"])
            folder.write_bytes(name, png(sheet))
            sheets.append(Sheet(track, name, sheet.size, repeated))
    overlays = write_films(run, shown, places, folder, limits) if films else {}
    listed = in_order(sheets, shown, overlays)
    folder.write_bytes("report.html", run_page(run, tracks, manifest, listed, sort).encode())
    written = [*(sheet.name for sheet in listed), *overlays.values()]
    remove_other_files(folder, set(written))
    return [folder.uri_of(name) for name in ("report.html", *written)]

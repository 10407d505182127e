"""`vrshq ask`: one video, some texts -> a run like any other -> an overlay and a sheet for each text."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vrshq.cluster.storage.folder import Folder
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.cluster.storage.uris import is_remote, local_path
from vrshq.pipelines.export.names import part_of, path_of
from vrshq.pipelines.export.run import export
from vrshq.pipelines.label.run import label
from vrshq.pipelines.label.settings import Settings
from vrshq.pipelines.label.tables.opened import open_run
from vrshq.pipelines.label.watcher import Watcher
from vrshq.pipelines.report.names import sheet_name
from vrshq.pipelines.report.run import write_report

OVERLAYS = "overlays"


@dataclass(frozen=True)
class Reply:
    """What came of one text.

    Attributes:
        track: its row of `tracks/`.
        share: share of the labelled frames with a mask, 0 to 1.
        overlay: uri of the overlay video; None where there is none.
        sheet: uri of the contact sheet.
    """

    track: dict[str, Any]
    share: float
    overlay: str | None
    sheet: str


def ask(
    video: str,
    texts: Sequence[str],
    output: str,
    settings: Settings | None = None,
    *,
    start: int | None = None,
    end: int | None = None,
    watcher: Watcher | None = None,
) -> list[Reply]:
    """Answers texts about one video in this process.

    Args:
        video: file or folder of frames, local or in a bucket.
        texts: the instructions; one that the run has already is not asked again.
        output: the run directory; texts of earlier calls stay in it.
        settings: of the run; default `Settings()`.
        start: first frame that is labelled; default 0.
        end: the frame after the last one; default: the end of the video.
        watcher: as for `label`.

    Returns:
        a reply for each text, in their order.

    Raises:
        UserError: as `label`.
    """
    where = video if is_remote(video) else str(local_path(video).absolute())
    span = {"start": start, "end": end}
    rows = {_id(text, start, end): {"video_uri": where, "text": text, **span} for text in texts}
    before = _rows_before(output)
    table = [row | {"video_id": _name(where), "instruction_id": key} for key, row in (before | rows).items()]
    label(table, output, settings, use_ray=False, watcher=watcher, grow=bool(before))
    write_report(output)
    _write_overlays(output)
    run = open_run(output)
    tracks = {track["instruction_id"]: track for track in run.tracks().to_pylist()}
    folder = Folder(output)
    replies = []
    for text in texts:
        key = _id(text, start, end)
        track = tracks[key]
        masks = run.masks(track["video_id"], key)
        shown = sum(bool(mask.any()) for _, mask in masks)
        overlay = f"{OVERLAYS}/{path_of(track['video_id'])}/{part_of(key)}.mp4"
        replies.append(
            Reply(
                track,
                shown / max(1, len(masks)),
                folder.uri_of(overlay) if folder.exists(overlay) else None,
                folder.uri_of(sheet_name(track["video_id"], key)),
            )
        )
    return replies


def _id(text: str, start: int | None, end: int | None) -> str:
    """The id of an instruction: the same text of the same span is the same instruction."""
    return hashlib.sha256(repr((text, start, end)).encode()).hexdigest()[:8]


def _name(uri: str) -> str:
    return uri.rstrip("/").rpartition("/")[2]


def _rows_before(output: str) -> dict[str, dict[str, Any]]:
    """The rows that the run directory has already, by instruction id; none of a new one."""
    run = RunDirectory(output)
    if not run.has_manifest():
        return {}
    return {
        key: {"video_uri": unit["video_uri"], "text": text, "start": unit["start"], "end": unit["end"]}
        for unit in run.read_manifest().to_pylist()
        for key, text in zip(unit["instruction_ids"], unit["texts"], strict=True)
    }


def _write_overlays(output: str) -> None:
    """The overlays of the run, in its directory; those of an earlier call are replaced."""
    target = Folder(output)
    with tempfile.TemporaryDirectory(prefix="vrshq-ask-") as scratch:
        made = Path(scratch) / OVERLAYS
        export(output, "overlay-mp4", str(made))
        for file in sorted(one for one in made.rglob("*.mp4") if one.is_file()):
            target.write_file(f"{OVERLAYS}/{file.relative_to(made).as_posix()}", file)

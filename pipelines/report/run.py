"""`vrshq report`: one contact sheet (PNG) per instruction and one page over them, from a run directory alone.

read tracks -> choose which to show -> per video: open it once, decode the few frames -> draw the sheets -> report.html.
"""

from __future__ import annotations

import hashlib
import html
import json
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from itertools import groupby
from string import Template
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from vrshq.cluster.storage.folder import Folder, StorageNotFoundError, fetch_to_local
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.decode import open_video
from vrshq.operators.masks.rle import decode as decode_rle
from vrshq.pipelines.label.schema import MASKS, TRACKS
from vrshq.pipelines.report.sheets import STATUS_COLORS, Answer, Track, draw_sheet, picture_size, png, sheet_frames

TRACK_COLUMNS = (
    *("video_id", "video_uri", "instruction_id", "text", "status", "num_frames", "height", "width"),
    *("keyframe_index", "presence", "notes", "error_type", "error_message"),
)


class Sheet(NamedTuple):
    """A sheet that was written: whose it is, its file's name, its width and height, and `draw_sheet`'s second value."""

    track: Track
    name: str
    size: tuple[int, int]
    repeated: int


def write_report(run_uri: str, output: str | None = None, *, frames_per_sheet: int = 12, limit: int = 200) -> list[str]:
    """Draws the answers of a run: `report.html`, and `report/NAME.png` for each instruction that it shows.

    Args:
        run_uri: the run directory, finished or not.
        output: folder for the files; default: the run directory.
        frames_per_sheet: frames on a sheet, evenly spread, the keyframe always among them.
        limit: sheets at most, spread evenly over the run's instructions in the order of their ids.

    Returns:
        the uris of what was written, the page first.

    A video that cannot be read any more, or a mask that cannot be drawn, costs its picture and never the report: the
    sheet says what happened. Names of sheets are hashes of the ids; the same run gives the same names.

    Cost: reads `manifest/` and `tracks/` whole, `masks/` only of what it shows; decodes each shown video once.

    Raises:
        StorageError: there is no run at `run_uri`, or the output cannot be written.
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
        for track, sheet, repeated in _draw_video(run, list(video), units, frames_per_sheet):
            name = f"report/{sheet_name(track['video_id'], track['instruction_id'])}"
            folder.write_bytes(name, png(sheet))
            sheets.append(Sheet(track, name, sheet.size, repeated))
    page = _page(run, tracks, manifest, sheets)
    folder.write_bytes("report.html", page.encode())
    return [folder.uri_of("report.html"), *(folder.uri_of(sheet.name) for sheet in sheets)]


def sheet_name(video_id: str, instruction_id: str) -> str:
    """The file name of an instruction's sheet: hexadecimal digits only, whatever the ids are made of."""
    return hashlib.sha256(json.dumps([video_id, instruction_id]).encode()).hexdigest()[:16] + ".png"


def _spread(count: int, limit: int) -> pa.Array:
    """`limit` of `count` row numbers, evenly spread; all of them where there are no more."""
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


def _draw_video(
    run: RunDirectory, tracks: list[Track], units: dict[tuple[str, str], str], count: int
) -> Iterator[tuple[Track, Image.Image, int]]:
    """The sheets of one video's tracks; the video is opened once, and only if one of them has an answer."""
    drawn = [
        track["status"] != "error" and all(track[name] for name in ("num_frames", "height", "width"))
        for track in tracks
    ]
    wanted = [
        sheet_frames(track["num_frames"], count, track["keyframe_index"]) if has_answer else []
        for track, has_answer in zip(tracks, drawn, strict=True)
    ]
    pictures: dict[int, np.ndarray] = {}
    note = None
    indices = sorted(set().union(*wanted))
    if indices:
        track = tracks[drawn.index(True)]
        size = picture_size(track["height"], track["width"])
        try:
            pictures = _read_frames(track["video_uri"], indices, size)
        except Exception as error:  # noqa: BLE001 - whatever became of the video since, its masks can be shown
            note = f"the video cannot be read now: {error}"
            pictures = {index: np.full((*size, 3), 96, np.uint8) for index in indices}
    rows: dict[str, list[dict[str, Any]]] = {}  # of the unit at hand: a video's units come one after the other
    for track, frames in zip(tracks, wanted, strict=True):
        try:
            unit = units.get((track["video_id"], track["instruction_id"]))
            if frames and unit and unit not in rows:
                rows = {unit: _read_rows(run, unit, indices)}
            mine = [row for row in rows.get(unit or "", []) if row["instruction_id"] == track["instruction_id"]]
            answers = {row["frame_index"]: _answer(row) for row in mine if row["frame_index"] in frames}
            sheet, repeated = draw_sheet(track, {index: pictures[index] for index in frames}, answers, note)
        except Exception as error:  # noqa: BLE001 - one broken part must not cost the other sheets
            sheet, repeated = draw_sheet(track, {}, {}, f"this sheet cannot be drawn: {type(error).__name__}: {error}")
        yield track, sheet, repeated


def _read_frames(uri: str, indices: list[int], size: tuple[int, int]) -> dict[int, np.ndarray]:
    with (
        tempfile.TemporaryDirectory(prefix="vrshq-report-") as scratch,
        fetch_to_local(uri, scratch) as path,
        open_video(path) as video,
    ):
        return dict(zip(indices, video.resized(indices, size), strict=True))


def _read_rows(run: RunDirectory, unit_id: str, frames: list[int]) -> list[dict[str, Any]]:
    """A unit's rows of `masks/` on the given frames, from its part or from a merged file; [] where it wrote none."""
    columns = ["instruction_id", "frame_index", "height", "width", "rle", "object_score"]
    table = run.read("masks", MASKS, columns, [unit_id])
    rows: list[dict[str, Any]] = table.filter(pc.is_in(table["frame_index"], pa.array(frames, pa.int32()))).to_pylist()
    return rows


def _answer(row: dict[str, Any]) -> Answer:
    return Answer(decode_rle(row["rle"], row["height"], row["width"]), row["object_score"])


def _page(run: RunDirectory, tracks: pa.Table, manifest: pa.Table, sheets: list[Sheet]) -> str:
    """`report.html`: what came out in numbers, what failed and why, then the sheets by video. No scripts."""
    asked = pc.sum(pc.list_value_length(manifest["instruction_ids"])).as_py() or 0
    statuses = Counter(tracks["status"].to_pylist())
    pending = asked - tracks.num_rows
    counts = [(name, statuses[name]) for name in sorted(statuses, key="ok empty error".find)]
    counts += [("not finished", pending)] if pending > 0 else []
    videos = tracks.group_by("video_id").aggregate([("num_frames", "max")])
    facts = [
        ("instructions", asked),
        *counts,
        ("videos", videos.num_rows),
        ("frames", pc.sum(videos["num_frames_max"]).as_py() or 0),
    ]
    total = max(1, sum(count for _, count in counts))
    return _PAGE.substitute(
        title=_escaped(run.uri),
        model=_escaped(_model(run)),
        facts="".join(f"<div><dt>{_escaped(name)}</dt><dd>{count:,}</dd></div>" for name, count in facts),
        bar="".join(
            f'<i class="{_status_class(name)}" style="width:{100 * count / total:.3f}%" title="{_escaped(name)}"></i>'
            for name, count in counts
        ),
        errors=_error_table(tracks),
        shown=_shown_line(len(sheets), tracks.num_rows),
        sheets="".join(
            _video_section(list(group)) for _, group in groupby(sheets, key=lambda sheet: sheet.track["video_id"])
        ),
    )


def _model(run: RunDirectory) -> str:
    try:
        content = run.read_json("run.json")
        return f"model {content['identity']['model']['name']}, vrshq {content['details']['version']}"
    except (StorageNotFoundError, ValueError, KeyError, TypeError):
        return "no run.json"


def _error_table(tracks: pa.Table) -> str:
    failed = tracks.filter(pc.equal(tracks["status"], "error"))
    if not failed.num_rows:
        return ""
    kinds = failed.group_by("error_type").aggregate([("error_message", "count"), ("error_message", "min")])
    rows = "".join(
        f"<tr><td>{_escaped(kind['error_type'] or 'unknown')}</td><td>{kind['error_message_count']:,}</td>"
        f"<td>{_escaped(kind['error_message_min'] or '')}</td></tr>"
        for kind in kinds.sort_by([("error_message_count", "descending"), ("error_type", "ascending")]).to_pylist()
    )
    return f"<h2>Errors</h2><table><tr><th>type</th><th>instructions</th><th>for example</th></tr>{rows}</table>"


def _shown_line(shown: int, total: int) -> str:
    if shown == total:
        return f"{total:,} sheets, one for each instruction."
    return f"{shown:,} sheets, spread evenly over {total:,} instructions; {total - shown:,} were left out (--limit)."


def _video_section(sheets: list[Sheet]) -> str:
    track = sheets[0].track
    size = (
        f"{track['num_frames']} frames, {track['width']} x {track['height']}" if track["num_frames"] else "not decoded"
    )
    figures = "".join(_figure(sheet) for sheet in sheets)
    return f"<section><h2><bdi>{_escaped(track['video_id'])}</bdi> <small>{size}</small></h2>{figures}</section>"


def _figure(sheet: Sheet) -> str:
    track, name, (width, height), repeated = sheet
    facts = [f"instruction <bdi>{_escaped(track['instruction_id'])}</bdi>"]
    if track["presence"] is not None:
        facts.append(f"presence {track['presence']:.2f}")
    if track["keyframe_index"] is not None:
        facts.append(f"keyframe {track['keyframe_index']}")
    if track["notes"]:
        facts.append(_escaped(track["notes"]))
    status = _status_class(track["status"])
    caption = (
        f'<p dir="auto">{_escaped(track["text"]) or "<em>no text</em>"}</p>'
        f'<p class="facts"><b class="{status}">{_escaped(track["status"])}</b> {" &middot; ".join(facts)}</p>'
    )
    if track["status"] == "error":
        why = _escaped(f"{track['error_type']}: {track['error_message']}")
        return f'<figure><figcaption>{caption}<p>{why} <a href="{name}">(sheet)</a></p></figcaption></figure>'
    # The sheet's own header is pushed out of sight: the caption says the same, and can be searched and copied.
    hidden = 100 * repeated / width
    return (
        f'<figure><figcaption>{caption}</figcaption><a class="sheet" href="{name}" style="max-width:{width}px">'
        f'<img src="{name}" width="{width}" height="{height}" loading="lazy" style="margin-top:-{hidden:.2f}%" '
        f'alt="contact sheet"></a></figure>'
    )


def _status_class(status: str) -> str:
    return status if status in STATUS_COLORS else "other"


def _escaped(text: str) -> str:
    """The text as HTML that shows it: at most 600 characters, control characters replaced."""
    shown = text if len(text) <= 600 else text[:599] + "…"
    return html.escape(
        "".join("\ufffd" if unicodedata.category(char) == "Cc" and char not in "\t\n\r" else char for char in shown)
    )


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="script-src 'none'; object-src 'none'; base-uri 'none'">
<title>vrshq report: $title</title>
<style>
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1b1e24; --dim: #646b78; --line: #dfe2e8;
  --ok: #2f9e60; --empty: #7c8698; --error: #d2483f; --wait: #d9a21b; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14161a; --card: #1d2026; --ink: #eceef2; --dim: #9aa2b0; --line: #31353e;
    --ok: #45b477; --empty: #8892a4; --error: #e5685f; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1440px; padding: 32px 24px 80px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 44px 0 14px; overflow-wrap: anywhere; }
small, .facts, .dim { color: var(--dim); font-size: 14px; font-weight: 400; }
p { margin: 4px 0; }
dl { display: flex; flex-wrap: wrap; gap: 12px; margin: 24px 0 12px; }
dl div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 10px 18px;
  min-width: 116px; }
dt { color: var(--dim); font-size: 13px; }
dd { margin: 0; font-size: 24px; font-weight: 600; font-variant-numeric: tabular-nums; }
.bar { display: flex; height: 10px; border-radius: 5px; overflow: hidden; background: var(--line); }
.ok { background: var(--ok); } .empty { background: var(--empty); } .error { background: var(--error); }
.other { background: var(--wait); }
table { border-collapse: collapse; width: 100%; background: var(--card); border: 1px solid var(--line); }
th, td { text-align: left; vertical-align: top; padding: 8px 14px; border-bottom: 1px solid var(--line);
  overflow-wrap: anywhere; }
th, td:first-child { white-space: nowrap; }
th { color: var(--dim); font-weight: 500; }
td:nth-child(2) { font-variant-numeric: tabular-nums; }
figure { margin: 0 0 22px; background: var(--card); border: 1px solid var(--line); border-radius: 12px;
  overflow: hidden; }
figcaption { padding: 14px 18px; }
figcaption p:first-child { font-size: 17px; font-weight: 600; overflow-wrap: anywhere; }
figcaption b { color: #fff; border-radius: 10px; padding: 2px 10px; margin-right: 6px; font-size: 13px;
  font-weight: 600; }
img { display: block; max-width: 100%; height: auto; background: #181a1f; border-radius: 0 0 11px 11px; }
.sheet { display: block; overflow: hidden; margin: 0 auto; }
a { color: inherit; }
</style>
</head>
<body>
<h1>$title</h1>
<p class="dim">$model</p>
<dl>$facts</dl>
<div class="bar">$bar</div>
$errors
<p class="dim" style="margin-top:28px">$shown</p>
$sheets
</body>
</html>
""")

"""`vrshq report`: one contact sheet (PNG) per instruction and one page over them, from a run directory alone.

read tracks -> choose which to show -> per video: open it once, decode the few frames -> draw the sheets -> report.html.
"""

from __future__ import annotations

import hashlib
import html
import io
import json
import tempfile
import unicodedata
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby
from string import Template
from typing import Any, NamedTuple

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from PIL import Image, ImageDraw, ImageFont

from cluster.run_directory import RunDirectory, part_name
from cluster.storage import Folder, StorageNotFoundError, fetch_to_local
from operators.decode import open_video
from operators.rle import decode as decode_rle
from pipelines.schema import MASKS, TRACKS

TRACK_COLUMNS = (
    *("video_id", "video_uri", "instruction_id", "text", "status", "num_frames", "height", "width"),
    *("keyframe_index", "presence", "notes", "error_type", "error_message"),
)

Track = dict[str, Any]  # a row of `tracks/`
Color = tuple[int, int, int]

# Sizes of a sheet, in pixels.
GAP = 18
LABEL = 26
LANDSCAPE, PORTRAIT, TALLEST = 320, 240, 480
LINE, HEADING = 15, 22

BACKGROUND, CARD, TEXT, DIM = (24, 26, 31), (36, 39, 46), (238, 240, 244), (164, 170, 182)
MASK_COLOR, KEYFRAME_COLOR = (255, 45, 170), (255, 196, 46)
STATUS_COLORS: dict[str, Color] = {"ok": (64, 176, 110), "empty": (130, 140, 158), "error": (226, 88, 80)}
MASK_OPACITY = 0.42

# Wide coverage first; the first that is found and has most of a text's characters draws it.
FONTS = (
    *("NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf", "LiberationSans-Regular.ttf", "Helvetica.ttc"),
    *("NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf", "wqy-microhei.ttc", "Arial Unicode.ttf", "msyh.ttc"),
)


class Sheet(NamedTuple):
    """A sheet that was written: whose it is, its file's name, its width and height, and `draw_sheet`'s second value."""

    track: Track
    name: str
    size: tuple[int, int]
    repeated: int


@dataclass(frozen=True)
class Answer:
    """What a sheet shows of one frame: its mask (H, W) uint8 0/1 and SAM2's object score."""

    mask: np.ndarray
    score: float


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
            folder.write_bytes(name, _png(sheet))
            sheets.append(Sheet(track, name, sheet.size, repeated))
    page = _page(run, tracks, manifest, sheets)
    folder.write_bytes("report.html", page.encode())
    return [folder.uri_of("report.html"), *(folder.uri_of(sheet.name) for sheet in sheets)]


def sheet_name(video_id: str, instruction_id: str) -> str:
    """The file name of an instruction's sheet: hexadecimal digits only, whatever the ids are made of."""
    return hashlib.sha256(json.dumps([video_id, instruction_id]).encode()).hexdigest()[:16] + ".png"


def sheet_frames(num_frames: int, count: int, keyframe: int | None) -> list[int]:
    """At most `count` frame indices, ascending and evenly spread, the keyframe in its nearest neighbour's place."""
    frames = np.unique(np.linspace(0, num_frames - 1, min(count, num_frames)).round().astype(int)).tolist()
    if keyframe is not None and 0 <= keyframe < num_frames and keyframe not in frames:
        nearest = min(range(len(frames)), key=lambda place: abs(frames[place] - keyframe))
        frames[nearest] = keyframe
    return sorted(frames)


def draw_sheet(
    track: Track, frames: dict[int, np.ndarray], answers: dict[int, Answer], note: str | None = None
) -> tuple[Image.Image, int]:
    """The contact sheet of one instruction.

    Args:
        track: its row of `tracks/`.
        frames: by frame index, RGB uint8 (h, w, 3), all of one size: what is drawn, in ascending order.
        answers: by frame index; frames without one are drawn bare.
        note: a warning below the header.

    Returns:
        the sheet, and how many of its rows from the top only repeat what the page says beside it.
    """
    indices = sorted(frames)
    height, width = frames[indices[0]].shape[:2] if indices else (0, LANDSCAPE)
    cell = max(width, PORTRAIT)
    most = 4 if cell > PORTRAIT else 6
    rows = -(-len(indices) // most)
    columns = -(-len(indices) // max(1, rows))
    header, repeated = _header(track, max(columns, 2) * (cell + GAP) - GAP, note)
    top = header.height + 2 * GAP
    sheet = Image.new("RGB", (header.width + 2 * GAP, top + rows * (height + LABEL + GAP)), BACKGROUND)
    sheet.paste(header, (GAP, GAP))
    draw = ImageDraw.Draw(sheet)
    for place, index in enumerate(indices):
        x = GAP + place % columns * (cell + GAP)
        y = top + place // columns * (height + LABEL + GAP)
        keyframe = index == track["keyframe_index"]
        if keyframe:
            draw.rectangle((x - 5, y - 5, x + cell + 4, y + height + LABEL + 2), fill=KEYFRAME_COLOR)
        answer = answers.get(index)
        picture = frames[index] if answer is None else _overlaid(frames[index], answer.mask)
        sheet.paste(Image.fromarray(picture), (x + (cell - width) // 2, y))
        ink, faint = ((30, 24, 0), (74, 58, 0)) if keyframe else (TEXT, DIM)
        middle = y + height + LABEL // 2
        draw.text((x + 2, middle), f"frame {index}" + "  keyframe" * keyframe, ink, _font("", LINE), "lm")
        score = "no mask" if answer is None else f"score {answer.score:+.1f}"
        draw.text((x + cell - 2, middle), score, faint, _font("", LINE), "rm")
    return sheet, GAP + repeated


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
        size = _picture_size(track["height"], track["width"])
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
    """A unit's rows of `masks/` on the given frames; [] where it wrote none."""
    try:
        part = pa.BufferReader(run.folder.read_bytes(part_name("masks", unit_id)))
    except StorageNotFoundError:
        return []
    columns = ["instruction_id", "frame_index", "height", "width", "rle", "object_score"]
    rows: list[dict[str, Any]] = pq.read_table(
        part, schema=MASKS, columns=columns, filters=[("frame_index", "in", frames)]
    ).to_pylist()
    return rows


def _answer(row: dict[str, Any]) -> Answer:
    return Answer(decode_rle(row["rle"], row["height"], row["width"]), row["object_score"])


def _picture_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a frame is drawn."""
    scale = min((LANDSCAPE if width >= height else PORTRAIT) / width, TALLEST / height)
    return max(8, round(height * scale)), max(8, round(width * scale))


def _overlaid(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with the mask in translucent colour and its outline: bright within dark, readable on any ground."""
    height, width = picture.shape[:2]
    shrinks = mask.shape[1] >= width
    filter_ = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=filter_)
    inside = cover >= 0.5
    if not inside.any():
        inside = cover > 0  # smaller than a pixel of the sheet: better too large than unseen
    blend = MASK_OPACITY * np.maximum(cover, inside)[..., None]
    mixed = (picture * (1 - blend) + np.array(MASK_COLOR) * blend).round().astype(np.uint8)
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(mixed, outlines, -1, (0, 0, 0), 3)
    cv2.drawContours(mixed, outlines, -1, (255, 255, 255), 1)
    return mixed


def _header(track: Track, width: int, note: str | None) -> tuple[Image.Image, int]:
    """Text, facts, and then what went wrong, `width` wide; and the height of the first two."""
    title = _wrapped(track["text"] or "(no text)", HEADING, width, 3)
    facts = [f"instruction {track['instruction_id']}"]
    if track["presence"] is not None:
        facts.append(f"presence {track['presence']:.2f}")
    if track["keyframe_index"] is not None:
        facts.append(f"keyframe {track['keyframe_index']} of {track['num_frames']} frames")
    status = track["status"]
    pill = round(_font(status, LINE).getlength(status)) + 20
    detail = _wrapped(" · ".join(facts), LINE, width - pill - 12, 1)
    video = _wrapped(f"video {track['video_id']}", LINE, width, 1)
    trouble = []
    if status == "error":
        message = f"{track['error_type'] or 'Error'}: {track['error_message'] or 'no message'}"
        trouble += _wrapped(message, LINE, width - 28, 10)
    if note:
        trouble += _wrapped(note, LINE, width - 28, 4)

    y = 30 * len(title) + 6
    box = 22 * len(trouble) + 20
    picture = Image.new("RGB", (width, y + 50 + (box + 8 if trouble else 0)), BACKGROUND)
    draw = ImageDraw.Draw(picture)

    def write(x: int, middle: int, line: str, color: Color, size: int = LINE) -> None:
        draw.text((x, middle), line, color, _font(line, size), "lm")

    for place, line in enumerate(title):
        write(0, 15 + 30 * place, line, TEXT, HEADING)
    draw.rounded_rectangle((0, y, pill, y + 22), 11, fill=STATUS_COLORS.get(status, DIM))
    write(10, y + 11, status, (255, 255, 255))
    write(pill + 12, y + 11, "".join(detail), DIM)
    write(0, y + 38, "".join(video), DIM)
    if trouble:
        top = y + 58
        draw.rounded_rectangle((0, top, width - 1, top + box - 1), 8, fill=CARD)
        draw.rectangle((0, top + 8, 3, top + box - 9), fill=STATUS_COLORS["error"])
        for place, line in enumerate(trouble):
            write(16, top + 21 + 22 * place, line, TEXT)
    return picture, y + 50


def _wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """The text in lines that fit, at most `most` of them; what is left out ends in an ellipsis."""
    longest = 4 * width // size  # characters in a line of narrow ones: measuring more only takes time
    text = _drawable(text[: most * longest + 1], size)
    font = _font(text, size)
    lines: list[str] = []
    while text:
        fits = len(text)
        if fits > longest or font.getlength(text) > width:
            low, high = 1, min(longest, len(text))
            while low < high:  # the longest beginning that fits
                middle = (low + high + 1) // 2
                low, high = (middle, high) if font.getlength(text[:middle]) <= width else (low, middle - 1)
            space = text.rfind(" ", 1, low + 1)
            fits = space if space > low // 2 else low
        if len(lines) == most - 1 and fits < len(text):
            line = text[:fits]
            while line and font.getlength(line + "…") > width:
                line = line[:-1]
            return [*lines, line.rstrip() + "…"]
        lines.append(text[:fits].rstrip())
        text = text[fits:].lstrip()
    return lines


def _drawable(text: str, size: int) -> str:
    """The text on one line, without invisible characters, and with "?" for those that no font here has."""
    visible = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text)
    visible = " ".join("".join(char for char in visible if unicodedata.category(char)[0] != "C").split())
    font = _font(visible, size)
    return "".join(char if _has(font, char) else "?" for char in visible)


def _font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Of the fonts found, the one that has most of the text's characters."""
    fonts = _fonts(size)
    if text.isascii():
        return fonts[0]
    return max(fonts, key=lambda font: sum(_has(font, char) for char in set(text)))


@lru_cache
def _fonts(size: int) -> list[ImageFont.FreeTypeFont | ImageFont.ImageFont]:
    found: list[ImageFont.FreeTypeFont | ImageFont.ImageFont] = []
    for name in FONTS:
        try:
            found.append(ImageFont.truetype(name, size))  # looks in the system's font folders
        except OSError:
            continue
    return [*found, ImageFont.load_default(size)]


@lru_cache(maxsize=20_000)
def _has(font: ImageFont.FreeTypeFont | ImageFont.ImageFont, char: str) -> bool:
    """Whether the font draws the character as something else than its sign for a missing one."""
    return char.isspace() or bytes(font.getmask(char)) != bytes(font.getmask("\uffff"))


def _png(sheet: Image.Image) -> bytes:
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()


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

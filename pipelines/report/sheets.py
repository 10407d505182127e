"""Draws contact sheets: a few frames of one instruction with its masks."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from vrshq.pipelines.drawing.masks import KEYFRAME_COLOR, Color, color_of, overlaid
from vrshq.pipelines.drawing.text import font_for, wrapped
from vrshq.pipelines.label.tables.doubt import SIGNAL
from vrshq.pipelines.label.tables.spans import span_in_words

Track = dict[str, Any]  # a row of `tracks/`, with these columns
TRACK_COLUMNS = (
    *("video_id", "video_uri", "instruction_id", "text", "answer", "num_objects", "status", "num_frames"),
    *("height", "width", "start", "end", "every", "pixel_aspect", "keyframe_index", "presence", "notes"),
    *("error_type", "error_message", SIGNAL),
)

# Sizes of a sheet, in pixels.
GAP = 18
LABEL = 26
LANDSCAPE, PORTRAIT, TALLEST = 320, 240, 480
LINE, HEADING = 15, 22
BACKGROUND, CARD, TEXT, DIM = (24, 26, 31), (36, 39, 46), (238, 240, 244), (164, 170, 182)
STATUS_COLORS: dict[str, Color] = {"ok": (64, 176, 110), "empty": (130, 140, 158), "error": (226, 88, 80)}


@dataclass(frozen=True)
class Answer:
    """One object on one frame: `mask` (H, W) uint8 0/1, and `score`, its object logit."""

    mask: np.ndarray
    score: float


def sheet_frames(labelled: Sequence[int], count: int, keyframe: int | None) -> list[int]:
    """At most `count` of the labelled frames, ascending and evenly spread; the keyframe replaces its nearest neighbour."""
    total = len(labelled)
    places = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int)).tolist()
    frames = [labelled[place] for place in places]
    if keyframe is not None and keyframe in labelled and keyframe not in frames:
        nearest = min(range(len(frames)), key=lambda place: abs(frames[place] - keyframe))
        frames[nearest] = keyframe
    return sorted(frames)


def draw_sheet(
    track: Track, frames: dict[int, np.ndarray], answers: Mapping[int, Sequence[Answer]], note: str | None = None
) -> tuple[Image.Image, int]:
    """The contact sheet of one instruction.

    Args:
        track: its row of `tracks/`.
        frames: by frame index, RGB uint8 (h, w, 3), all of one size; they are drawn in ascending order.
        answers: the objects by frame index, each drawn in its colour; a frame without any is drawn without a mask.
        note: a warning below the header.

    Returns:
        the sheet, and the height in pixels of its header that the page repeats as text.
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
        objects = answers.get(index, ())
        picture = frames[index]
        for number, one in enumerate(objects):
            picture = overlaid(picture, one.mask, color_of(number)) if one.mask.any() else picture
        sheet.paste(Image.fromarray(picture), (x + (cell - width) // 2, y))
        ink, faint = ((30, 24, 0), (74, 58, 0)) if keyframe else (TEXT, DIM)
        middle = y + height + LABEL // 2
        draw.text((x + 2, middle), f"frame {index}" + "  keyframe" * keyframe, ink, font_for("", LINE), "lm")
        score = f"score {max(one.score for one in objects):+.1f}" if objects else "no mask"
        draw.text((x + cell - 2, middle), score, faint, font_for("", LINE), "rm")
    return sheet, GAP + repeated


def picture_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a frame is drawn."""
    scale = min((LANDSCAPE if width >= height else PORTRAIT) / width, TALLEST / height)
    return max(8, round(height * scale)), max(8, round(width * scale))


def _header(track: Track, width: int, note: str | None) -> tuple[Image.Image, int]:
    """Text, facts and problems, `width` pixels wide; and the height of text and facts."""
    title = wrapped(track["text"] or "(no text)", HEADING, width, 3)
    said = wrapped(f"answer: {track['answer']}", LINE, width, 3) if track.get("answer") else []
    facts = [f"instruction {track['instruction_id']}"]
    if track.get("num_objects") not in (None, 1):
        facts.append(f"{track['num_objects']} objects")
    if track["presence"] is not None:
        facts.append(f"presence {track['presence']:.2f}")
    if track["keyframe_index"] is not None:
        facts.append(f"keyframe {track['keyframe_index']} of {track['num_frames']} frames")
    if span := span_in_words(track):
        facts.append(span)
    status = track["status"]
    pill = round(font_for(status, LINE).getlength(status)) + 20
    detail = wrapped(" · ".join(facts), LINE, width - pill - 12, 1)
    video = wrapped(f"video {track['video_id']}", LINE, width, 1)
    trouble = []
    if status == "error":
        message = f"{track['error_type'] or 'Error'}: {track['error_message'] or 'no message'}"
        trouble += wrapped(message, LINE, width - 28, 10)
    if note:
        trouble += wrapped(note, LINE, width - 28, 4)

    y = 30 * len(title) + 22 * len(said) + 6
    box = 22 * len(trouble) + 20
    picture = Image.new("RGB", (width, y + 50 + (box + 8 if trouble else 0)), BACKGROUND)
    draw = ImageDraw.Draw(picture)

    def write(x: int, middle: int, line: str, color: Color, size: int = LINE) -> None:
        draw.text((x, middle), line, color, font_for(line, size), "lm")

    for place, line in enumerate(title):
        write(0, 15 + 30 * place, line, TEXT, HEADING)
    for place, line in enumerate(said):
        write(0, 30 * len(title) + 11 + 22 * place, line, DIM)
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


def png(sheet: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()

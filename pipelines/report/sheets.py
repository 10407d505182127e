"""Draws contact sheets: a few frames of one instruction with its masks."""

from __future__ import annotations

import io
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import cv2
import numpy as np
from PIL import Image, ImageDraw, ImageFont

from vrshq.pipelines.label.spans import span_in_words

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

# Fonts with wide coverage first. The first font that has most of a text's characters draws the text.
FONTS = (
    *("NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf", "LiberationSans-Regular.ttf", "Helvetica.ttc"),
    *("NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf", "wqy-microhei.ttc", "Arial Unicode.ttf", "msyh.ttc"),
)


@dataclass(frozen=True)
class Answer:
    """One frame's answer: `mask` (H, W) uint8 0/1, and `score`, SAM2's object logit."""

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
    track: Track, frames: dict[int, np.ndarray], answers: dict[int, Answer], note: str | None = None
) -> tuple[Image.Image, int]:
    """The contact sheet of one instruction.

    Args:
        track: its row of `tracks/`.
        frames: by frame index, RGB uint8 (h, w, 3), all of one size; they are drawn in ascending order.
        answers: by frame index; a frame without an answer is drawn without a mask.
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
        answer = answers.get(index)
        picture = frames[index] if answer is None else _overlaid(frames[index], answer.mask)
        sheet.paste(Image.fromarray(picture), (x + (cell - width) // 2, y))
        ink, faint = ((30, 24, 0), (74, 58, 0)) if keyframe else (TEXT, DIM)
        middle = y + height + LABEL // 2
        draw.text((x + 2, middle), f"frame {index}" + "  keyframe" * keyframe, ink, _font("", LINE), "lm")
        score = "no mask" if answer is None else f"score {answer.score:+.1f}"
        draw.text((x + cell - 2, middle), score, faint, _font("", LINE), "rm")
    return sheet, GAP + repeated


def picture_size(height: int, width: int) -> tuple[int, int]:
    """Height and width at which a frame is drawn."""
    scale = min((LANDSCAPE if width >= height else PORTRAIT) / width, TALLEST / height)
    return max(8, round(height * scale)), max(8, round(width * scale))


def _overlaid(picture: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The picture with the mask in translucent colour, outlined in white inside black to be visible on any background."""
    height, width = picture.shape[:2]
    shrinks = mask.shape[1] >= width
    filter_ = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    cover = cv2.resize(mask.astype(np.float32), (width, height), interpolation=filter_)
    inside = cover >= 0.5
    if not inside.any():
        inside = cover > 0  # a mask smaller than a pixel of the sheet is enlarged to be visible
    blend = MASK_OPACITY * np.maximum(cover, inside)[..., None]
    mixed: np.ndarray = (picture * (1 - blend) + np.array(MASK_COLOR) * blend).round().astype(np.uint8)
    outlines, _ = cv2.findContours(inside.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(mixed, outlines, -1, (0, 0, 0), 3)
    cv2.drawContours(mixed, outlines, -1, (255, 255, 255), 1)
    return mixed


def _header(track: Track, width: int, note: str | None) -> tuple[Image.Image, int]:
    """Text, facts and problems, `width` pixels wide; and the height of text and facts."""
    title = _wrapped(track["text"] or "(no text)", HEADING, width, 3)
    facts = [f"instruction {track['instruction_id']}"]
    if track["presence"] is not None:
        facts.append(f"presence {track['presence']:.2f}")
    if track["keyframe_index"] is not None:
        facts.append(f"keyframe {track['keyframe_index']} of {track['num_frames']} frames")
    if span := span_in_words(track):
        facts.append(span)
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
    """The text in at most `most` lines of `width` pixels. A shortened text ends with an ellipsis."""
    longest = 4 * width // size  # upper bound of the characters in a line; longer texts are not measured
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
    """The text on one line, without invisible characters, and with "?" for characters that no font has."""
    visible = "".join(" " if unicodedata.category(char) in ("Cc", "Zl", "Zp") else char for char in text)
    visible = " ".join("".join(char for char in visible if unicodedata.category(char)[0] != "C").split())
    font = _font(visible, size)
    return "".join(char if _has(font, char) else "?" for char in visible)


def _font(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """The installed font that has most of the text's characters."""
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
    """Whether the font has the character: it draws it differently from a missing one."""
    return char.isspace() or bytes(font.getmask(char)) != bytes(font.getmask("\uffff"))


def png(sheet: Image.Image) -> bytes:
    """The picture as the bytes of a PNG file."""
    sink = io.BytesIO()
    sheet.save(sink, "PNG")
    return sink.getvalue()

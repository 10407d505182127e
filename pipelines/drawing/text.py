"""Texts in pictures: fonts that have their characters, and lines of a width."""

from __future__ import annotations

import unicodedata
from functools import lru_cache

from PIL import ImageFont

# Fonts with wide coverage first. The first font that has most of a text's characters draws the text.
FONTS = (
    *("NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf", "LiberationSans-Regular.ttf", "Helvetica.ttc"),
    *("NotoSansCJK-Regular.ttc", "DroidSansFallbackFull.ttf", "wqy-microhei.ttc", "Arial Unicode.ttf", "msyh.ttc"),
)


def wrapped(text: str, size: int, width: int, most: int) -> list[str]:
    """The text in at most `most` lines of `width` pixels. A shortened text ends with an ellipsis."""
    longest = 4 * width // size  # upper bound of the characters in a line; longer texts are not measured
    text = _drawable(text[: most * longest + 1], size)
    font = font_for(text, size)
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
    font = font_for(visible, size)
    return "".join(char if _has(font, char) else "?" for char in visible)


def font_for(text: str, size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
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

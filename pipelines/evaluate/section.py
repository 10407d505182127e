"""A section of scores or comparisons, which the Markdown file, the HTML page and the terminal show."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

LONGEST_TEXT = 300


@dataclass(frozen=True)
class Section:
    """A part of a page.

    Attributes:
        title: the heading.
        lines: sentences below it.
        head: names of the table's columns.
        rows: the table's cells; each row has as many as `head`.
        marked: positions of the highlighted rows.
        figure: SVG with escaped texts.
    """

    title: str
    lines: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    marked: frozenset[int] = frozenset()
    figure: Markup | None = None


def is_number_column(part: Section, place: int) -> bool:
    """Whether a column, other than the first, holds only numbers and empty cells."""
    return place > 0 and all(
        row[place].replace(".", "").replace(",", "").isdecimal() or not row[place] for row in part.rows
    )


def one_line(text: str) -> str:
    """The text on one line, cut to `LONGEST_TEXT` characters. Control and format characters become U+FFFD."""
    flat = " ".join(text.split())
    cut = flat if len(flat) <= LONGEST_TEXT else flat[: LONGEST_TEXT - 1] + "…"
    return "".join("\ufffd" if unicodedata.category(char) in ("Cc", "Cf", "Cs") else char for char in cut)

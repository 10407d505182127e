"""Sections as an HTML page."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from vrshq.pipelines.evaluate.section import Section, is_number_column, one_line
from vrshq.pipelines.report.page import render


def page(title: str, parts: Iterable[Section]) -> str:
    """The sections as one HTML page without scripts. Texts from data sets and users are escaped."""
    return render("scores.html", title=one_line(title), sections=[_values(part) for part in parts])


def _values(part: Section) -> dict[str, Any]:
    """A section's values for the template."""
    return {
        "title": one_line(part.title),
        "lines": [one_line(line) for line in part.lines],
        "figure": part.figure or "",
        "head": [one_line(cell) for cell in part.head],
        "column_classes": ["number" if is_number_column(part, place) else "text" for place in range(len(part.head))],
        "rows": [
            {"row_class": "marked" if row in part.marked else "plain", "cells": [one_line(cell) for cell in cells]}
            for row, cells in enumerate(part.rows)
        ],
    }

"""Sections as Markdown."""

from __future__ import annotations

from collections.abc import Iterable

from vrshq.pipelines.evaluate.section import Section, is_number_column, one_line


def markdown(title: str, parts: Iterable[Section]) -> str:
    """The sections as a Markdown document. Texts from data sets and users are escaped."""
    blocks = [f"# {_markdown(title)}"]
    for part in parts:
        blocks.append(f"## {_markdown(part.title)}")
        blocks += [_markdown(line) for line in part.lines]
        if part.rows:
            rule = ["---:" if is_number_column(part, place) else "---" for place in range(len(part.head))]
            rows = [
                [_marked(_markdown(cell), row in part.marked) for cell in cells] for row, cells in enumerate(part.rows)
            ]
            table = [[_markdown(cell) for cell in part.head], rule, *rows]
            blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in table))
    return "\n\n".join(blocks) + "\n"


def _marked(cell: str, marked: bool) -> str:
    return f"**{cell}**" if marked and cell else cell


def _markdown(text: str) -> str:
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#~$&" else char for char in one_line(text))

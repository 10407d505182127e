"""The screens of `vrshq evaluate`, `vrshq ablate` and `vrshq compare`: headline numbers, tables, written files."""

from __future__ import annotations

from typing import Any

from rich.table import Table
from rich.text import Text

from vrshq.pipelines.cli.run_display import print_summary
from vrshq.pipelines.cli.terminal import console, say
from vrshq.pipelines.evaluate.ablation import sections as ablation_sections
from vrshq.pipelines.evaluate.compare import sections as comparison_sections
from vrshq.pipelines.evaluate.evaluation import Evaluation
from vrshq.pipelines.evaluate.score_sections import headline
from vrshq.pipelines.evaluate.section import Section


def print_evaluation(done: Evaluation, output: str) -> None:
    """The labelling's summary, then the headline scores, or the reason why there are none."""
    if done.labelled is not None:
        print_summary(done.labelled, output)
    if done.scores is None:
        say(f"no scores: {done.note}")
        return
    _print_section(headline(done.scores))
    for kind, found in done.scores["problems"].items():
        say(f"{found['count']} x {kind}: {found['cost']}")
    _print_lines(done.written)


def print_ablation(result: dict[str, Any], written: list[str]) -> None:
    """One table of all runs."""
    _print_section(ablation_sections(result)[0])
    _print_lines(written)


def print_sections(parts: list[Section], written: list[str]) -> None:
    """Tables, and the files that hold them."""
    for section in parts:
        _print_section(section)
    _print_lines(written)


def print_comparison(result: dict[str, Any]) -> None:
    """The differences of two evaluations."""
    for section in comparison_sections(result):
        _print_section(section)


def _print_lines(lines: list[str]) -> None:
    for line in lines:
        say(line)


def _print_section(section: Section) -> None:
    console.print(section.title, style="bold", highlight=False)
    for line in section.lines:
        console.print(Text(line))
    for columns in columns_that_fit(section, console.width):
        table = Table()
        for place in columns:
            table.add_column(section.head[place], overflow="fold")
        for row in section.rows:
            table.add_row(*(Text(row[place]) for place in columns))
        console.print(table)


def columns_that_fit(section: Section, width: int) -> list[list[int]]:
    """The columns of a section's table, as the tables that have room on a terminal, each with the first column.

    Args:
        section: the section; without rows there is no table.
        width: of the terminal, in characters.
    """
    if not section.rows:
        return []
    # a heading wraps between words; cells stay on one line where there is room
    wide = [
        3 + max(len(text) for text in (*name.split(), *(row[place] for row in section.rows)))
        for place, name in enumerate(section.head)
    ]
    first = min(wide[0], width // 2)
    tables: list[list[int]] = []
    room = 0
    for place in range(1, len(section.head)):
        if not tables or wide[place] > room:
            tables.append([0])
            room = width - 1 - first
        tables[-1].append(place)
        room -= wide[place]
    return tables or [[0]]

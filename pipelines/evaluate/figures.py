"""Figures of scores as SVG. A table of the page holds every number of a figure, too."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup, escape

from vrshq.pipelines.evaluate.section import one_line

PLOT = 200  # height of a figure's plot, in units of its view box


@dataclass(frozen=True)
class Bar:
    """A bar of a figure: `value` and its interval `between`, both in percent. `note` is a second line below the label."""

    label: str
    note: str
    value: float | None
    between: Sequence[float | None] = (None, None)


def bar_figure(title: str, bars: Sequence[Bar]) -> Markup:
    """A bar chart from 0 to 100 % with values and intervals, as SVG. A bar without a value is an empty place."""
    wide = 120
    parts = _axis(wide * len(bars))
    for place, bar in enumerate(bars):
        middle = wide * place + wide / 2
        if bar.value is not None:
            top = PLOT * (1 - bar.value / 100)
            parts.append(
                f'<rect class="plotted" x="{middle - 30:g}" y="{top:.1f}" width="60" height="{PLOT - top:.1f}" rx="2"/>'
            )
            low, high = bar.between
            if low is not None and high is not None:
                ends = [PLOT * (1 - end / 100) for end in (low, high)]
                parts.append(f'<path class="interval" d="M{middle:g} {ends[0]:.1f}V{ends[1]:.1f}"/>')
                top = min(top, ends[1])
            parts.append(_label(middle, top - 6, f"{bar.value:.1f}", "value"))
        parts.append(_label(middle, PLOT + 18, bar.label if len(bar.label) <= 16 else bar.label[:15] + "…"))
        parts.append(_label(middle, PLOT + 34, bar.note, "note"))
    return _figure(title, wide * len(bars), 44, parts)


def reliability_figure(bins: Sequence[dict[str, Any]], of: str = "expressions") -> Markup:
    """A reliability diagram as SVG: share with a target over mean presence, one point per bin.

    Calibrated presence lies on the dashed line. The area of a point grows with the bin's count, which is printed below it.

    Args:
        bins: as `vrshq.pipelines.evaluate.presence.reliability` gives them, as mappings.
        of: what is counted.
    """
    wide = 2 * PLOT
    parts = _axis(wide)
    parts.append(f'<path class="ideal" d="M0 {PLOT}L{wide} 0"/>')
    most = max(one["count"] for one in bins)
    for one in bins:
        middle = wide * (one["low"] + one["high"]) / 2
        parts.append(_label(middle, PLOT + 34, f"{one['count']:,}", "note"))
        parts.append(_label(wide * one["low"], PLOT + 18, f"{one['low']:.1f}"))
        if one["count"]:
            x, y = wide * one["presence"], PLOT * (1 - one["share"])
            parts.append(
                f'<circle class="plotted" cx="{x:.1f}" cy="{y:.1f}" r="{3 + 9 * math.sqrt(one["count"] / most):.1f}"/>'
            )
    parts.append(_label(wide, PLOT + 18, "1.0"))
    parts.append(_label(wide / 2, PLOT + 52, f"presence, and {of} with it", "note"))
    return _figure("Share with a target, %, by presence", wide, 60, parts)


def _axis(width: float) -> list[str]:
    """Rules and numbers at 0, 25, ... 100 % of a plot of this width and height `PLOT`. Its upper left corner is at (0, 0)."""
    parts = []
    for percent in range(0, 101, 25):
        y = PLOT * (1 - percent / 100)
        parts.append(f'<path class="rule" d="M0 {y:g}H{width:g}"/>')
        parts.append(f'<text class="left" x="-8" y="{y + 4:g}">{percent}</text>')
    return parts


def _label(x: float, y: float, text: str, kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{_escaped_line(text)}</text>'


def _figure(title: str, width: float, below: float, parts: Iterable[str]) -> Markup:
    """A plot with a margin for its numbers; `below` is the height of the labels under it."""
    left, above = 40, 24
    box = f"{-left} {-above} {width + left + 16:g} {PLOT + above + below:g}"
    svg = f'<svg viewBox="{box}" width="{width + left + 16:g}" role="img" aria-label="{_escaped_line(title)}">'
    return Markup(f"<figure><figcaption>{_escaped_line(title)}</figcaption>{svg}{''.join(parts)}</svg></figure>")


def _escaped_line(text: str) -> str:
    return str(escape(one_line(text)))

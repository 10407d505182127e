"""`scores.md` and `scores.html`: an evaluation's numbers beside the published ones, and everything that is behind them.

Figures are SVG inside the page, and say nothing that a table does not say too.
"""

from __future__ import annotations

import csv
import html
import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

from vrshq.cluster.storage.folder import Folder

# Problems are all in scores.json; a page shows this many of a kind.
SHOWN_PROBLEMS = 20
OURS = "this evaluation"
PLOT = 200  # height of a figure's plot, and width of a square one; in the units of its view box
HEADINGS = {"asks": "kind of question"}


@dataclass(frozen=True)
class Section:
    """A heading, sentences, a figure (SVG; its texts are escaped already) and a table; `marked` are the rows that stand out."""

    title: str
    lines: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    marked: frozenset[int] = frozenset()
    figure: str = ""


@dataclass(frozen=True)
class Bar:
    """A bar of a figure: `value` and `between`, its interval, in percent; `note` is a second line below its label."""

    label: str
    note: str
    value: float | None
    between: Sequence[float | None] = (None, None)


def write_scores_report(output: str, scores: dict[str, Any]) -> list[str]:
    """Writes `scores.md` and `scores.html` of a `scores.json`'s content into `output`; returns their uris."""
    folder = Folder(output)
    title = f"{scores['protocol']['name']}: {scores['predictions']}"
    parts = sections(scores)
    folder.write_bytes("scores.md", markdown(title, parts).encode())
    folder.write_bytes("scores.html", page(title, parts).encode())
    return [folder.uri_of("scores.md"), folder.uri_of("scores.html")]


def published_rows(dataset: str) -> list[dict[str, str]]:
    """The published numbers of a data set: benchmark, system, group, J, F, JF, R ("" where not found), source, note."""
    text = files("vrshq.pipelines.evaluate").joinpath("published.csv").read_text(encoding="utf-8")
    name = "ref-davis17" if dataset == "ref-davis17-official" else dataset
    return [row for row in csv.DictReader(text.splitlines()) if row["benchmark"] == name]


def sections(scores: dict[str, Any]) -> list[Section]:
    """The page's parts, in order; none for what the data set does not have."""
    parts = [
        headline(scores),
        _beside_published(scores),
        _problems(scores),
        *(_breakdown(name, parts) for name, parts in scores["breakdowns"].items()),
        _tracking(scores),
        _no_target(scores),
        *(_no_target_breakdown(name, parts) for name, parts in scores["no_target_breakdowns"].items()),
        _calibration(scores),
        _over_frames(scores),
    ]
    return [part for part in parts if part is not None]


def markdown(title: str, parts: Iterable[Section]) -> str:
    """The parts as Markdown, in which no text of the data is markup."""
    blocks = [f"# {_markdown(title)}"]
    for part in parts:
        blocks.append(f"## {_markdown(part.title)}")
        blocks += [_markdown(line) for line in part.lines]
        if part.rows:
            rule = ["---:" if _is_number_column(part, place) else "---" for place in range(len(part.head))]
            rows = [
                [_marked(_markdown(cell), row in part.marked) for cell in cells] for row, cells in enumerate(part.rows)
            ]
            table = [[_markdown(cell) for cell in part.head], rule, *rows]
            blocks.append("\n".join(f"| {' | '.join(cells)} |" for cells in table))
    return "\n\n".join(blocks) + "\n"


def page(title: str, parts: Iterable[Section]) -> str:
    """The parts as one HTML page without scripts; every text of the data is escaped."""
    return _PAGE.substitute(title=_escaped(title), body="".join(_section(part) for part in parts))


def _beside_published(scores: dict[str, Any]) -> Section:
    protocol = scores["protocol"]
    groups = [name for name in ("referring", "reasoning") if name in scores["published"]] + ["overall"]
    systems: dict[str, dict[str, dict[str, str]]] = {}
    another = any(
        name in found for found in (scores["breakdowns"], scores["no_target_breakdowns"]) for name in HEADINGS
    )
    for row in published_rows(scores["dataset"]) if not another else ():
        systems.setdefault(row["system"], {})[row["group"]] = row
    ranked = sorted(systems.items(), key=lambda item: float(item[1].get("overall", {}).get("JF") or -1), reverse=True)
    ours = [OURS]
    for group in groups:
        ours += [_number(scores["published"].get(group, {}).get(name)) for name in ("J", "F", "JF")]
    ours += [_number(scores["published"].get("overall", {}).get("R")), protocol["source"], ""]
    rows = [ours]
    for system, by_group in ranked:
        numbers = [by_group.get(group, {}).get(name, "") for group in groups for name in ("J", "F", "JF")]
        overall = by_group.get("overall") or next(iter(by_group.values()))
        rows.append([system, *numbers, overall["R"], overall["source"], overall["note"]])
    head = ["system", *(f"{group} {name}" for group in groups for name in ("J", "F", "J&F")), "R", "source", "note"]
    lines = [
        f"Protocol: {protocol['source']}. {_capital(protocol['remark'])}" + ("." if protocol["remark"] else ""),
        (
            f"{scores['in_published_mean']:,} of {scores['expressions']:,} expressions on {scores['videos']:,} videos are in "
            "these means. Published numbers are as their sources print them; J&F is the mean of J and F, R is the public "
            "script's R."
        ),
    ]
    if scores["dataset"] == "ref-davis17-official":
        lines.append("The published numbers mix this protocol and VISA's, which is easier; see their notes.")
    if another:
        lines.append(
            "The expressions tell what they ask by, as synthetic sets do and published ones do not: published numbers are of "
            "other videos and are left out."
        )
    return Section("Beside the published numbers", lines, head, rows, frozenset({0}))


def headline(scores: dict[str, Any]) -> Section:
    """The numbers by group, as published and fixed, and the intervals of the published ones."""
    rows = []
    for group in scores["fixed"]:
        published, fixed = scores["published"].get(group, {}), scores["fixed"][group]
        interval = _between(scores["published_intervals"].get(group, {}).get("JF", (None, None)))
        for spelling, values, between in (("as published", published, interval), ("fixed", fixed, "")):
            numbers = [_number(values.get(name)) for name in ("J", "F", "JF")]
            rows.append([group, spelling, *numbers, between, *(_number(values.get(name)) for name in ("A", "R"))])
    lines = [
        (
            "The public A and R compare 0/255 predictions with 0/1 ground truth in 8-bit arithmetic. The fixed ones take "
            "0/1 masks; fixed means also count every expression once, a missing answer as 0, and round nothing."
        )
    ]
    if scores["overwritten_expressions"]:
        count = scores["overwritten_expressions"]
        lines.append(
            f"{count:,} expressions are not in the published mean: a later text on the same object overwrites."
        )
    level = f"{scores['intervals']['level']:.0%} over videos"
    return Section("As published, and fixed", lines, ["group", "", "J", "F", "J&F", level, "A", "R"], rows)


def _problems(scores: dict[str, Any]) -> Section:
    rows = []
    for kind, found in scores["problems"].items():
        for place, one in enumerate(found["expressions"][:SHOWN_PROBLEMS]):
            first = [kind, f"{found['count']:,}", found["cost"]] if place == 0 else ["", "", ""]
            missing = f"{one['missing_frames']} frames missing" if one.get("missing_frames") else ""
            detail = "; ".join(filter(None, [missing, one.get("detail") or ""]))
            rows.append([*first, f"{one['video_id']} / {one['expression_id']}", detail])
    if not rows:
        return Section("Missing and wrong answers", ["Every expression has a usable answer."])
    head = ["problem", "expressions", "cost", "video / expression", "detail"]
    lines = [f"At most {SHOWN_PROBLEMS} of a kind are shown; scores.json lists all."]
    return Section("Missing and wrong answers", lines, head, rows)


def _no_target(scores: dict[str, Any]) -> Section | None:
    counts, values = scores["no_target_counts"], scores["no_target"]
    names = {
        "n_acc": "N-acc: no-target expressions with all masks empty, %",
        "false_positive_rate": "false positives: no-target expressions with a mask on some frame, %",
        "t_acc": "T-acc: other expressions with a mask, %",
        "auroc": "AUROC of presence, %",
        "auprc": "AUPRC of presence, %",
        "false_positive_area": "pixels predicted where nothing is meant, %",
        "empty_expressions": "expressions with a target and no mask at all, %",
        "empty_frames": "empty frames of expressions with a target, %",
    }
    rows = [[text, _number(_percent(values[name]))] for name, text in names.items() if values[name] is not None]
    line = f"{counts['no_target']:,} answered expressions without and {counts['target']:,} with a target."
    return Section("Whether something is there", [line], ["measure", "value"], rows) if rows else None


def _over_frames(scores: dict[str, Any]) -> Section:
    names = {
        "gIoU": "gIoU: mean over frames",
        "cIoU": "cIoU: summed intersection over summed union",
        "tIoU": "tIoU: frames, as sets, over time",
        "vIoU": "vIoU: mean over the frames of either",
    }
    rows = [[text, _number(scores["over_frames"][name])] for name, text in names.items()]
    return Section("Over frames and time", ["Expressions with a target, %."], ["measure", "value"], rows)


def _breakdown(name: str, parts: dict[str, dict[str, float]]) -> Section:
    rows = [
        [value, f"{means['expressions']:,}", *(_number(means[measure]) for measure in ("J", "F", "JF"))]
        for value, means in parts.items()
    ]
    line = "Mean over expressions with a target, not rounded, a missing answer as 0."
    figure = ""
    if name in ("kind", "asks"):
        bars = [Bar(value, _counted(means["expressions"]), means["JF"]) for value, means in parts.items()]
        figure = bar_figure("J&F, %", bars)
    heading = HEADINGS.get(name, name)
    return Section(f"By {heading}", [line], [heading, "expressions", "J", "F", "J&F"], rows, figure=figure)


def _no_target_breakdown(name: str, parts: dict[str, dict[str, float]]) -> Section:
    rows = [
        [
            value,
            f"{means['expressions']:,}",
            _number(_percent(means["false_positive_rate"])),
            *(_number(means[measure]) for measure in ("J", "F", "JF")),
            f"{means['presence']:.3f}",
            _number(_percent(means["auroc"])),
        ]
        for value, means in parts.items()
    ]
    heading = HEADINGS.get(name, name)
    line = (
        "Answered expressions without a target, by what they ask for in vain. J and F are 100 on a frame where nothing is "
        "drawn, else 0; AUROC is of presence against expressions with a target that ask the same."
    )
    head = [heading, "expressions", "false positives, %", "J", "F", "J&F", "mean presence", "AUROC, %"]
    return Section(f"Nothing is there, by {heading}", [line], head, rows)


def _tracking(scores: dict[str, Any]) -> Section | None:
    """J by the distance from the keyframe, where the predictions tell of keyframes."""
    found = scores["tracking"]
    if found is None:
        return None
    ranges = found["distances"] | found["far"]
    rows = [
        [
            distance,
            f"{one['expressions']:,}",
            f"{one['frames']:,}",
            _number(one["J"]),
            _between(one["J_interval"]),
            _number(one["relative"]),
            _between(one["relative_interval"]),
            f"{one['hidden_frames']:,}",
            _number(_percent(one["hidden_empty"])),
        ]
        for distance, one in ranges.items()
    ]
    level = f"{scores['intervals']['level']:.0%} over videos"
    lines = [
        (
            f"{found['expressions']:,} answered expressions with a target; on {found['keyframes_with_object']:.1%} of the "
            "keyframes it is there. J is over the frames that truly show it: the mean over expressions of their own means. "
            "The other frames are hidden; there, an empty mask is right."
        ),
        (
            "Relative to the keyframe: the sum of these means over the sum of J on the keyframes, both of the same "
            "expressions, those that have both."
        ),
    ]
    head = ["frames from keyframe", "expressions", "frames", "J", level, "relative, %", level, "hidden frames"]
    head.append("empty there, %")
    bars = [
        Bar(distance, f"{one['frames']:,} frames", one["J"], one["J_interval"])
        for distance, one in found["distances"].items()
    ]
    marked = frozenset(place for place, distance in enumerate(ranges) if distance in found["far"])
    figure = bar_figure("J by frames from the keyframe, %", bars)
    return Section("Far from the keyframe", lines, head, rows, marked, figure)


def _calibration(scores: dict[str, Any]) -> Section | None:
    found = scores["calibration"]
    if found is None:
        return None
    threshold = found["threshold"]
    lines = [
        (
            f"Presence as the chance that something is meant, over {found['expressions']:,} answered expressions. Expected "
            f"calibration error {found['expected_calibration_error']:.4f}; Brier score {found['brier_score']:.4f}, where "
            f"always saying the share of targets has {found['brier_score_of_base_rate']:.4f}."
        ),
        (
            f"If expressions had a mask only with a presence above {threshold['presence']:.6f}, "
            f"{threshold['no_target']:.1%} of the no-target ones would have one (at most {threshold['allowed']:.0%} are "
            f"allowed), and {threshold['target']:.1%} of the others would keep theirs."
        ),
    ]
    rows = [
        [
            f"{one['low']:.1f} to {one['high']:.1f}",
            f"{one['count']:,}",
            *("" if value is None else f"{value:.3f}" for value in (one["presence"], one["share"])),
        ]
        for one in found["bins"]
    ]
    head = ["presence", "expressions", "mean presence", "share with a target"]
    return Section("Calibration of presence", lines, head, rows, figure=reliability_figure(found["bins"]))


def bar_figure(title: str, bars: Sequence[Bar]) -> str:
    """Bars over 0 to 100 %, with their intervals and values, as SVG."""
    wide = 120
    parts = _axis(wide * len(bars))
    for place, bar in enumerate(bars):
        middle = wide * place + wide / 2
        if bar.value is not None:
            top = PLOT * (1 - bar.value / 100)
            parts.append(
                f'<rect class="bar" x="{middle - 30:g}" y="{top:.1f}" width="60" height="{PLOT - top:.1f}" rx="2"/>'
            )
            low, high = bar.between
            if low is not None and high is not None:
                ends = [PLOT * (1 - end / 100) for end in (low, high)]
                parts.append(f'<path class="error" d="M{middle:g} {ends[0]:.1f}V{ends[1]:.1f}"/>')
                top = min(top, ends[1])
            parts.append(_label(middle, top - 6, f"{bar.value:.1f}", "value"))
        parts.append(_label(middle, PLOT + 18, bar.label if len(bar.label) <= 16 else bar.label[:15] + "…"))
        parts.append(_label(middle, PLOT + 34, bar.note, "note"))
    return _figure(title, wide * len(bars), 44, parts)


def reliability_figure(bins: Sequence[dict[str, Any]]) -> str:
    """The share with a target over the mean presence of each bin, and below how many expressions it has, as SVG.

    On the dashed line, presence is a chance. The area of a point goes by the bin's count.
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
                f'<circle class="bar" cx="{x:.1f}" cy="{y:.1f}" r="{3 + 9 * math.sqrt(one["count"] / most):.1f}"/>'
            )
    parts.append(_label(wide, PLOT + 18, "1.0"))
    parts.append(_label(wide / 2, PLOT + 52, "presence, and expressions with it", "note"))
    return _figure("Share with a target, %, by presence", wide, 60, parts)


def _axis(width: float) -> list[str]:
    """Lines and numbers of 0, 25, ... 100 % for a plot of this width and height `PLOT`, its upper left corner at 0, 0."""
    parts = []
    for percent in range(0, 101, 25):
        y = PLOT * (1 - percent / 100)
        parts.append(f'<path class="rule" d="M0 {y:g}H{width:g}"/>')
        parts.append(f'<text class="left" x="-8" y="{y + 4:g}">{percent}</text>')
    return parts


def _label(x: float, y: float, text: str, kind: str = "label") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{_escaped(text)}</text>'


def _figure(title: str, width: float, below: float, parts: Iterable[str]) -> str:
    """A plot with a margin for its numbers; `below`: for what stands under it."""
    left, above = 40, 24
    box = f"{-left} {-above} {width + left + 16:g} {PLOT + above + below:g}"
    svg = f'<svg viewBox="{box}" width="{width + left + 16:g}" role="img" aria-label="{_escaped(title)}">'
    return f"<figure><figcaption>{_escaped(title)}</figcaption>{svg}{''.join(parts)}</svg></figure>"


def _section(part: Section) -> str:
    lines = "".join(f"<p>{_escaped(line)}</p>" for line in part.lines)
    if not part.rows:
        return f"<section><h2>{_escaped(part.title)}</h2>{lines}{part.figure}</section>"
    numbers = [_is_number_column(part, place) for place in range(len(part.head))]
    head = "".join(
        f'<th class="{"number" if number else "text"}">{_escaped(cell)}</th>'
        for cell, number in zip(part.head, numbers, strict=True)
    )
    body = "".join(
        f'<tr class="{"marked" if row in part.marked else "plain"}">'
        + "".join(
            f'<td class="{"number" if number else "text"}">{_escaped(cell)}</td>'
            for cell, number in zip(cells, numbers, strict=True)
        )
        + "</tr>"
        for row, cells in enumerate(part.rows)
    )
    table = f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>'
    return f"<section><h2>{_escaped(part.title)}</h2>{lines}{part.figure}{table}</section>"


def _is_number_column(part: Section, place: int) -> bool:
    return place > 0 and all(
        row[place].replace(".", "").replace(",", "").isdecimal() or not row[place] for row in part.rows
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _between(ends: Sequence[float | None]) -> str:
    low, high = ends
    return "" if low is None or high is None else f"{low:.2f} to {high:.2f}"


def _counted(expressions: float) -> str:
    return f"{expressions:,} expressions" if expressions != 1 else "1 expression"


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _marked(cell: str, marked: bool) -> str:
    return f"**{cell}**" if marked and cell else cell


def _shown(text: str) -> str:
    """At most 300 characters on one line, control and direction characters replaced."""
    flat = " ".join(text.split())
    cut = flat if len(flat) <= 300 else flat[:299] + "…"
    return "".join("\ufffd" if unicodedata.category(char) in ("Cc", "Cf", "Cs") else char for char in cut)


def _markdown(text: str) -> str:
    return "".join(f"\\{char}" if char in "\\`*_[]<>|#~$&" else char for char in _shown(text))


def _escaped(text: str) -> str:
    return html.escape(_shown(text))


_PAGE = Template("""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'">
<title>vrshq scores: $title</title>
<style>
:root { color-scheme: light dark; --ground: #f6f7f9; --card: #fff; --ink: #1b1e24; --dim: #646b78; --line: #dfe2e8;
  --mark: #e3f3ea; --bar: #2f7d5b; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14161a; --card: #1d2026; --ink: #eceef2; --dim: #9aa2b0; --line: #31353e; --mark: #1f3a2b;
    --bar: #56b98b; }
}
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 1280px; padding: 32px 24px 80px; background: var(--ground); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif; }
h1 { font-size: 26px; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 19px; margin: 40px 0 8px; }
p { margin: 4px 0 10px; color: var(--dim); max-width: 90ch; overflow-wrap: anywhere; }
.wide { overflow-x: auto; border: 1px solid var(--line); border-radius: 10px; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: 14px; }
th, td { text-align: left; vertical-align: top; padding: 6px 12px; border-bottom: 1px solid var(--line); }
tr:last-child td { border-bottom: 0; }
th { color: var(--dim); font-weight: 500; }
th.number { text-align: right; }
td.text { overflow-wrap: anywhere; min-width: 7em; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; text-align: right; }
.marked td { background: var(--mark); font-weight: 600; }
figure { margin: 8px 0 16px; overflow-x: auto; }
figcaption { color: var(--dim); font-size: 14px; }
svg text { fill: var(--ink); font-size: 13px; text-anchor: middle; font-variant-numeric: tabular-nums; }
svg text.left { fill: var(--dim); text-anchor: end; font-size: 12px; }
svg text.note { fill: var(--dim); font-size: 12px; }
svg .bar { fill: var(--bar); }
svg path { fill: none; stroke: var(--line); }
svg .error { stroke: var(--ink); stroke-width: 1.5; }
svg .ideal { stroke: var(--dim); stroke-dasharray: 5 4; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")

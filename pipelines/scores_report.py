"""`scores.md` and `scores.html`: an evaluation's numbers beside the published ones, and everything that is behind them."""

from __future__ import annotations

import csv
import html
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from string import Template
from typing import Any

from cluster.storage import Folder

# Problems are all in scores.json; a page shows this many of a kind.
SHOWN_PROBLEMS = 20
OURS = "this evaluation"


@dataclass(frozen=True)
class Section:
    """A heading, sentences, and a table; `marked` are the rows that stand out."""

    title: str
    lines: Sequence[str] = ()
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    marked: frozenset[int] = frozenset()


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
    text = files("pipelines").joinpath("published.csv").read_text(encoding="utf-8")
    name = "ref-davis17" if dataset == "ref-davis17-official" else dataset
    return [row for row in csv.DictReader(text.splitlines()) if row["benchmark"] == name]


def sections(scores: dict[str, Any]) -> list[Section]:
    """The page's parts, in order; none for what the data set does not have."""
    parts = [
        headline(scores),
        _beside_published(scores),
        _problems(scores),
        _no_target(scores),
        _over_frames(scores),
        *(_breakdown(name, parts) for name, parts in scores["breakdowns"].items()),
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
    for row in published_rows(scores["dataset"]):
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
    return Section("Beside the published numbers", lines, head, rows, frozenset({0}))


def headline(scores: dict[str, Any]) -> Section:
    """The numbers by group, as published and fixed, and the intervals of the published ones."""
    rows = []
    for group in scores["fixed"]:
        published, fixed = scores["published"].get(group, {}), scores["fixed"][group]
        low, high = scores["published_intervals"].get(group, {}).get("JF", (None, None))
        interval = "" if low is None else f"{low:.2f} to {high:.2f}"
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
    return Section(f"By {name}", [line], [name, "expressions", "J", "F", "J&F"], rows)


def _section(part: Section) -> str:
    lines = "".join(f"<p>{_escaped(line)}</p>" for line in part.lines)
    if not part.rows:
        return f"<section><h2>{_escaped(part.title)}</h2>{lines}</section>"
    numbers = [_is_number_column(part, place) for place in range(len(part.head))]
    head = "".join(f"<th>{_escaped(cell)}</th>" for cell in part.head)
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
    return f"<section><h2>{_escaped(part.title)}</h2>{lines}{table}</section>"


def _is_number_column(part: Section, place: int) -> bool:
    return place > 0 and all(
        row[place].replace(".", "").replace(",", "").isdecimal() or not row[place] for row in part.rows
    )


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


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
  --mark: #e3f3ea; }
@media (prefers-color-scheme: dark) {
  :root { --ground: #14161a; --card: #1d2026; --ink: #eceef2; --dim: #9aa2b0; --line: #31353e; --mark: #1f3a2b; }
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
td.text { overflow-wrap: anywhere; min-width: 7em; }
td.number { font-variant-numeric: tabular-nums; white-space: nowrap; text-align: right; }
.marked td { background: var(--mark); font-weight: 600; }
</style>
</head>
<body>
<h1>$title</h1>
$body
</body>
</html>
""")

"""The files of an ablation: `ablation.json`, `ablation.md` and `ablation.html`."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.evaluate.figures import Bar, bar_figure
from vrshq.pipelines.evaluate.markdown import markdown
from vrshq.pipelines.evaluate.page import page
from vrshq.pipelines.evaluate.score_sections import HEADINGS
from vrshq.pipelines.evaluate.section import Section

BASE = "base"  # name of the run with the base's settings


def write_ablation(output: str, result: dict[str, Any]) -> list[str]:
    """Writes `ablation.json`, `ablation.md` and `ablation.html` into `output`; returns their uris."""
    folder = Folder(output)
    title, parts = f"Ablation on {result['dataset']}", sections(result)
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    for name, content in (
        ("ablation.json", text + "\n"),
        ("ablation.md", markdown(title, parts)),
        ("ablation.html", page(title, parts)),
    ):
        folder.write_bytes(name, content.encode())
    return [folder.uri_of(f"ablation.{kind}") for kind in ("json", "md", "html")]


def sections(result: dict[str, Any]) -> list[Section]:
    """All runs in one table each for scores, kinds of questions and keyframes, with a figure of J&F."""
    runs = result["runs"]
    bars = [Bar(run["name"].rpartition("=")[2], run["name"].rpartition("=")[0], run["scores"]["JF"]) for run in runs]
    rows = [
        [
            run["name"],
            *(_shown(run["scores"][name]) for name in ("J", "F", "JF")),
            *_difference(run),
        ]
        for run in runs
    ]
    own = dict.fromkeys(text for run in runs for text in _changed(result["base"], run["settings"]))
    lines = [
        (
            "Scores are means over groups. Every expression counts once, a missing answer as 0; nothing is rounded. A "
            "difference is this run minus the base, paired by expression, in percent points of J&F. Intervals come from "
            "a bootstrap over videos."
        ),
        f"Settings of the base: {', '.join(own)}.",
    ]
    head = ["run", "J", "F", "J&F", "difference", f"{result['level']:.0%} over videos"]
    kinds = list(dict.fromkeys(kind for run in runs for kind in run["JF_by_kind"]))
    heading = runs[0]["by"]
    names = {
        "keyframe_J": "J on keyframe",
        "keyframes_with_object": "object on keyframe, %",
        "far": "8+ frames away, relative, %",
        "false_positive_rate": "false positives, %",
        "auroc": "AUROC of presence, %",
    }
    return [
        Section("Side by side", lines, head, rows, frozenset({0}), bar_figure("J&F, %", bars)),
        Section(
            f"J&F by {HEADINGS.get(heading, heading)}",
            ["Expressions with a target."],
            ["run", *kinds],
            [[run["name"], *(_shown(run["JF_by_kind"].get(kind)) for kind in kinds)] for run in runs],
            frozenset({0}),
        ),
        Section(
            "Keyframes, tracking and presence",
            ["These numbers are those of each run's scores.html."],
            ["run", *names.values()],
            [[run["name"], *(_shown(run["scores"][name]) for name in names)] for run in runs],
            frozenset({0}),
        ),
    ]


def _difference(run: dict[str, Any]) -> list[str]:
    if run["name"] == BASE or "overall" not in run["differences"]:
        return ["", ""]
    low, high = run["intervals"]["overall"]["JF"]
    return [f"{run['differences']['overall']['JF']:+.2f}", f"{low:+.2f} to {high:+.2f}"]


def _changed(base: dict[str, Any], other: dict[str, Any], path: str = "") -> Iterator[str]:
    """Settings in which two runs differ, with the values of the base, such as "keyframe.method=tks"."""
    for key, value in base.items():
        if isinstance(value, dict):
            yield from _changed(value, other[key], f"{path}{key}.")
        elif value != other[key]:
            yield f"{path}{key}={value}"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"

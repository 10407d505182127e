"""The files of an ablation: `ablation.json`, `ablation.md` and `ablation.html`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Iterator
from typing import Any

from vrshq.cluster.storage.folder import Folder
from vrshq.pipelines.evaluate.figures import Bar, bar_figure
from vrshq.pipelines.evaluate.markdown import markdown
from vrshq.pipelines.evaluate.page import page
from vrshq.pipelines.evaluate.score_sections import HEADINGS
from vrshq.pipelines.evaluate.section import Section
from vrshq.pipelines.evaluate.studies import STUDIES

BASE = "base"  # name of the run with the base's settings
BEST = "best of these runs, per expression"
NOTHING, NO_ANSWER = "no difference shown", "no answer"
_COUNTS = {"clip_frames": "CLIP calls", "tower_frames": "MLLM frames", "encoder_frames": "image-encoder calls"}


def write_ablation(output: str, result: dict[str, Any]) -> list[str]:
    """Writes `ablation.json`, `ablation.md` and `ablation.html` into `output`; returns their uris."""
    folder = Folder(output)
    what = STUDIES[result["study"]].title if result["study"] else "Ablation"
    title, parts = f"{what}, on {result['dataset']}", sections(result)
    text = json.dumps(result, indent=2, ensure_ascii=False, allow_nan=False)
    for name, content in (
        ("ablation.json", text + "\n"),
        ("ablation.md", markdown(title, parts)),
        ("ablation.html", page(title, parts)),
    ):
        folder.write_bytes(name, content.encode())
    return [folder.uri_of(f"ablation.{kind}") for kind in ("json", "md", "html")]


def sections(result: dict[str, Any]) -> list[Section]:
    """All runs in one table each for scores and costs, kinds of questions and keyframes, with a figure of J&F."""
    runs = result["runs"]
    kinds = list(dict.fromkeys(kind for run in runs for kind in run["JF_by_kind"]))
    heading = runs[0]["by"]
    names = {
        "keyframe_J": "J on keyframe",
        "keyframes_with_object": "object on keyframe, %",
        "far": "8+ frames away, relative, %",
        "false_positive_rate": "false positives, %",
        "n_acc": "N-acc, %",
        "t_acc": "T-acc, %",
        "final": "Final, %",
        "auroc": "AUROC of presence, %",
    }
    return [
        _side_by_side(result),
        Section(
            f"J&F by {HEADINGS.get(heading, heading)}",
            ["Expressions with a target."],
            ["run", *kinds],
            [[run["label"], *(_shown(run["JF_by_kind"].get(kind)) for kind in kinds)] for run in runs],
            frozenset({0}),
        ),
        Section(
            "Keyframes, tracking and presence",
            ["These numbers are those of each run's scores.html."],
            ["run", *names.values()],
            [[run["label"], *(_shown(run["scores"][name]) for name in names)] for run in runs],
            frozenset({0}),
        ),
        _costs(runs),
    ]


def _side_by_side(result: dict[str, Any]) -> Section:
    """Scores, differences, the published rows, and the costs."""
    runs, study = result["runs"], STUDIES[result["study"]] if result["study"] else None
    bars = [Bar(*_below_bar(run, study=study is not None), run["scores"]["JF"]) for run in runs]
    base = runs[0]["published"]
    rows = [
        [
            run["label"],
            *(_shown(run["scores"][name]) for name in ("J", "F", "JF")),
            *_difference(run),
            *_published(run["published"], base),
            *(f"{run['cost'][name]:,}" for name in _COUNTS),
            f"{run['cost']['seconds']:.1f}",
        ]
        for run in runs
    ]
    if result["bound"]:
        bound = result["bound"]
        scores = [_shown(bound["scores"][name]) for name in ("J", "F", "JF")]
        rows.append([BEST, *scores, *_difference(bound | {"name": BEST}), "", "", *[""] * len(_COUNTS), ""])
    own = dict.fromkeys(text for run in runs for text in _changed(result["base"], run["settings"]))
    lines = [
        *(study.remarks if study else ()),
        (
            "Scores are means over groups. Every expression counts once, a missing answer as 0; nothing is rounded. A "
            "difference is this run minus the base, paired by expression, in percent points of J&F. Intervals come from "
            f'a bootstrap over videos; where one holds 0, the reading is "{NOTHING}".'
        ),
        f"Where nothing differs, {1 - result['level']:.0%} of such intervals still do not hold 0; with many runs, expect one.",
        *_seeds(runs),
        *(
            f"{run['label']}: {run['unanswered']}"
            for run in runs
            if run["unanswered"] and (run is runs[0] or run["unanswered"] != runs[0]["unanswered"])
        ),
        *_about_published(runs, study is not None),
        (
            "Frames through CLIP, the MLLM's vision tower and the tracker's image encoder count once for all instructions of a "
            "video, whatever was taken over of the base; seconds are those of the stages, of taken over ones the base's."
        ),
        f"Model: {result['model']}. Settings of the base: {', '.join(own)}.",
    ]
    head = ["run", "J", "F", "J&F", "difference", f"{result['level']:.0%} over videos", "reading"]
    head += ["published J&F, referring | reasoning", "its difference", *_COUNTS.values(), "seconds"]
    return Section("Side by side", lines, head, rows, frozenset({0}), bar_figure("J&F, %", bars))


def _below_bar(run: dict[str, Any], *, study: bool) -> tuple[str, str]:
    """The two lines below a run's bar: its label on two lines, or value and setting."""
    if not study:
        setting, _, value = run["name"].rpartition("=")
        return value, setting
    first, *others = textwrap.wrap(run["label"], 16, max_lines=2, placeholder="…")
    return first, " ".join(others)


def _costs(runs: list[dict[str, Any]]) -> Section:
    stages = list(runs[0]["cost"]["seconds_by_stage"])
    rows = [
        [
            run["label"],
            f"{run['cost']['candidates']:,}",
            *(f"{run['cost']['seconds_by_stage'][stage]:.1f}" for stage in stages),
        ]
        for run in runs
    ]
    head = ["run", "candidate masks", *(f"{stage}, s" for stage in stages)]
    lines = ["Masks decoded on sampled frames, and seconds by stage, as if run alone."]
    return Section("Costs", lines, head, rows, frozenset({0}))


def _difference(run: dict[str, Any]) -> list[str]:
    """The difference from the base, its interval, and what it shows."""
    if run["scores"]["JF"] is None:
        return ["", "", NO_ANSWER]
    if run["name"] == BASE or "overall" not in run["differences"]:
        return ["", "", ""]
    low, high = run["intervals"]["overall"]["JF"]
    reading = NOTHING if low <= 0 <= high else "better" if low > 0 else "worse"
    return [f"{run['differences']['overall']['JF']:+.2f}", f"{low:+.2f} to {high:+.2f}", reading]


def _published(row: dict[str, Any] | None, base: dict[str, Any] | None) -> list[str]:
    """The published J&F of a row, marked where a model was trained for it, and its difference from the published base."""
    if row is None:
        return ["", ""]
    groups = [name for name in ("referring", "reasoning") if name in row]
    values = " | ".join(f"{row[name]['JF']:.1f}" for name in groups)
    changes = [f"{row[name]['JF'] - base[name]['JF']:+.1f}" for name in groups] if base and row != base else []
    return [values + (" *" if row["trained"] else ""), " | ".join(changes)]


def _seeds(runs: list[dict[str, Any]]) -> Iterator[str]:
    """A line for each variant that ran with several seeds."""
    found: dict[str, list[float]] = {}
    for run in runs:
        name, seeded, _ = run["label"].partition(", seed ")
        if seeded and run["scores"]["JF"] is not None:
            found.setdefault(name, []).append(run["scores"]["JF"])
    for name, values in found.items():
        mean = sum(values) / len(values)
        yield f"{name}, {len(values)} seeds: J&F {mean:.2f} on average, {min(values):.2f} to {max(values):.2f}."


def _about_published(runs: list[dict[str, Any]], study: bool) -> list[str]:
    found = [run["published"] for run in runs if run["published"]]
    if not found:
        return []
    tables = sorted({row["table"] for row in found})
    of = f"table{'s' * (len(tables) > 1)} {', '.join(tables)} of the paper"
    lines = [
        f"Published: VRS-HQ-7B on ReVOS, {of}. Compare differences: another model on other videos has other values."
    ]
    if any(row["trained"] for row in found):
        mark = "*: the paper trained a model with this setting"
        lines.append(f"{mark}." if study else f"{mark}; here it is switched at inference, which is another experiment.")
    return lines


def _changed(base: dict[str, Any], other: dict[str, Any], path: str = "") -> Iterator[str]:
    """Settings in which two runs differ, with the values of the base, such as "keyframe.method=tks"."""
    for key, value in base.items():
        if isinstance(value, dict):
            yield from _changed(value, other[key], f"{path}{key}.")
        elif value != other[key]:
            yield f"{path}{key}={value}"


def _shown(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"

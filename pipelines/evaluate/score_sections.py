"""The sections of an evaluation's page: the scores beside the published ones, problems, break-downs, presence, tracking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from vrshq.pipelines.evaluate import reproduce
from vrshq.pipelines.evaluate.breakdowns import MOTION
from vrshq.pipelines.evaluate.figures import Bar, bar_figure, reliability_figure
from vrshq.pipelines.evaluate.published import published_rows
from vrshq.pipelines.evaluate.section import Section

# The page shows this many problems of a kind; scores.json lists all.
SHOWN_PROBLEMS = 20
OURS = "this evaluation"
HEADINGS = {"asks": "kind of question"}


def sections(scores: dict[str, Any]) -> list[Section]:
    """The sections of the page in order, without those that have no data.

    Args:
        scores: the content of `scores.json`.
    """
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
        reproduce.section(scores["reproduce"]),
    ]
    return [part for part in parts if part is not None]


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
    over_time = [name for name in ("tIoU", "vIoU") if any(by.get("overall", {}).get(name) for by in systems.values())]
    ours += [
        _number(scores["published"].get("overall", {}).get("R")),
        *(_number(scores["over_frames"][n]) for n in over_time),
    ]
    rows = [[*ours, protocol["source"], ""]]
    for system, by_group in ranked:
        numbers = [by_group.get(group, {}).get(name, "") for group in groups for name in ("J", "F", "JF")]
        overall = by_group.get("overall") or next(iter(by_group.values()))
        numbers += [overall[name] for name in ("R", *over_time)]
        rows.append([system, *numbers, overall["source"], overall["note"]])
    measured = [*(f"{group} {name}" for group in groups for name in ("J", "F", "J&F")), "R", *over_time]
    head = ["system", *measured, "source", "note"]
    lines = [
        f"Protocol: {protocol['source']}. {_capital(protocol['remark'])}" + ("." if protocol["remark"] else ""),
        (
            f"{scores['in_published_mean']:,} of {scores['expressions']:,} expressions on {scores['videos']:,} videos are in "
            "these means. Published numbers are as printed in their sources. J&F is the mean of J and F. R is computed as in "
            "the public script."
        ),
    ]
    if scores["dataset"] == "ref-davis17-official":
        lines.append("The published numbers mix this protocol and VISA's, which is easier; see their notes.")
    if another:
        lines.append(
            "This is a synthetic data set, because its expressions name their kind of question. The published numbers are of "
            "other videos and are left out."
        )
    return Section("Beside the published numbers", lines, head, rows, frozenset({0}))


def headline(scores: dict[str, Any]) -> Section:
    """The scores by group, both as published and fixed, and the intervals of the published ones."""
    rows = []
    for group in scores["fixed"]:
        published, fixed = scores["published"].get(group, {}), scores["fixed"][group]
        interval = _between(scores["published_intervals"].get(group, {}).get("JF", (None, None)))
        for spelling, values, between in (("as published", published, interval), ("fixed", fixed, "")):
            numbers = [_number(values.get(name)) for name in ("J", "F", "JF")]
            rows.append([group, spelling, *numbers, between, *(_number(values.get(name)) for name in ("A", "R"))])
    if (moving := scores["motion"]) is not None:
        numbers = [_number(moving["fixed"].get(name)) for name in ("J", "F", "JF", "A", "R")]
        between = _between(moving["fixed_intervals"].get("JF", (None, None)))
        rows.append([f"{MOTION}, {moving['expressions']:,}", "fixed", *numbers[:3], between, *numbers[3:]])
    lines = [
        (
            "The public A and R compare 0/255 predictions with 0/1 ground truth in 8-bit arithmetic. The fixed ones compare "
            "0/1 masks. Fixed means also count every expression once and a missing answer as 0, without rounding."
        )
    ]
    if scores["overwritten_expressions"]:
        count = scores["overwritten_expressions"]
        lines.append(
            f"{count:,} expressions are not in the published mean: a later text on the same object replaces them."
        )
    lines.append(_final(scores["no_target"]))
    level = f"{scores['intervals']['level']:.0%} over videos"
    return Section("As published, and fixed", lines, ["group", "", "J", "F", "J&F", level, "A", "R"], rows)


def _final(values: dict[str, float | None]) -> str:
    """J&F with N-acc, T-acc and Final, which say whether it was gained or lost by refusing."""
    parts = {"J&F": "jf", "N-acc": "n_acc", "T-acc": "t_acc"}
    told = ", ".join(f"{text} {_number(_percent(values[name])) or '-'}" for text, name in parts.items())
    if values["final"] is None:
        return f"{told}. Final, their mean, needs answered expressions with and without a target."
    return f"{told}, and their mean, Final: {_number(_percent(values['final']))} (MeViS v2)."


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
    lines = [f"The table shows at most {SHOWN_PROBLEMS} of a kind; scores.json lists all."]
    return Section("Missing and wrong answers", lines, head, rows)


def _no_target(scores: dict[str, Any]) -> Section | None:
    counts, values = scores["no_target_counts"], scores["no_target"]
    names = {
        "jf": "J&F of expressions with a target, by the protocol, %",
        "n_acc": "N-acc: no-target expressions with all masks empty, %",
        "false_positive_rate": "false positives: no-target expressions with a mask on some frame, %",
        "t_acc": "T-acc: other expressions with a mask, %",
        "final": "Final: the mean of J&F, N-acc and T-acc, %",
        "auroc": "AUROC of presence, %",
        "auprc": "AUPRC of presence, %",
        "false_positive_area": "pixels predicted for no-target expressions, %",
        "empty_expressions": "expressions with a target and no mask at all, %",
        "empty_frames": "empty frames of expressions with a target, %",
    }
    parts = _with_motion(scores, "no_target")
    rows = [
        [text, *(_number(_percent(part.get(name))) for part in parts.values())]
        for name, text in names.items()
        if values[name] is not None
    ]
    line = f"Answered expressions: {counts['no_target']:,} without and {counts['target']:,} with a target."
    return Section("Presence of a target", [line], ["measure", *parts], rows) if rows else None


def _with_motion(scores: dict[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """The values of a table by the heads of its columns: those of all expressions, and those of motion where it is apart."""
    parts = {"value": scores[name]}
    return parts if scores["motion"] is None else parts | {MOTION: scores["motion"][name]}


def _over_frames(scores: dict[str, Any]) -> Section:
    names = {
        "gIoU": "gIoU: mean over frames",
        "cIoU": "cIoU: summed intersection over summed union",
        "tIoU": "tIoU: frames with both over frames with either",
        "vIoU": "vIoU: J summed over frames with both, over frames with either",
    }
    parts = _with_motion(scores, "over_frames")
    rows = [[text, *(_number(part[name]) for part in parts.values())] for name, text in names.items()]
    return Section("Over frames and time", ["Expressions with a target, in percent."], ["measure", *parts], rows)


def _breakdown(name: str, parts: dict[str, dict[str, float]]) -> Section:
    rows = [
        [
            value,
            f"{means['expressions']:,}",
            *(_number(means[name]) for name in ("J", "F", "JF", "tIoU", "vIoU", "motion_JF")),
        ]
        for value, means in parts.items()
    ]
    line = "Means over expressions with a target, without rounding; a missing answer counts as 0."
    figure = Markup("")
    if name in ("kind", "asks"):
        bars = [Bar(value, _counted(means["expressions"]), means["JF"]) for value, means in parts.items()]
        figure = bar_figure("J&F, %", bars)
    heading = HEADINGS.get(name, name)
    head = [heading, "expressions", "J", "F", "J&F", "tIoU", "vIoU", f"J&F, {MOTION}"]
    return Section(f"By {heading}", [line], head, rows, figure=figure)


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
        "Answered expressions without a target. J and F are 100 on a frame with an empty mask, else 0. AUROC compares their "
        "presence with that of expressions with a target of the same kind."
    )
    head = [heading, "expressions", "false positives, %", "J", "F", "J&F", "mean presence", "AUROC, %"]
    return Section(f"No target, by {heading}", [line], head, rows)


def _tracking(scores: dict[str, Any]) -> Section | None:
    """J by distance from the keyframe; None if the predictions hold no keyframes."""
    found = scores["tracking"]
    if found is None:
        return None
    ranges = found["distances"] | found["far"]
    apart = (scores["motion"] or {}).get("tracking")
    moving = apart["distances"] | apart["far"] if apart else {}
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
            *([_number(moving[distance]["J"])] if moving else []),
        ]
        for distance, one in ranges.items()
    ]
    level = f"{scores['intervals']['level']:.0%} over videos"
    lines = [
        (
            f"{found['expressions']:,} answered expressions with a target. {found['keyframes_with_object']:.1%} of their "
            "keyframes show it. J is the mean over expressions of their means over the frames that show the target. The "
            "other frames are hidden frames; an empty mask is right there."
        ),
        (
            "Relative to the keyframe: the sum of these means over the sum of J on the keyframes, both over the expressions "
            "that have both."
        ),
    ]
    head = ["frames from keyframe", "expressions", "frames", "J", level, "relative, %", level, "hidden frames"]
    head += ["empty there, %", *([f"J, {MOTION}"] if moving else [])]
    bars = [
        Bar(distance, f"{one['frames']:,} frames", one["J"], one["J_interval"])
        for distance, one in found["distances"].items()
    ]
    marked = frozenset(place for place, distance in enumerate(ranges) if distance in found["far"])
    figure = bar_figure("J by frames from the keyframe, %", bars)
    return Section("By distance from the keyframe", lines, head, rows, marked, figure)


def _calibration(scores: dict[str, Any]) -> Section | None:
    found = scores["calibration"]
    if found is None:
        return None
    threshold = found["threshold"]
    lines = [
        (
            f"Presence as the probability of a target, over {found['expressions']:,} answered expressions. Expected "
            f"calibration error: {found['expected_calibration_error']:.4f}. Brier score: {found['brier_score']:.4f}; a "
            f"constant presence equal to the share of targets has {found['brier_score_of_base_rate']:.4f}."
        ),
        (
            f"With masks only for expressions whose presence is above {threshold['presence']:.6f}, "
            f"{threshold['no_target']:.1%} of the no-target expressions would keep a mask (allowed: at most "
            f"{threshold['allowed']:.0%}), and {threshold['target']:.1%} of the others."
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

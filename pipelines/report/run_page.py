"""`report.html`: the counts of a run, its errors, and its contact sheets by video."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from itertools import groupby
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.errors import StorageNotFoundError
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.tables.doubt import SIGNAL, Sort
from vrshq.pipelines.label.tables.spans import span_in_words
from vrshq.pipelines.report.page import render, visible
from vrshq.pipelines.report.sheets import STATUS_COLORS, Track


class Sheet(NamedTuple):
    """A written sheet.

    Attributes:
        track: row of `tracks/` that it shows.
        name: path of the PNG file, relative to the page.
        size: width and height, pixels.
        repeated: height of the sheet's header that the page repeats as text, pixels.
        film: path of the overlay video, relative to the page; None where there is none.
    """

    track: Track
    name: str
    size: tuple[int, int]
    repeated: int
    film: str | None = None


def in_order(sheets: list[Sheet], shown: list[Track], films: Mapping[tuple[str, str], str]) -> list[Sheet]:
    """The sheets in the order of the rows `shown`, each with its overlay video."""
    keyed = {(sheet.track["video_id"], sheet.track["instruction_id"]): sheet for sheet in sheets}
    keys = [(track["video_id"], track["instruction_id"]) for track in shown]
    return [keyed[key]._replace(film=films.get(key)) for key in keys]


def run_page(run: RunDirectory, tracks: pa.Table, manifest: pa.Table, sheets: list[Sheet], sort: Sort = "id") -> str:
    """The page as HTML.

    Args:
        run: names the page and the model.
        tracks: all rows of `tracks/`.
        manifest: all units, with `instruction_ids`.
        sheets: the written sheets, in the order of the page.
        sort: what that order is.
    """
    asked = pc.sum(pc.list_value_length(manifest["instruction_ids"])).as_py() or 0
    counts = _counts(tracks, asked)
    total = max(1, sum(count for _, count in counts))
    videos = tracks.group_by("video_id").aggregate([("num_frames", "max")])
    return render(
        "run.html",
        title=visible(run.uri),
        model=_model(run),
        facts=[
            ("instructions", asked),
            *counts,
            ("videos", videos.num_rows),
            ("frames", pc.sum(videos["num_frames_max"]).as_py() or 0),
        ],
        bar=[
            {"name": name, "status_class": _status_class(name), "percent": f"{100 * count / total:.3f}"}
            for name, count in counts
        ],
        errors=_errors(tracks),
        shown=_shown_line(len(sheets), tracks.num_rows, sort),
        videos=[_video(list(group), sort) for _, group in groupby(sheets, key=lambda sheet: sheet.track["video_id"])],
    )


def _counts(tracks: pa.Table, asked: int) -> list[tuple[str, int]]:
    statuses = Counter(tracks["status"].to_pylist())
    pending = asked - tracks.num_rows
    counts = [(name, statuses[name]) for name in sorted(statuses, key="ok empty error".find)]
    return counts + ([("not finished", pending)] if pending > 0 else [])


def _model(run: RunDirectory) -> str:
    try:
        content = run.read_json("run.json")
        return f"model {content['identity']['model']['name']}, vrshq {content['details']['version']}"
    except (StorageNotFoundError, ValueError, KeyError, TypeError):
        return "no run.json"


def _errors(tracks: pa.Table) -> list[dict[str, Any]]:
    """The kinds of errors, the most frequent first: type, count, example."""
    failed = tracks.filter(pc.equal(tracks["status"], "error"))
    if not failed.num_rows:
        return []
    kinds = failed.group_by("error_type").aggregate([("error_message", "count"), ("error_message", "min")])
    return [
        {
            "type": kind["error_type"] or "unknown",
            "count": kind["error_message_count"],
            "example": kind["error_message_min"] or "",
        }
        for kind in kinds.sort_by([("error_message_count", "descending"), ("error_type", "ascending")]).to_pylist()
    ]


def _shown_line(shown: int, total: int, sort: Sort) -> str:
    if sort == "least-trusted":
        left = f"; {total - shown:,} more trusted ones were left out (--limit)" if shown < total else ""
        return f"{shown:,} sheets, the least trusted first by {SIGNAL}{left}."
    if shown == total:
        return f"{total:,} sheets, one for each instruction."
    return f"{shown:,} sheets, spread evenly over {total:,} instructions; {total - shown:,} were left out (--limit)."


def _video(sheets: list[Sheet], sort: Sort) -> dict[str, Any]:
    track = sheets[0].track
    decoded = f"{track['num_frames']} frames, {track['width']} x {track['height']}"
    return {
        "video_id": track["video_id"],
        "size": decoded if track["num_frames"] else "not decoded",
        "sheets": [_sheet(sheet, sort) for sheet in sheets],
    }


def _sheet(sheet: Sheet, sort: Sort) -> dict[str, Any]:
    track, name, (width, height), repeated, film = sheet
    facts = []
    if track["num_objects"] not in (None, 1):
        facts.append(f"{track['num_objects']} objects")
    if track["presence"] is not None:
        facts.append(f"presence {track['presence']:.2f}")
    if track["keyframe_index"] is not None:
        facts.append(f"keyframe {track['keyframe_index']}")
    if sort == "least-trusted" and track[SIGNAL] is not None:
        facts.append(f"{SIGNAL.replace('_', ' ')} {track[SIGNAL]:.2f}")
    if span := span_in_words(track):
        facts.append(span)
    if track["notes"]:
        facts.append(track["notes"])
    return {
        **{key: track[key] for key in ("text", "answer", "status", "instruction_id")},
        "status_class": _status_class(track["status"]),
        "facts": facts,
        "error": f"{track['error_type']}: {track['error_message']}" if track["status"] == "error" else None,
        "name": name,
        "film": film,
        "width": width,
        "height": height,
        "hidden": repeated,
        "hidden_percent": f"{100 * repeated / width:.2f}",
    }


def _status_class(status: str) -> str:
    return status if status in STATUS_COLORS else "other"

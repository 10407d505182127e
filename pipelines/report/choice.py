"""Which instructions a report shows, in which order, and the units that hold their masks."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.pipelines.label.tables.doubt import Sort, least_trusted
from vrshq.pipelines.report.sheets import Track


def chosen(tracks: pa.Table, limit: int, sort: Sort) -> list[int]:
    """At most `limit` row numbers of `tracks/`, in the order of the page: spread evenly, or the least trusted ones."""
    if sort == "least-trusted":
        return least_trusted(tracks)[:limit]
    count = tracks.num_rows
    return list(range(count)) if count <= limit else [place * count // limit for place in range(limit)]


def by_video(shown: Sequence[Track]) -> list[Track]:
    """The rows so that those of one video follow each other, in the order in which the videos come first."""
    videos = {video_id: place for place, video_id in enumerate(dict.fromkeys(track["video_id"] for track in shown))}
    return sorted(shown, key=lambda track: videos[track["video_id"]])


def units_of(manifest: pa.Table, tracks: Sequence[Track]) -> dict[tuple[str, str], str]:
    """The unit of each shown (video_id, instruction_id)."""
    videos = pa.array({track["video_id"] for track in tracks}, pa.string())
    near = manifest.filter(pc.is_in(manifest["video_id"], videos))
    return {
        (unit["video_id"], instruction_id): unit["unit_id"]
        for unit in near.to_pylist()
        for instruction_id in unit["instruction_ids"]
    }

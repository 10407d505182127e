"""What a run of an ablation costs: frames through each network, and seconds, from the run's own tables."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.video.sampling import WITHOUT_CLIP
from vrshq.pipelines.evaluate.rest import Shared, shared_by
from vrshq.pipelines.label.tables.schema import STAGES, TRACKS

_COLUMNS = (
    *("video_id", "video_uri", "instruction_id", "start", "end", "every", "num_frames"),
    *("status", "sampled_frames", "keyframe_index", "num_objects", "seconds"),
)
# The stages whose work is the base's, by what was taken of it.
_TAKEN: dict[Shared, tuple[str, ...]] = {"tokens": ("presample", "tokens"), "clip": ("presample",)}


def cost_of(run: str, base: str) -> dict[str, Any]:
    """The cost of a run, as if it had run alone: what it took over of the base counts as done for it.

    Each network sees each frame once for all instructions of a video, so counts follow from the frames that were sampled and
    labelled. Seconds are those of the stages, summed over units; of stages that were taken over, the base's.

    Args:
        run: uri of a complete run directory.
        base: uri of the first run.

    Returns:
        `clip_frames`, `tower_frames` (frames through the MLLM's vision tower), `encoder_frames` (frames through the tracker's
        image encoder), `candidates` (mask decodings on sampled frames), `seconds`, and `seconds_by_stage`.
    """
    opened = RunDirectory(run)
    identity = opened.read_json("run.json")["identity"]
    settings = identity["settings"]
    rows = opened.read("tracks", TRACKS, _COLUMNS).to_pylist()
    videos: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for row in rows:
        videos.setdefault((row["video_uri"], row["start"], row["end"]), []).append(row)
    counts: Counter[str] = Counter()
    for of_video in videos.values():
        counts.update(_frames(of_video, settings))
    seconds = _seconds(opened, rows)
    shared = shared_by(RunDirectory(base).read_json("run.json")["identity"], identity)
    if run != base and shared:
        first = RunDirectory(base)
        taken = _seconds(first, first.read("tracks", TRACKS, _COLUMNS).to_pylist())
        seconds |= {stage: taken[stage] for stage in _TAKEN[shared]}
    names = ("clip_frames", "tower_frames", "encoder_frames", "candidates")
    return {
        **{name: counts[name] for name in names},
        "seconds": sum(seconds.values()),
        "seconds_by_stage": seconds,
    }


def _frames(rows: list[dict[str, Any]], settings: Mapping[str, Any]) -> dict[str, int]:
    """The counts of one video. An instruction that failed after it had its frames counts for CLIP alone."""
    sampling, tracking = settings["sampling"], settings["tracking"]
    first = next((row for row in rows if row["sampled_frames"] is not None), None)
    if first is None:
        return {}
    labelled = range(first["start"] or 0, first["end"] or first["num_frames"], first["every"] or 1)
    clip = 0 if sampling["sampler"] in WITHOUT_CLIP else -(-len(labelled) // sampling["clip_every"])
    done = [row for row in rows if row["status"] != "error"]
    if not done:
        return {"clip_frames": clip}
    sampled = {frame for row in done for frame in row["sampled_frames"]}
    decoded = sum(len(row["sampled_frames"]) * (row["num_objects"] or 0) for row in done)
    tracked = set(labelled)
    if tracking["directions"] == "forward":
        starts = [
            min(row["sampled_frames"]) if row["keyframe_index"] is None else row["keyframe_index"] for row in done
        ]
        tracked = sampled | {frame for frame in labelled if frame >= min(starts)}
    return {
        "clip_frames": clip,
        "tower_frames": len(sampled),
        "encoder_frames": len(tracked | sampled),
        "candidates": decoded * (2 if settings["fusion"]["weighting"] == "adaptive" else 1),
    }


def _seconds(run: RunDirectory, rows: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds by stage over the units of a run. Each row of `tracks/` states those of its whole unit."""
    manifest = run.read_manifest()
    columns = (manifest[name].to_pylist() for name in ("video_id", "instruction_ids"))
    first = {(video_id, ids[0]) for video_id, ids in zip(*columns, strict=True)}
    found = dict.fromkeys(STAGES, 0.0)
    for row in rows:
        if (row["video_id"], row["instruction_id"]) in first:
            for stage, value in (row["seconds"] or {}).items():
                found[stage] += value or 0.0
    return found

"""A run's masks as writers want them: video by video, instruction by instruction, every frame there."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, compress, groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.masks.rle import encode, union
from vrshq.operators.video.files import DecodeConfig
from vrshq.pipelines.export.names import is_video_file, number_names, part_of, safe_video, source_files
from vrshq.pipelines.label.tables.moved import VideoPlaces
from vrshq.pipelines.label.tables.schema import MASKS, TRACKS
from vrshq.pipelines.label.tables.spans import FRAME_COLUMNS, labelled_frames

# Units whose masks are read at once.
UNITS_AT_ONCE = 16
_TRACK_COLUMNS = (
    *("video_id", "instruction_id", "status", *FRAME_COLUMNS, "height", "width", "presence"),
    *("error_type", "error_message", "keyframe_index", "pixel_aspect", "answer"),
)


@dataclass(frozen=True)
class FrameMask:
    """One frame's mask: COCO's compressed counts, area in pixels, box (x, y, width, height), SAM2's object logit.

    `score` is None where the run has no row for the frame; the mask is empty then.
    """

    rle: bytes
    area: int
    bbox: tuple[int, int, int, int]
    score: float | None

    @property
    def probability(self) -> float | None:
        """The score as a probability, 0..1."""
        if self.score is None or math.isnan(self.score):
            return None
        return 1 / (1 + math.exp(-max(min(self.score, 700.0), -700.0)))


@dataclass(frozen=True)
class Answer:
    """One instruction's objects, each with one mask for each frame of `RunVideo.frames`.

    None: the instruction was not asked on this frame, which another instruction of the video was asked on. An answer without
    an object, and one of status "error", has one object with empty masks. `keyframe` is the number of its keyframe; None where
    there is none. `said` is what a generating model wrote.
    """

    instruction_id: str
    text: str
    status: str
    presence: float | None
    objects: Sequence[Sequence[FrameMask | None]]
    keyframe: int | None = None
    said: str | None = None

    def merged(self, video: RunVideo, summary: ExportSummary) -> Sequence[FrameMask | None]:
        """The union of the objects on each frame, for a format with one mask for each instruction; `summary` counts it."""
        summary.merged += len(self.objects) > 1
        if len(self.objects) == 1:
            return self.objects[0]
        return [_joined(masks, video) for masks in zip(*self.objects, strict=True)]


@dataclass
class ExportSummary:
    """What an export wrote, and what it could not.

    Attributes:
        decoding: how the run read its videos.
        merged: instructions whose several objects the format holds as one mask.
        written: instructions by status ("ok", "empty", "error"; error: written as empty masks).
        failed: those of status "error", with the reason.
        left_out: instructions without anything to write: the run knows neither frames nor size, or did not finish them.
        unfinished: how many of those the run did not finish.
        renamed: ids that cannot be paths -> what their files are called.
        notes: what a user must know about the files.
    """

    run: str
    format: str
    decoding: DecodeConfig = field(default_factory=DecodeConfig)
    videos: int = 0
    frames: int = 0
    written: Counter[str] = field(default_factory=Counter)
    merged: int = 0
    failed: list[dict[str, str]] = field(default_factory=list)
    left_out: list[dict[str, str]] = field(default_factory=list)
    unfinished: int = 0
    renamed: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """What a command prints: counts, then what went otherwise than a user may expect."""
        counts = ", ".join(f"{count} {status}" for status, count in sorted(self.written.items())) or "none"
        lines = [f"{self.videos} videos, {sum(self.written.values())} instructions ({counts}), {self.frames} masks"]
        if self.merged:
            lines.append(
                f"{self.merged} instructions with several objects written as the union of their masks; coco, ytvis, cvat, "
                "fiftyone, palette-png, yolo-seg, overlay-mp4, mask-mp4 and cutout keep objects apart"
            )
        if self.left_out:
            lines.append(
                f"{len(self.left_out)} instructions left out, {self.unfinished} of them not finished by the run"
            )
        if self.renamed:
            lines.append(f"{len(self.renamed)} ids renamed because they cannot be paths")
        shown = [f"note: {note}" for note in self.notes[:5]]
        return lines + shown + ([f"and {len(self.notes) - 5} more notes"] if len(self.notes) > 5 else [])

    def as_dict(self) -> dict[str, Any]:
        """For export.json."""
        values = {name: value for name, value in vars(self).items() if name != "decoding"}
        return values | {"written": dict(sorted(self.written.items()))}


@dataclass(frozen=True)
class RunVideo:
    """A video of a run.

    Attributes:
        pixel_aspect: width of a stored pixel over its height.
        total_frames: frames of the whole video.
        frames: numbers of the frames that some instruction was asked on, ascending; all frames unless the run labels spans.
        names: the frames' names without suffix, safe as names of new files.
        files: the names of the source's own files with their suffixes; None where the video is not a folder of frames.
    """

    video_id: str
    uri: str
    total_frames: int
    frames: Sequence[int]
    height: int
    width: int
    names: list[str]
    files: list[str] | None
    pixel_aspect: float = 1.0

    @property
    def file_names(self) -> list[str]:
        """The paths of the frames' pictures below a folder of all videos.

        These are the source's own files; for other videos `PATTERN`, which no file may have yet.
        """
        files = self.files or [f"{name}.jpg" for name in self.names]
        return [f"{safe_video(self.video_id)}/{name}" for name in files]


# How the frames of a video file are named where a format asks for pictures, and the command that makes them.
PATTERN = "VIDEO_ID/00000.jpg, VIDEO_ID/00001.jpg, ..."
EXTRACT = "ffmpeg -i VIDEO -fps_mode passthrough -start_number 0 -q:v 2 VIDEO_ID/%05d.jpg"


Answers = Iterator[tuple[RunVideo, Iterator[Answer]]]
Chosen = Callable[[str, str], bool]  # of video_id and instruction_id


def read_answers(
    run: RunDirectory, summary: ExportSummary, places: VideoPlaces, chosen: Chosen = lambda _video, _instruction: True
) -> Answers:
    """The videos of a run in the manifest's order, each with its chosen instructions; take the latter before the next video.

    Holds the masks of `UNITS_AT_ONCE` units, and `tracks/` without its lists. Reads the units with chosen instructions alone.
    What cannot be written is noted in `summary`.
    """
    units = _units(run, chosen)
    tracks = _Tracks(run, units, chosen)
    for (video_id, stored), found in groupby(
        _instructions(run, units, chosen), key=lambda item: (item.video_id, item.uri)
    ):
        size = tracks.sizes.get(video_id)
        if size is None:
            for item in found:
                _leave_out(item, tracks.row(item), summary)
            continue
        uri = places.now(stored)
        files = source_files(uri, size[0])
        if files is None and not is_video_file(uri):
            summary.notes.append(f"{video_id}: {uri} does not list {size[0]} frames now, so they are named by number")
        summary.videos += 1
        total, height, width = size
        frames = tracks.frames[video_id]
        files = files and [files[frame] for frame in frames]
        numbered = number_names(total)
        names = [part_of(name.rpartition(".")[0]) for name in files or ()] or [numbered[frame] for frame in frames]
        aspect = tracks.pixel_aspects.get(video_id, 1.0)
        video = RunVideo(video_id, uri, total, frames, height, width, names, files, aspect)
        yield video, _answers(found, video, tracks, summary)


@dataclass(frozen=True)
class _Instruction:
    video_id: str
    uri: str
    instruction_id: str
    text: str
    rows: pa.Table


def _units(run: RunDirectory, chosen: Chosen) -> pa.Table:
    """The rows of the manifest with a chosen instruction."""
    manifest = run.read_manifest().select(["unit_id", "video_id", "video_uri", "instruction_ids", "texts"])
    keys = (
        zip(batch["video_id"].to_pylist(), batch["instruction_ids"].to_pylist(), strict=True)
        for batch in manifest.to_batches(max_chunksize=1_000)
    )
    kept = [any(chosen(video, one) for one in own) for video, own in chain.from_iterable(keys)]
    return manifest.filter(pa.array(kept, pa.bool_()))


def _instructions(run: RunDirectory, units: pa.Table, chosen: Chosen) -> Iterator[_Instruction]:
    reader = run.reader("masks", MASKS)
    for start in range(0, units.num_rows, UNITS_AT_ONCE):
        several = units.slice(start, UNITS_AT_ONCE).to_pylist()
        masks = reader.read([unit["unit_id"] for unit in several])
        for unit in several:
            own = masks.filter(pc.equal(masks["video_id"], unit["video_id"]))
            for instruction_id, text in zip(unit["instruction_ids"], unit["texts"], strict=True):
                if not chosen(unit["video_id"], instruction_id):
                    continue
                rows = own.filter(pc.equal(own["instruction_id"], instruction_id))
                yield _Instruction(unit["video_id"], unit["video_uri"], instruction_id, text, rows)


class _Tracks:
    """`tracks/` by instruction, and each video's (frames, height, width) where some instruction knows them.

    `frames` has the numbers of the frames that some instruction of a video was asked on.
    """

    def __init__(self, run: RunDirectory, units: pa.Table, chosen: Chosen) -> None:
        table = run.read("tracks", TRACKS, _TRACK_COLUMNS, units["unit_id"].to_pylist())
        keys = list(zip(table["video_id"].to_pylist(), table["instruction_id"].to_pylist(), strict=True))
        kept = [chosen(*key) for key in keys]
        self.table = table.filter(pa.array(kept, pa.bool_()))
        self.places = {key: place for place, key in enumerate(compress(keys, kept))}
        columns = [self.table[name].to_pylist() for name in ("video_id", "num_frames", "height", "width")]
        self.sizes: dict[str, tuple[int, int, int]] = {
            video_id: (frames, height, width)
            for video_id, frames, height, width in zip(*columns, strict=True)
            if frames and height and width
        }
        aspects = zip(self.table["video_id"].to_pylist(), self.table["pixel_aspect"].to_pylist(), strict=True)
        self.pixel_aspects: dict[str, float] = {video_id: aspect for video_id, aspect in aspects if aspect}
        parts: dict[str, set[range]] = {}
        for track in self.table.select(["video_id", *FRAME_COLUMNS]).to_pylist():
            parts.setdefault(track["video_id"], set()).add(labelled_frames(track))
        self.frames: dict[str, Sequence[int]] = {
            video_id: next(iter(found)) if len(found) == 1 else sorted(set().union(*found))
            for video_id, found in parts.items()
        }

    def row(self, item: _Instruction) -> dict[str, Any] | None:
        place = self.places.get((item.video_id, item.instruction_id))
        return None if place is None else self.table.slice(place, 1).to_pylist()[0]


def empty_mask(height: int, width: int) -> FrameMask:
    """A mask without a pixel."""
    return FrameMask(encode(np.zeros((1, height, width), bool))[0].rle, 0, (0, 0, 0, 0), None)


def _joined(masks: Sequence[FrameMask | None], video: RunVideo) -> FrameMask | None:
    """The union of several objects' masks on one frame, with the highest score."""
    given = [mask for mask in masks if mask]
    if len(given) < 2:
        return given[0] if given else None
    both = union([mask.rle for mask in given], video.height, video.width)
    scores = [mask.score for mask in given if mask.score is not None]
    return FrameMask(both.rle, both.area, both.bbox, max(scores, default=None))


def _answers(
    found: Iterator[_Instruction], video: RunVideo, tracks: _Tracks, summary: ExportSummary
) -> Iterator[Answer]:
    empty = empty_mask(video.height, video.width)
    places = {frame: place for place, frame in enumerate(video.frames)}
    for item in found:
        track = tracks.row(item)
        if track is None:
            _leave_out(item, track, summary)
            continue
        if track["status"] == "error":
            _note(summary.failed, item, track)
        asked = labelled_frames(track) if track["num_frames"] else video.frames
        masks: list[FrameMask | None] = [empty if frame in asked else None for frame in video.frames]
        objects: dict[int, list[FrameMask | None]] = {}
        for row in item.rows.to_pylist():
            x, y, box_width, box_height = row["bbox"]
            own = objects.setdefault(row["object_id"], list(masks))
            own[places[row["frame_index"]]] = FrameMask(
                row["rle"], row["area"], (x, y, box_width, box_height), row["object_score"]
            )
        summary.written[track["status"]] += 1
        summary.frames += len(asked)
        about = (item.instruction_id, item.text, track["status"], track["presence"])
        listed = [own for _, own in sorted(objects.items())] or [masks]
        yield Answer(*about, listed, track["keyframe_index"], track["answer"])


def _leave_out(item: _Instruction, track: dict[str, Any] | None, summary: ExportSummary) -> None:
    summary.unfinished += track is None
    _note(summary.left_out, item, track)


def _note(notes: list[dict[str, str]], item: _Instruction, track: dict[str, Any] | None) -> None:
    reason = "not finished" if track is None else f"{track['error_type']}: {track['error_message']}"
    notes.append({"video_id": item.video_id, "instruction_id": item.instruction_id, "reason": reason})

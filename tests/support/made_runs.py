"""Run directories with masks that are known, made without a model."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from tests.support.dataset_fixtures import rle, stems
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.masks.rle import EncodedMask, encode
from vrshq.pipelines.label.tables.schema import MANIFEST, MASKS, SCHEMA_VERSION, TRACKS


@dataclass(frozen=True)
class Made:
    """One instruction of a made run: its text, what `tracks/` says of it, and its objects' masks, (T, H, W) each."""

    text: str
    objects: Sequence[np.ndarray] = ()
    track: Mapping[str, Any] = ()  # type: ignore[assignment] # columns that differ from the usual ones


def box(frames: int, height: int, width: int, *, left: int = 4, shown: Sequence[int] | None = None) -> np.ndarray:
    """A box of 20 x 30 pixels that moves two pixels to the right in each frame; absent outside the frames `shown`."""
    masks = np.zeros((frames, height, width), bool)
    for frame in range(frames) if shown is None else shown:
        masks[frame, 10:30, left + 2 * frame : left + 2 * frame + 30] = True
    return masks


def unit_id(number: int) -> str:
    """The id of a unit of a made run."""
    return hashlib.sha256(str(number).encode()).hexdigest()[:16]


def make_run(uri: str, videos: Mapping[str, tuple[str, list[Made]]]) -> RunDirectory:
    """Writes a run: by video_id, the video's uri and its instructions, which get the ids 0, 1, ... One unit for each video."""
    run = RunDirectory(uri)
    run.open({"model": {"name": "made", "fingerprint": "made"}, "settings": {"sampling": {}}}, {"version": "made"})
    rows = [
        {
            "unit_id": unit_id(number),
            "video_id": name,
            "video_uri": where,
            "instruction_ids": [str(place) for place in range(len(made))],
            "texts": [one.text for one in made],
            "carried": [],
        }
        for number, (name, (where, made)) in enumerate(videos.items())
    ]
    run.write_manifest(pa.Table.from_pylist(rows, schema=MANIFEST))
    for number, (name, (where, made)) in enumerate(videos.items()):
        tracks = [_track(name, where, place, one) for place, one in enumerate(made)]
        masks = [row for place, one in enumerate(made) for row in _masks(name, place, one)]
        tables = {
            "tracks": pa.Table.from_pylist(tracks, schema=TRACKS),
            "masks": pa.Table.from_pylist(masks, schema=MASKS),
        }
        run.commit_unit(unit_id(number), tables)
    return run


def write_benchmark(root: Path, videos: Sequence[str], masks: np.ndarray) -> None:
    """Writes a benchmark in ReVOS's layout: of each video one expression, whose true masks are `masks` (T, H, W) bool."""
    codes = [rle(mask) for mask in masks]
    expression = {"exp": "the box", "obj_id": [1], "anno_id": [0], "type_id": 0}
    frames, height, width = masks.shape
    about = {"expressions": {"0": expression}, "frames": stems(frames), "height": height, "width": width}
    metadata = {"videos": {name: about | {"vid_id": number} for number, name in enumerate(videos)}}
    foreground = {"masks_rle": codes, "foreground_ratio": [float(mask.mean()) for mask in masks]}
    for name, content in (
        ("meta_expressions_valid_.json", metadata),
        ("mask_dict.json", {"0": codes}),
        ("mask_dict_foreground.json", dict.fromkeys(videos, foreground)),
    ):
        (root / name).write_text(json.dumps(content))


def _track(name: str, where: str, place: int, made: Made) -> dict[str, Any]:
    frames, height, width = made.objects[0].shape if made.objects else (None, None, None)
    found = any(bool(masks.any()) for masks in made.objects)
    row: dict[str, Any] = dict.fromkeys(TRACKS.names)
    return row | {
        "video_id": name,
        "video_uri": where,
        "instruction_id": str(place),
        "text": made.text,
        "status": "ok" if found else "empty",
        "num_frames": frames,
        "height": height,
        "width": width,
        "num_objects": len(made.objects),
        "attempts": 1,
        "schema_version": SCHEMA_VERSION,
        "presence": 0.5,
        **dict(made.track),
    }


def _masks(name: str, place: int, made: Made) -> Iterator[dict[str, Any]]:
    for number, masks in enumerate(made.objects):
        for frame, code in enumerate(encode(masks)):
            yield mask_row(name, str(place), number, frame, code, masks.shape[1:])


def mask_row(
    video: str, instruction: str, number: int, frame: int, code: EncodedMask, size: Sequence[int]
) -> dict[str, Any]:
    """A row of `masks/`."""
    return {
        "video_id": video,
        "instruction_id": instruction,
        "object_id": number,
        "frame_index": frame,
        "height": size[0],
        "width": size[1],
        "rle": code.rle,
        "area": code.area,
        "bbox": list(code.bbox),
        "object_score": 2.0 if code.area else -2.0,
    }

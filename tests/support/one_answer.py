"""A run directory with one instruction whose masks a test gives."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.masks import rle
from vrshq.pipelines.label.asked.units import build_manifest
from vrshq.pipelines.label.tables.schema import MASKS, SCHEMA_VERSION, TRACKS


def write_run(
    uri: str, video: Path, frames: list[int], *objects: np.ndarray, scores: Sequence[float] = (), **track: Any
) -> RunDirectory:
    """A run of video `v` with instruction `0`, whose keyframe is the second frame.

    Args:
        uri: the run directory.
        video: the video's file or folder, which may be absent.
        frames: numbers of the labelled frames.
        objects: the masks of each object on them, (n, H, W) bool.
        scores: the object logit of each object; default 1.
        track: columns of `tracks/` that differ.
    """
    run = RunDirectory(uri)
    row = {"video_id": "v", "video_uri": str(video), "instruction_id": "0", "text": "the block"}
    run.write_manifest(
        build_manifest(pa.Table.from_pylist([row]), videos_root=None, base="/", max_instructions_per_unit=1)
    )
    height, width = objects[0].shape[1:]
    shown = {"video_id": "v", "instruction_id": "0", "height": height, "width": width}
    rows = [
        shown
        | {"object_id": number, "frame_index": frame, "rle": one.rle, "area": one.area, "bbox": list(one.bbox)}
        | {"object_score": scores[number] if scores else 1.0}
        for number, masks in enumerate(objects)
        for frame, one in zip(frames, rle.encode(masks), strict=True)
    ]
    about = row | {"status": "ok", "num_frames": frames[-1] + 1, "height": height, "width": width}
    about |= {"presence": 0.9, "attempts": 1, "schema_version": SCHEMA_VERSION, "keyframe_index": frames[1]}
    about |= {"num_objects": len(objects), **track}
    tables = {"tracks": pa.Table.from_pylist([about], schema=TRACKS), "masks": pa.Table.from_pylist(rows, schema=MASKS)}
    run.commit_unit(run.read_manifest()["unit_id"][0].as_py(), tables)
    return run

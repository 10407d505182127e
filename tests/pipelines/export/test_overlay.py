"""Promises of overlay videos: every labelled frame at its time and in its place, the mask in colour, the keyframe framed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow as pa
import pytest

from tests.support import clips
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.masks import rle
from vrshq.pipelines.drawing.masks import KEYFRAME_COLOR, MASK_COLOR
from vrshq.pipelines.export.run import export
from vrshq.pipelines.label.schema import MASKS, SCHEMA_VERSION, TRACKS
from vrshq.pipelines.label.units import build_manifest

TIMES = [0, 40, 80, 300, 340, 900, 950, 1000]  # milliseconds
HEIGHT, WIDTH = 192, 320


def write_run(uri: str, video: Path, frames: list[int], masks: np.ndarray, **track: Any) -> RunDirectory:
    """A run with one instruction: masks (n, H, W) bool on `frames`, the second of them the keyframe."""
    run = RunDirectory(uri)
    row = {"video_id": "v", "video_uri": str(video), "instruction_id": "0", "text": "the block"}
    run.write_manifest(
        build_manifest(pa.Table.from_pylist([row]), videos_root=None, base="/", max_instructions_per_unit=1)
    )
    shown = {
        "video_id": "v",
        "instruction_id": "0",
        "height": masks.shape[1],
        "width": masks.shape[2],
        "object_score": 1.0,
    }
    rows = [
        shown | {"object_id": 0, "frame_index": frame, "rle": one.rle, "area": one.area, "bbox": list(one.bbox)}
        for frame, one in zip(frames, rle.encode(masks), strict=True)
    ]
    about = row | {"status": "ok", "num_frames": frames[-1] + 1, "height": masks.shape[1], "width": masks.shape[2]}
    about |= {"presence": 0.9, "attempts": 1, "schema_version": SCHEMA_VERSION, "keyframe_index": frames[1], **track}
    tables = {"tracks": pa.Table.from_pylist([about], schema=TRACKS), "masks": pa.Table.from_pylist(rows, schema=MASKS)}
    run.commit_unit(run.read_manifest()["unit_id"][0].as_py(), tables)
    return run


def decoded(path: Path) -> tuple[list[np.ndarray], list[Fraction], Any]:
    """The frames of a video, their times in seconds, and its stream's facts."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        pictures = [frame.to_ndarray(format="rgb24") for frame in frames]
        times = [frame.pts * Fraction(frame.time_base) for frame in frames if frame.pts is not None and frame.time_base]
        return pictures, times, (stream.codec_context.name, stream.pix_fmt, stream.sample_aspect_ratio)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return clips.h264(tmp_path / "v.mp4", pts=TIMES, frames=len(TIMES), height=HEIGHT, width=WIDTH)


def test_each_frame_is_there_at_its_time_and_shows_what_it_showed(clip: Path, tmp_path: Path) -> None:
    masks = np.zeros((len(TIMES), HEIGHT, WIDTH), bool)
    run = write_run(str(tmp_path / "run"), clip, list(range(len(TIMES))), masks, status="empty")
    summary = export(run.uri, "overlay", str(tmp_path / "out"))
    assert summary.format == "overlay-mp4"
    pictures, times, about = decoded(tmp_path / "out" / "v" / "0.mp4")
    assert about[:2] == ("h264", "yuv420p")
    assert [clips.read_code(picture) for picture in pictures] == list(range(len(TIMES)))
    assert [round(time * 1000) for time in times] == TIMES


def test_the_mask_is_coloured_and_the_keyframe_framed(clip: Path, tmp_path: Path) -> None:
    masks = np.zeros((len(TIMES), HEIGHT, WIDTH), bool)
    masks[:, 40:100, 60:160] = True
    run = write_run(str(tmp_path / "run"), clip, list(range(len(TIMES))), masks)
    export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    source, _, _ = decoded(clip)
    shown, _, _ = decoded(tmp_path / "out" / "v" / "0.mp4")
    for number, (before, after) in enumerate(zip(source, shown, strict=True)):
        inside, outside = (slice(60, 80), slice(80, 140)), (slice(110, 150), slice(200, 300))
        expected = before[inside].mean((0, 1)) * 0.58 + np.array(MASK_COLOR) * 0.42
        assert np.abs(after[inside].mean((0, 1)) - expected).max() < 12
        assert np.abs(after[outside].astype(int) - before[outside]).mean() < 6
        border = np.abs(after[0, 20:300].mean(0) - KEYFRAME_COLOR).max() < 40
        assert border == (number == 1)


def test_odd_sides_spans_and_pixels_that_are_not_square(tmp_path: Path) -> None:
    folder = clips.image_folder(tmp_path / "frames", [f"{number:03d}.png" for number in range(6)])
    masks = np.zeros((3, 96, 160), bool)
    run = write_run(
        str(tmp_path / "run"), folder, [0, 2, 4], masks, num_frames=6, start=0, end=6, every=2, pixel_aspect=2.0
    )
    export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    pictures, times, about = decoded(tmp_path / "out" / "v" / "0.mp4")
    assert [picture.shape for picture in pictures] == [(96, 160, 3)] * 3
    assert times == [Fraction(number, 25) for number in (0, 2, 4)]
    assert about[2] == 2


def test_an_odd_size_gets_one_more_row_and_column(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "frames").mkdir()
    for number in range(2):
        Image.fromarray(np.full((47, 65, 3), 90 + number, np.uint8)).save(tmp_path / "frames" / f"{number}.png")
    run = write_run(str(tmp_path / "run"), tmp_path / "frames", [0, 1], np.zeros((2, 47, 65), bool))
    export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    pictures, _, _ = decoded(tmp_path / "out" / "v" / "0.mp4")
    assert [picture.shape for picture in pictures] == [(48, 66, 3)] * 2


def test_a_video_that_is_gone_is_a_note_and_the_rest_is_written(tmp_path: Path) -> None:
    masks = np.zeros((2, 16, 16), bool)
    run = write_run(str(tmp_path / "run"), tmp_path / "none.mp4", [0, 1], masks)
    summary = export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    assert any(note.startswith("v: no overlay, because the video cannot be read now: ") for note in summary.notes)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json"]
    assert "decoding" not in (tmp_path / "out" / "export.json").read_text()

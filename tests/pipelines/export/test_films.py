"""Promises of mask videos and cutouts: read back by PyAV they have the run's masks and pixels, at the video's own times."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import pytest
from PIL import Image

from tests.support import clips
from tests.support.one_answer import write_run
from vrshq.pipelines.export.cutouts import spread
from vrshq.pipelines.export.run import export

TIMES = [0, 40, 80, 300, 340, 900, 950, 1000]  # milliseconds
COUNT, HEIGHT, WIDTH = len(TIMES), 97, 161  # odd sides


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return clips.h264(tmp_path / "v.mp4", pts=TIMES, frames=COUNT, height=HEIGHT, width=WIDTH, pix_fmt="yuv444p")


@pytest.fixture
def objects() -> tuple[np.ndarray, np.ndarray]:
    """Two objects that overlap and move; the second is absent on the last frame; and noise, which no lossy codec keeps."""
    first, second = np.zeros((2, COUNT, HEIGHT, WIDTH), bool)
    for number in range(COUNT):
        first[number, 20:60, 30 + number : 80 + number] = True
        second[number, 40:90, 60 - number : 120 - number] = number < COUNT - 1
    first[:, :10] = np.random.default_rng(0).random((COUNT, 10, WIDTH)) > 0.5
    return first, second


def decoded(path: Path) -> Iterator[tuple[np.ndarray, Fraction]]:
    """The pictures (H, W, 3) uint8 and their times in seconds."""
    with av.open(str(path)) as container:
        for frame in container.decode(video=0):
            assert frame.pts is not None
            assert frame.time_base is not None
            yield frame.to_ndarray(format="rgb24"), frame.pts * Fraction(frame.time_base)


def with_alpha(path: Path) -> list[tuple[np.ndarray, float]]:
    """The pictures (H, W, 4) uint8 of a WebM film and their times; only libvpx's own decoder reads the alpha."""
    found = []
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.metadata["alpha_mode"] == "1"
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        for packet in container.demux(stream):
            frames: Any = decoder.decode(packet if packet.size else None)
            found += [(frame.to_ndarray(format="rgba"), float(frame.pts * (stream.time_base or 0))) for frame in frames]
    return found


def test_a_mask_film_has_each_pixel_of_each_object_at_its_time(
    clip: Path, objects: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    run = write_run(str(tmp_path / "run"), clip, list(range(COUNT)), *objects, scores=[1.0, 3.0])
    summary = export(run.uri, "mask-mp4", str(tmp_path / "out"))
    assert (summary.notes, summary.merged) == ([], 0)
    found = list(decoded(tmp_path / "out" / "v" / "0.mp4"))
    assert [round(time * 1000) for _, time in found] == TIMES
    first, second = objects
    expected = np.where(second, 254, np.where(first, 255, 0))  # the surer one wins
    assert np.array_equal(np.stack([picture for picture, _ in found]), np.repeat(expected[..., None], 3, 3))
    capture = cv2.VideoCapture(str(tmp_path / "out" / "v" / "0.mp4"))
    for values in expected:
        assert np.array_equal(capture.read()[1], np.repeat(values[..., None], 3, 2))


def test_a_mask_film_of_one_object_is_black_and_white(
    clip: Path, objects: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    run = write_run(str(tmp_path / "run"), clip, list(range(COUNT)), objects[0])
    export(run.uri, "mask-video", str(tmp_path / "out"))
    found = np.stack([picture[..., 0] for picture, _ in decoded(tmp_path / "out" / "v" / "0.mp4")])
    assert np.array_equal(found, objects[0] * 255)


def test_a_mask_film_without_its_video_has_25_frames_a_second_and_a_note(
    objects: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    run = write_run(
        *(str(tmp_path / "run"), tmp_path / "none.mp4", [0, 2, 4], objects[0][:3]),
        num_frames=6,
        start=0,
        end=6,
        every=2,
    )
    summary = export(run.uri, "mask-mp4", str(tmp_path / "out"))
    assert any(note.startswith("v: shown at 25 frames a second, because ") for note in summary.notes)
    assert [time for _, time in decoded(tmp_path / "out" / "v" / "0.mp4")] == [Fraction(n, 25) for n in (0, 2, 4)]


def test_cutouts_hold_the_objects_own_pixels_and_nothing_else(
    clip: Path, objects: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    run = write_run(str(tmp_path / "run"), clip, list(range(COUNT)), *objects)
    export(run.uri, "cutout", str(tmp_path / "out"))
    source = np.stack([picture for picture, _ in decoded(clip)])
    for number, masks in enumerate(objects):
        folder = tmp_path / "out" / "v" / "0" / str(number)
        assert sorted(path.name for path in folder.iterdir()) == [f"{n:05d}.png" for n in range(COUNT)]
        for index, mask in enumerate(masks):
            image = Image.open(folder / f"{index:05d}.png")
            assert image.mode == "RGBA"
            found = np.asarray(image)
            assert np.array_equal(found[..., 3], mask * 255)
            assert np.array_equal(found[mask][:, :3], source[index][mask])
            assert not found[~mask].any()


def test_cutout_films_have_the_mask_as_alpha_at_the_videos_times(
    clip: Path, objects: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    smooth = [masks.copy() for masks in objects]
    smooth[0][:, :10] = False
    run = write_run(str(tmp_path / "run"), clip, list(range(COUNT)), *smooth)
    export(run.uri, "cutout-webm", str(tmp_path / "out"))
    source = np.stack([picture for picture, _ in decoded(clip)])
    for number, masks in enumerate(smooth):
        found = with_alpha(tmp_path / "out" / "v" / "0" / f"{number}.webm")
        assert [round(time * 1000) for _, time in found] == TIMES
        for index, ((picture, _), mask) in enumerate(zip(found, masks, strict=True)):
            assert picture.shape == (HEIGHT, WIDTH, 4)
            inner = cv2.erode(mask.astype(np.uint8), np.ones((3, 3))) > 0
            outer = cv2.dilate(mask.astype(np.uint8), np.ones((3, 3))) > 0
            assert (picture[inner][:, 3] > 200).all()
            assert (picture[~outer][:, 3] < 55).all()
            if mask.any():
                assert np.abs(picture[inner][:, :3].astype(int) - source[index][inner]).mean() < 12


def test_what_is_transparent_shows_nothing_of_the_video() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (60, 80, 3)).astype(np.uint8)
    inside = np.zeros((60, 80), np.uint8)
    inside[20:30, 20:40] = 1
    other = picture.copy()
    other[inside == 0] = 7
    found = spread(picture, inside)
    assert np.array_equal(found, spread(other, inside))
    assert np.array_equal(found[inside > 0], picture[inside > 0])
    assert np.abs(found[50, 70].astype(float) - picture[inside > 0].mean(0)).max() < 1
    assert not spread(picture, np.zeros((60, 80), np.uint8)).any()


@pytest.mark.parametrize("name", ["overlay-mp4", "mask-mp4", "cutout", "cutout-webm", "yolo-seg"])
def test_no_more_pictures_are_held_of_a_longer_video(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("vrshq.pipelines.label.decoding.KEPT_BYTES", 0)
    peaks = []
    for count in (100, 300):  # 200 pictures are 9 MB; a reader holds a group of them at a time
        masks = np.zeros((count, 96, 160), bool)
        masks[:, 20:50, 30:90] = True
        clip = clips.h264(tmp_path / f"{count}.mp4", frames=count)
        run = write_run(str(tmp_path / f"run-{count}"), clip, list(range(count)), masks)
        tracemalloc.start()
        export(run.uri, name, str(tmp_path / f"out-{count}"))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] - peaks[0] < 3_000_000


@pytest.mark.parametrize("name", ["cutout", "cutout-webm"])
def test_cutouts_of_a_video_that_is_gone_are_a_note(
    name: str, objects: tuple[np.ndarray, np.ndarray], tmp_path: Path
) -> None:
    run = write_run(str(tmp_path / "run"), tmp_path / "none.mp4", list(range(COUNT)), *objects)
    summary = export(run.uri, name, str(tmp_path / "out"))
    assert any(note.startswith("v: no cutouts, because the video cannot be read now: ") for note in summary.notes)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json"]

"""Pixels that are not square: the networks see the picture as people do, and frames and masks stay on the stored pixels."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image

from tests.support.array_video import ArrayVideo, unit_batch
from tests.support.clips import h264, read_code
from vrshq.operators.batch import close_videos, new_batch
from vrshq.operators.decode import Decode
from vrshq.operators.models.config import TowerConfig
from vrshq.operators.models.preprocess import clip_input, sam2_input, tower_input
from vrshq.operators.presample import PreSample, PreSampleConfig
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.pixel_aspect import displayed_size
from vrshq.operators.video.video import open_video
from vrshq.pipelines.label.tables.rows import unit_tables

TOWER = TowerConfig(image_size=56, patch_size=14, view="whole")


def blocks(height: int, width: int) -> np.ndarray:
    """A frame (1, H, W, 3) of blocks of 16 pixels, which survives that every other row or column is left out."""
    random = np.random.default_rng(0)
    coarse = random.integers(0, 256, (1, height // 16, width // 16, 3), dtype=np.uint8)
    return coarse.repeat(16, axis=1).repeat(16, axis=2)


@pytest.mark.parametrize("decord", [True, False])
@pytest.mark.parametrize("suffix", [".mp4", ".mkv"])
@pytest.mark.parametrize("ratio", [Fraction(2), Fraction(8, 9), Fraction(1)])
def test_the_ratio_is_that_of_the_file_and_frames_stay_as_stored(
    ratio: Fraction, suffix: str, decord: bool, tmp_path: Path
) -> None:
    path = h264(tmp_path / f"clip{suffix}", frames=8, pixel_aspect=ratio)
    with open_video(str(path), DecodeConfig(decord=decord)) as video:
        assert video.pixel_aspect == pytest.approx(float(ratio))
        frames = video.frames(range(8))
        assert frames.shape == (8, 96, 160, 3)
        assert [read_code(frame) for frame in frames] == list(range(8))


def test_a_quarter_turn_exchanges_width_and_height_of_the_pixels(tmp_path: Path) -> None:
    path = h264(tmp_path / "clip.mp4", frames=8, height=160, width=96, rotation=90, pixel_aspect=Fraction(2))
    with open_video(str(path)) as video:
        assert (video.height, video.width, video.pixel_aspect) == (96, 160, 0.5)


def test_a_file_without_a_ratio_has_square_pixels(tmp_path: Path) -> None:
    with open_video(str(h264(tmp_path / "clip.mp4", frames=8))) as video:
        assert video.pixel_aspect == 1.0


def test_people_see_frames_wider_or_higher_and_never_smaller() -> None:
    assert displayed_size(180, 160, 2.0) == (180, 320)
    assert displayed_size(480, 720, 8 / 9) == (540, 720)
    assert displayed_size(97, 161, 1.0) == (97, 161)


NETWORKS: dict[str, Callable[[np.ndarray, float], torch.Tensor]] = {
    "SAM2": lambda frames, ratio: sam2_input(frames, 64, ratio)[0],
    "CLIP": lambda frames, ratio: clip_input(frames, 64, ratio),
    "MLLM": lambda frames, ratio: tower_input(frames, TOWER, ratio),
}


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("shape", [(192, 320), (320, 192), (192, 192)])
def test_each_network_sees_the_picture_that_people_see(network: str, shape: tuple[int, int]) -> None:
    seen, prepare = blocks(*shape), NETWORKS[network]
    expected = prepare(seen, 1.0)
    for stored, ratio in ((seen[:, :, ::2], 2.0), (seen[:, ::2], 0.5)):
        given = prepare(stored, ratio)
        assert given.shape == expected.shape
        assert (given - expected).abs().mean() < 0.02  # of a standard deviation; 0.6 to 1.2 where the ratio is ignored


def test_square_pixels_change_no_bit() -> None:
    for shape in ((97, 161), (161, 97), (8, 500)):
        frames = np.random.default_rng(1).integers(0, 256, (2, *shape, 3), dtype=np.uint8)
        assert torch.equal(sam2_input(frames, 64)[0], sam2_input(frames, 64, 1.0)[0])
        resized = sam2_input(frames, 64)[1]
        image = Image.fromarray(frames[0]).resize(resized[::-1], Image.Resampling.BILINEAR)
        expected = (np.asarray(image, np.float32) - np.array([123.675, 116.28, 103.53], np.float32)) / np.array(
            [58.395, 57.12, 57.375], np.float32
        )
        np.testing.assert_array_equal(
            sam2_input(frames, 64)[0][0, :, : resized[0], : resized[1]].permute(1, 2, 0).numpy(), expected
        )


def test_the_masks_place_in_the_networks_square_has_the_pictures_shape() -> None:
    _, resized = sam2_input(np.zeros((1, 180, 160, 3), np.uint8), 64, 2.0)
    assert resized == (36, 64)


def test_a_ratio_that_must_be_a_mistake_is_ignored(tmp_path: Path) -> None:
    with open_video(str(h264(tmp_path / "clip.mp4", frames=8, pixel_aspect=Fraction(100)))) as video:
        assert video.pixel_aspect == 1.0


def test_pre_sampling_sees_a_squeezed_video_as_the_original() -> None:
    operator = PreSample(PreSampleConfig(model="untrained-tiny"))
    original, squeezed, ignored = ArrayVideo(12, 128, 256), ArrayVideo(12), ArrayVideo(12)
    for video in (squeezed, ignored):
        video.array, video.height, video.width = original.array[:, :, ::2], 128, 128
    squeezed.pixel_aspect = 2.0
    rows = [
        np.array(operator(unit_batch(video, ["the red circle"]))["clip_probs"][0][0])
        for video in (original, squeezed, ignored)
    ]
    assert np.abs(rows[1] - rows[0]).max() < 0.2 * np.abs(rows[2] - rows[0]).max()


def test_the_ratio_is_a_column_of_tracks(tmp_path: Path) -> None:
    uris = [str(h264(tmp_path / "wide.mp4", frames=8, pixel_aspect=Fraction(2))), str(tmp_path / "none.mp4")]
    batch = Decode()(
        new_batch(
            {"unit_id": uri, "video_id": uri, "video_uri": uri, "instruction_ids": ["0"], "texts": ["a"]}
            for uri in uris
        )
    )
    batch = close_videos(batch)
    found = []
    for index in range(2):
        unit = {column: values[index] for column, values in batch.items()}
        unit["errors"] = [unit["errors"][0] or {"stage": "tokens", "error_type": "E", "message": "for a test"}]
        found += unit_tables(unit, pa.schema([]))["tracks"].select(["height", "width", "pixel_aspect"]).to_pylist()
    assert found == [
        {"height": 96, "width": 160, "pixel_aspect": 2.0},
        {"height": None, "width": None, "pixel_aspect": None},
    ]

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vrshq.operators.models.config import CLIP_MEAN, CLIP_STD, ModelConfig, TowerConfig
from vrshq.operators.models.preprocess import (
    CLIP_SCALE,
    IMAGENET_SCALE,
    SAM2_MEAN,
    SAM2_SCALE,
    SAM2_STD,
    Pixels,
    Scale,
    View,
    clip_input,
    clip_pixels,
    sam2_input,
    sam2_pixels,
    sam2_size,
    square_input,
    square_pixels,
    tower_input,
    tower_pixels,
    tower_view,
)


def noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * width).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("frame", "resized"),
    [((180, 320), (144, 256)), ((144, 100), (256, 178)), ((256, 256), (256, 256)), ((1, 2000), (1, 256))],
)
def test_sam2_size_puts_the_longest_side_on_the_image_size(frame: tuple[int, int], resized: tuple[int, int]) -> None:
    assert sam2_size(*frame, 256) == resized


def test_sam2_input_pads_right_and_below_with_the_mean_colour() -> None:
    pixels, (height, width) = sam2_input(noise(2, 30, 64), 32)
    assert (pixels.shape, height, width) == ((2, 3, 32, 32), 15, 32)
    assert (pixels[:, :, height:] == 0).all()
    assert (pixels[:, :, :height] != 0).any()


def test_sam2_input_of_a_frame_of_its_own_size_is_only_normalised() -> None:
    frames = noise(1, 32, 32)
    pixels, _ = sam2_input(frames, 32)
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0), (frames[0] - np.array(SAM2_MEAN)) / SAM2_STD, atol=1e-5)


@pytest.mark.parametrize(("height", "width"), [(48, 80), (80, 48), (37, 53), (16, 16), (3, 40)])
def test_clip_input_is_the_centre_of_the_resized_frame(height: int, width: int) -> None:
    frames, size = noise(1, height, width), 32
    short = min(height, width)
    new_height, new_width = int(size * height / short), int(size * width / short)
    resized = np.array(Image.fromarray(frames[0]).resize((new_width, new_height), Image.Resampling.BICUBIC))
    top, left = (new_height - size) // 2, (new_width - size) // 2
    want = (resized[top : top + size, left : left + size] / 255 - np.array(CLIP_MEAN)) / CLIP_STD
    np.testing.assert_allclose(clip_input(frames, size)[0].permute(1, 2, 0), want, atol=1e-5)


def test_clip_input_of_a_very_long_frame_takes_its_centre_without_resizing_all_of_it() -> None:
    frames = np.zeros((1, 2, 100_000, 3), np.uint8)
    frames[:, :, 49_999:50_001] = 255
    pixels = clip_input(frames, 224)
    assert pixels.shape == (1, 3, 224, 224)
    assert (pixels.amax((1, 2, 3)) > 1.5).all()


@pytest.mark.parametrize(("height", "width"), [(48, 80), (80, 48), (64, 64)])
def test_a_tower_that_sees_the_centre_gets_what_clip_gets(height: int, width: int) -> None:
    frames, tower = noise(2, height, width), TowerConfig(image_size=32, patch_size=8)
    assert torch.equal(tower_input(frames, tower), clip_input(frames, 32))
    view = tower_view(height, width, tower)
    assert (view.height, view.width, view.rows, view.columns) == (min(height, width), min(height, width), 4, 4)
    assert (2 * view.top + view.height, 2 * view.left + view.width) == (height, width)


@pytest.mark.parametrize(
    ("frame", "grid"),
    [
        ((90, 160), (12, 21)),
        ((160, 90), (21, 12)),
        ((120, 160), (14, 18)),
        ((64, 64), (16, 16)),
        ((1, 10_000), (1, 256)),
    ],
)
def test_a_tower_that_sees_the_whole_frame_has_as_many_patches_in_the_frames_aspect(
    frame: tuple[int, int], grid: tuple[int, int]
) -> None:
    tower = TowerConfig(image_size=128, patch_size=8, view="whole")
    frames = noise(1, *frame)
    assert tower_view(*frame, tower) == View(0, 0, frame[1], frame[0], *grid)
    pixels = tower_input(frames, tower)
    assert pixels.shape == (1, 3, 8 * grid[0], 8 * grid[1])
    resized = np.array(Image.fromarray(frames[0]).resize((8 * grid[1], 8 * grid[0]), Image.Resampling.BICUBIC))
    want = (resized / 255 - np.array(CLIP_MEAN)) / CLIP_STD
    np.testing.assert_allclose(pixels[0].permute(1, 2, 0), want, atol=1e-5)


@given(st.integers(1, 3000), st.integers(1, 3000), st.integers(1, 24))
def test_no_view_has_more_patches_than_the_square_or_less_than_half_of_them(height: int, width: int, side: int) -> None:
    tower = TowerConfig(image_size=8 * side, patch_size=8, view="whole")
    view, turned = tower_view(height, width, tower), tower_view(width, height, tower)
    assert side**2 / 2 <= view.rows * view.columns <= side**2
    assert (view.rows, view.columns) == (turned.columns, turned.rows)


def test_a_view_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ValueError, match=r"tower\.view 'left': expected centre or whole"):
        ModelConfig.from_dict({"tower": {"view": "left"}})


def test_frames_do_not_influence_each_other() -> None:
    frames = noise(3, 20, 50)
    assert torch.equal(clip_input(frames, 16)[1:2], clip_input(frames[1:2], 16))
    assert torch.equal(sam2_input(frames, 16)[0][1:2], sam2_input(frames[1:2], 16)[0])


TOWERS = [TowerConfig(image_size=32, patch_size=8, view=view) for view in ("centre", "whole")]


def normalized_by_numpy(rows: np.ndarray, scale: Scale) -> np.ndarray:
    """The values (n, 3, h, w) of frames (n, h, w, 3), on the host in float32."""
    values: np.ndarray = rows.astype(np.float32)
    if scale.unit != 1:
        values = values / np.float32(scale.unit)
    values = (values - np.array(scale.mean, np.float32)) / np.array(scale.std, np.float32)
    return values.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("scale", [SAM2_SCALE, IMAGENET_SCALE, CLIP_SCALE], ids=["sam2", "imagenet", "clip"])
@pytest.mark.parametrize("square", [None, 20])
def test_every_byte_becomes_the_value_of_float32_arithmetic_on_the_host(scale: Scale, square: int | None) -> None:
    rows = np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1).repeat(3, axis=3)
    want = np.zeros((1, 3, square or 16, square or 16), np.float32)
    want[..., :16, :16] = normalized_by_numpy(rows, scale)
    pixels = Pixels(torch.from_numpy(rows), scale, square)
    assert torch.equal(pixels.on("cpu"), torch.from_numpy(want))
    assert torch.equal(pixels.on("cpu", torch.bfloat16), torch.from_numpy(want).to(torch.bfloat16))


@pytest.mark.parametrize(("height", "width"), [(48, 80), (80, 48), (37, 53), (16, 16), (3, 40)])
def test_inputs_are_bit_equal_to_frames_resized_and_normalised_on_the_host(height: int, width: int) -> None:
    frames, size = noise(2, height, width), 32
    resized = [
        np.array(Image.fromarray(one).resize(sam2_size(height, width, size)[::-1], Image.Resampling.BILINEAR))
        for one in frames
    ]
    padded = np.zeros((2, 3, size, size), np.float32)
    covered = resized[0].shape[:2]
    padded[:, :, : covered[0], : covered[1]] = normalized_by_numpy(np.stack(resized), SAM2_SCALE)
    found, found_covered = sam2_input(frames, size)
    assert torch.equal(found, torch.from_numpy(padded))
    assert found_covered == covered
    square = np.stack([np.array(Image.fromarray(one).resize((size, size), Image.Resampling.BICUBIC)) for one in frames])
    found, found_covered = square_input(frames, size)
    assert torch.equal(found, torch.from_numpy(normalized_by_numpy(square, IMAGENET_SCALE)))
    assert found_covered == (size, size)
    for tower in TOWERS:
        rows = tower_pixels(frames, tower).rows.numpy()
        want = normalized_by_numpy(rows, CLIP_SCALE)
        assert torch.equal(tower_input(frames, tower), torch.from_numpy(want))


def test_a_device_gets_bytes_of_the_frame_alone() -> None:
    frames = noise(2, 30, 64)
    for pixels in (
        sam2_pixels(frames, 32),
        square_pixels(frames, 32),
        clip_pixels(frames, 32),
        *(tower_pixels(frames, one) for one in TOWERS),
    ):
        assert pixels.rows.dtype == torch.uint8
        assert pixels.rows.is_contiguous()
        assert pixels.on("cpu").nbytes >= 4 * pixels.rows.nbytes
        assert pixels.on("cpu").is_contiguous()
    assert sam2_pixels(frames, 32).rows.shape == (2, 15, 32, 3)  # no padding


def test_no_values_of_the_host_are_copied_but_the_bytes_and_nine_constants() -> None:
    pixels = sam2_pixels(noise(4, 30, 64), 32)
    on_meta = pixels.on("meta", torch.bfloat16)  # an operation with a tensor left on the host would raise
    assert (on_meta.shape, on_meta.dtype, on_meta.device.type) == ((4, 3, 32, 32), torch.bfloat16, "meta")


def test_joined_frames_are_the_frames() -> None:
    frames = noise(3, 20, 50)
    joined = Pixels.concatenate([clip_pixels(one[None], 16) for one in frames])
    assert torch.equal(joined.rows, clip_pixels(frames, 16).rows)
    assert joined.scale == CLIP_SCALE

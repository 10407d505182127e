"""Masks agree with the pixels, and colours with their names."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operators.synth.helpers import SMALL, expressions, videos
from vrshq.operators.synth import make_video
from vrshq.operators.synth.colours import COLOURS, Colour, rgb
from vrshq.operators.synth.coverage import Patch, cover, layer


def test_masks_never_overlap_and_agree_with_the_records() -> None:
    for video in videos():
        assert video.masks.dtype == bool
        assert video.masks.shape == (len(video.objects), *video.frames.shape[:3])
        assert video.masks.sum(axis=0).max() <= 1
        for item, mask in zip(video.objects, video.masks, strict=True):
            area = mask.sum(axis=(1, 2))
            # a mask is thresholded at half coverage, so it differs from the covered area along the outline only
            outline = 8 * np.sqrt(item.area.max())
            assert np.abs(area - item.visible).max() <= (0.35 if "motion blur" in video.effects else 0.2) * outline
            assert (item.visible <= item.inside + 1e-6).all()
            assert not area[item.inside == 0].any()


def test_every_object_is_visible_in_three_frames() -> None:
    for video in videos():
        for item, mask in zip(video.objects, video.masks, strict=True):
            shows = mask.sum(axis=(1, 2)) >= 20
            assert shows.sum() >= 3, (video.video_id, item.object_id)


@settings(max_examples=60, deadline=None)
@given(
    st.floats(20, 60), st.floats(20, 60), st.floats(6, 18), st.floats(0, 6.28), st.sampled_from(["square", "triangle"])
)
def test_coverage_adds_up_to_the_area_of_the_outline(
    x: float, y: float, radius: float, angle: float, name: str
) -> None:
    corners = {"square": 4, "triangle": 3}[name]
    turns = angle + np.arange(corners) * 2 * np.pi / corners
    contour = np.stack([x + radius * np.cos(turns), y + radius * np.sin(turns)], axis=1)
    area = corners / 2 * radius**2 * np.sin(2 * np.pi / corners)
    patch = cover([contour], 80, 80, np.zeros(2))
    assert patch is not None
    # 4 x 4 samples per pixel, with the edge filled: the error is at most a quarter of a pixel along the outline
    assert abs(patch.coverage.sum() - area) <= 0.25 * corners * 2 * radius * np.sin(np.pi / corners) + 1
    middle = patch.coverage[int(y) - patch.top, int(x) - patch.left]
    assert middle == 1


def test_an_outline_covers_pixels_inside_the_frame_only() -> None:
    square = np.array([[0.0, 0], [10, 0], [10, 10], [0, 10]])
    assert cover([square - 30], 40, 40, np.zeros(2)) is None
    half = cover([square - [5, 0]], 40, 40, np.zeros(2))
    assert half is not None
    assert half.coverage.sum() == pytest.approx(50, abs=4)


def test_motion_blur_keeps_the_covered_area_and_spreads_it_along_the_motion() -> None:
    square = np.array([[20.0, 20], [30, 20], [30, 30], [20, 30]])
    sharp, streaked = cover([square], 60, 60, np.zeros(2)), cover([square], 60, 60, np.array([8.0, 0]))
    assert sharp is not None
    assert streaked is not None
    assert streaked.coverage.sum() == pytest.approx(sharp.coverage.sum(), rel=0.02)
    assert (streaked.coverage.sum(axis=1) > 0.05).sum() == (sharp.coverage.sum(axis=1) > 0.05).sum()
    assert (streaked.coverage.sum(axis=0) > 0.05).sum() >= (sharp.coverage.sum(axis=0) > 0.05).sum() + 6


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 5))
def test_a_pixel_belongs_to_the_front_object_of_those_that_fill_half_of_it(seed: int, count: int) -> None:
    random = np.random.default_rng(seed)
    # coverages are multiples of a quarter, so that exact halves are frequent
    patches = [
        Patch(int(random.integers(4)), int(random.integers(4)), (random.integers(0, 5, (6, 7)) / 4).astype(np.float32))
        for _ in range(count)
    ]
    result = layer([list(patches)], 12, 12)
    uncovered = np.ones((12, 12))
    for number in reversed(range(count)):
        coverage = np.zeros((12, 12))
        coverage[patches[number].window] = patches[number].coverage
        shows = coverage * uncovered
        in_front = result.masks[number + 1 :, 0].any(axis=0)
        assert np.array_equal(result.masks[number, 0], (shows >= 0.5) & ~in_front)
        assert result.visible[number, 0] == pytest.approx(shows.sum())
        uncovered *= 1 - coverage


def middle_of(colour: Colour) -> np.ndarray:
    """RGB in the middle of a colour's ranges."""
    hue, saturation, value = (float(np.mean(part)) for part in (colour.hue, colour.saturation, colour.value))
    return rgb(hue % 360, saturation, value)


def test_colours_in_the_frames_fit_their_names() -> None:
    """The mean colour in an object's mask is closest to the middle of its own name's range."""
    middles = {name: middle_of(colour) for name, colour in COLOURS.items()}
    names = list(middles)
    plain = replace(SMALL, effects=0.0)
    wrong, total = 0, 0
    for index in range(60):
        video = make_video(2, index, "train", plain)
        for item, mask in zip(video.objects, video.masks, strict=True):
            pixels = video.frames[mask].mean(axis=0)
            colours = np.stack([pixels, *(middles[name] for name in names)]).astype(np.float32)[None] / 255
            lab = cv2.cvtColor(colours, cv2.COLOR_RGB2LAB)[0]
            nearest = names[int(np.linalg.norm(lab[1:] - lab[0], axis=1).argmin())]
            wrong, total = wrong + (nearest != item.colour), total + 1
    assert total > 150
    assert wrong <= 0.02 * total


def test_no_absent_instruction_names_the_colour_of_the_background() -> None:
    for video, expression in expressions():
        background = video.frames[0][~video.masks[:, 0].any(axis=0)].mean(axis=0)
        if expression.kind == "absent" and expression.subtype == "colour":
            middle = middle_of(COLOURS[expression.names["colour"]])
            pair = np.stack([background, middle]).astype(np.float32)[None] / 255
            one, other = cv2.cvtColor(pair, cv2.COLOR_RGB2LAB)[0]
            assert np.linalg.norm(one - other) >= 20, (video.video_id, expression.text)


def test_objects_differ_in_colour_from_the_background_around_them() -> None:
    plain = replace(SMALL, effects=0.0)
    faint = []
    for index in range(60):
        video = make_video(3, index, "train", plain)
        background = ~np.asarray(video.masks.any(axis=0))
        frames = cv2.cvtColor(video.frames[0].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)
        for mask in video.masks[:, 0]:
            ring = cv2.dilate(mask.astype(np.uint8), np.ones((9, 9))).astype(bool) & background[0]
            if mask.sum() >= 30 and ring.sum() >= 30:
                faint.append(np.linalg.norm(frames[mask].mean(axis=0) - frames[ring].mean(axis=0)) < 15)
    assert len(faint) > 100
    assert np.mean(faint) <= 0.02

"""Frames resized in integers are Pillow's, byte for byte; a device that does not give them is not used."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.benchmarks.bench_pixels import operations
from vrshq.operators.models import preprocess, resample
from vrshq.operators.models.config import TowerConfig
from vrshq.operators.models.preprocess import clip_pixels, resized_there, sam2_pixels, square_pixels, tower_pixels
from vrshq.operators.models.resample import Filter, Resize, pillow_order

CPU = torch.device("cpu")
FRAMES = [(480, 854), (1080, 1920), (854, 480), (1920, 1080), (144, 100), (30, 64), (1, 200), (16, 16)]


def noise(count: int, height: int, width: int, *, hard: bool = False) -> np.ndarray:
    """Random bytes; with `hard` only 0 and 255, whose sums leave the range of a byte most often."""
    made = np.random.default_rng(height * width).integers(0, 256, (count, height, width, 3), dtype=np.uint8)
    return np.where(made > 127, np.uint8(255), np.uint8(0)) if hard else made


@pytest.mark.parametrize("size", FRAMES)
@pytest.mark.parametrize("hard", [False, True])
def test_inputs_resized_on_a_device_are_those_of_pillow(
    size: tuple[int, int], hard: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    frames = noise(2, *size, hard=hard)
    tower = TowerConfig(image_size=56, patch_size=14, view="whole")

    def made() -> list[torch.Tensor]:
        inputs = (
            sam2_pixels(frames, 256),
            square_pixels(frames, 128),
            clip_pixels(frames, 112),
            tower_pixels(frames, tower),
        )
        return [one.rows for one in inputs]

    want = made()

    def there(given: np.ndarray, resize: Resize, device: torch.device) -> torch.Tensor:
        order = pillow_order(given.shape[1:3], resize, device)
        assert order is not None
        return resized_there(given, resize, order, device)

    monkeypatch.setattr(preprocess, "_resized", there)
    assert all(torch.equal(found, one) for found, one in zip(made(), want, strict=True))


sides, results = st.integers(1, 90), st.integers(8, 90)  # the order is sure from windows of 16 pixels on


@settings(max_examples=80, deadline=None)
@given(st.tuples(sides, sides), st.tuples(results, results), st.sampled_from(["bilinear", "bicubic"]), st.booleans())
def test_any_size_and_any_window_of_it_are_those_of_pillow(
    source: tuple[int, int], size: tuple[int, int], kind: Filter, hard: bool
) -> None:
    kept = max(1, size[0] // 2), max(1, size[1] // 2)
    resize = Resize(size, kind, (size[0] - kept[0]) // 2, (size[1] - kept[1]) // 2, kept)
    order = pillow_order(source, resize, CPU)
    assert order is not None
    frames = noise(1, *source, hard=hard)
    assert np.array_equal(resized_there(frames, resize, order, CPU)[0].numpy(), resize.by_pillow(frames[0]))


@pytest.mark.parametrize(
    ("source", "size", "kind"),
    [
        ((88, 20), (2, 7), "bilinear"),
        ((13, 5), (5, 3), "bilinear"),
        ((48, 8), (4, 1), "bicubic"),
        ((37, 18), (2, 13), "bicubic"),
    ],
)
def test_the_order_of_pillow_is_found_for_windows_of_a_few_pixels(
    source: tuple[int, int], size: tuple[int, int], kind: Filter
) -> None:
    """On one frame both orders gave Pillow's bytes, and the wrong one was taken."""
    kept = max(1, size[0] // 2), max(1, size[1] // 2)
    resize = Resize(size, kind, (size[0] - kept[0]) // 2, (size[1] - kept[1]) // 2, kept)
    order = pillow_order(source, resize, CPU)
    assert order is not None
    for seed in range(200):
        frame = np.random.default_rng(seed).integers(0, 256, (1, *source, 3), dtype=np.uint8)
        assert np.array_equal(resized_there(frame, resize, order, CPU)[0].numpy(), resize.by_pillow(frame[0]))


def test_frames_resized_in_pieces_are_those_of_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resample, "_MOST", 5000)
    pillow_order.cache_clear()
    for source, size in (((60, 90), (32, 48)), ((90, 60), (48, 40))):
        resize = Resize(size, "bicubic", 0, 0, size)
        order = pillow_order(source, resize, CPU)
        assert order is not None
        frames = noise(1, *source)
        assert np.array_equal(resized_there(frames, resize, order, CPU)[0].numpy(), resize.by_pillow(frames[0]))
    pillow_order.cache_clear()


def test_a_device_that_does_not_give_pillows_bytes_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    right = resample.resample
    monkeypatch.setattr(resample, "resample", lambda *args: right(*args) ^ 1)
    pillow_order.cache_clear()
    assert pillow_order((20, 30), Resize((10, 15), "bilinear", 0, 0, (10, 15)), CPU) is None
    pillow_order.cache_clear()


def test_a_size_is_tried_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    right = Resize.by_pillow
    monkeypatch.setattr(Resize, "by_pillow", lambda self, frame: calls.append(1) or right(self, frame))  # type: ignore[func-returns-value]
    pillow_order.cache_clear()
    resize = Resize((64, 64), "bicubic", 0, 0, (64, 64))
    assert pillow_order((80, 90), resize, CPU) == pillow_order((80, 90), resize, CPU)
    assert len(calls) == 1


@pytest.mark.parametrize("size", [(480, 854), (1080, 1920), (2160, 3840)])
def test_a_device_is_given_few_operations_whatever_the_size(size: tuple[int, int]) -> None:
    frame = noise(1, *size)[0]
    assert operations(lambda one: sam2_pixels(one[None], 1024), frame) <= 24
    assert operations(lambda one: clip_pixels(one[None], 336), frame) <= 24

"""Filled holes: every way to fill them equals labelling each mask with its areas, as SAM2 does on a GPU."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from torch import Tensor

from vrshq.operators.masks.holes import fill_holes


def filled_by_statistics(low_res: Tensor, hole_area: int) -> Tensor:
    """The holes of each mask from the areas of all its regions."""
    background = (low_res <= 0).to(torch.uint8).numpy()
    holes = np.zeros(background.shape, dtype=bool)
    for index, image in enumerate(background):
        _, labels, stats, _ = cv2.connectedComponentsWithStats(image, connectivity=8)
        small = stats[:, cv2.CC_STAT_AREA] <= hole_area
        small[0] = False
        holes[index] = small[labels]
    return torch.where(torch.from_numpy(holes), 0.1, low_res)


def smooth(seed: int, side: int, blur: float) -> np.ndarray:
    """Four masks of logits with blobs and holes of about `blur` pixels."""
    noise = np.random.default_rng(seed).standard_normal((4, side, side)).astype(np.float32)
    return np.stack([cv2.GaussianBlur(one, (0, 0), blur) for one in noise])


@settings(max_examples=150, deadline=None)
@given(
    arrays(
        np.float32,
        array_shapes(min_dims=3, max_dims=3, max_side=20),
        elements=st.sampled_from([-3.0, 0.0, 2.0, 0.5]),
    ),
    st.integers(0, 30),
)
def test_filled_masks_equal_those_filled_from_the_areas_of_all_regions(logits: np.ndarray, area: int) -> None:
    low_res = torch.from_numpy(logits)
    filled = fill_holes(low_res, area)
    assert torch.equal(filled, filled_by_statistics(low_res, area))
    assert torch.equal(fill_holes(filled, area), filled)
    assert torch.equal(filled, torch.cat([fill_holes(one[None], area) for one in low_res]))


@pytest.mark.parametrize("blur", [0.6, 1.5, 6.0])
@pytest.mark.parametrize("area", [1, 8, 200])
def test_masks_of_the_models_size_are_filled_alike(blur: float, area: int) -> None:
    low_res = torch.from_numpy(smooth(int(10 * blur), 256, blur))
    assert torch.equal(fill_holes(low_res, area), filled_by_statistics(low_res, area))


def test_more_regions_than_short_numbers_count_are_told_apart() -> None:
    logits = np.full((1, 600, 600), 1.0, np.float32)
    logits[:, ::2, ::2] = -1.0
    low_res = torch.from_numpy(logits)
    assert (fill_holes(low_res, 1) > 0).all()


@pytest.mark.parametrize("value", [-1.0, 0.0, 1.0])
def test_masks_without_a_hole_are_returned_as_they_are(value: float) -> None:
    low_res = torch.full((3, 16, 16), value)
    assert fill_holes(low_res, 8) is low_res


def test_a_batch_is_copied_to_the_host_once(monkeypatch: pytest.MonkeyPatch) -> None:
    copies = []
    cpu = Tensor.cpu
    monkeypatch.setattr(Tensor, "cpu", lambda self: copies.append(self.shape) or cpu(self))  # type: ignore[func-returns-value]
    fill_holes(torch.from_numpy(smooth(1, 64, 1.0)), 8)
    assert copies == [(4, 64, 64)]


def test_only_masks_whose_background_has_several_regions_have_their_areas_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = []
    bincount = np.bincount
    monkeypatch.setattr(np, "bincount", lambda *args, **kwargs: counted.append(1) or bincount(*args, **kwargs))  # type: ignore[func-returns-value]
    logits = torch.full((16, 32, 32), -1.0)
    logits[:, 8:20, 8:20] = 1.0
    logits[5, 12, 12] = -1.0
    filled = fill_holes(logits, 8)
    assert len(counted) == 1
    assert (filled != logits).nonzero().tolist() == [[5, 12, 12]]

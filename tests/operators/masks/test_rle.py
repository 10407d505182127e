"""Run-length codes: they equal the codes of pycocotools, so every reader of COCO's format decodes the same mask."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from vrshq.operators.masks.rle import decode, encode, encode_changes, encode_tensor, packed_changes

masks = arrays(np.bool_, array_shapes(min_dims=3, max_dims=3, max_side=24), elements=st.booleans())


@settings(max_examples=200, deadline=None)
@given(masks)
def test_decoded_masks_equal_the_encoded_ones_and_have_their_area_and_tightest_box(batch: np.ndarray) -> None:
    for mask, code in zip(batch, encode(batch), strict=True):
        assert (decode(code.rle, *mask.shape) == mask).all()
        assert code.area == mask.sum()
        rows, columns = np.nonzero(mask.any(1))[0], np.nonzero(mask.any(0))[0]
        sides = [(found[0], found[-1] - found[0] + 1) if code.area else (0, 0) for found in (columns, rows)]
        assert code.bbox == (sides[0][0], sides[1][0], sides[0][1], sides[1][1])


@settings(max_examples=50, deadline=None)
@given(masks)
def test_each_code_equals_the_code_of_pycocotools(batch: np.ndarray) -> None:
    alone = [coco.encode(np.asfortranarray(mask.astype(np.uint8)))["counts"] for mask in batch]
    assert [code.rle for code in encode(batch)] == alone
    assert [code.rle for code in encode(batch.astype(np.uint8))] == alone


@settings(max_examples=150, deadline=None)
@given(masks)
def test_codes_from_packed_changes_equal_codes_of_whole_masks(batch: np.ndarray) -> None:
    packed = packed_changes(torch.from_numpy(batch))
    assert packed.dtype == torch.uint8
    assert encode_changes(packed.numpy(), *batch.shape[1:]) == encode(batch) == encode_tensor(torch.from_numpy(batch))


def blobs(height: int, width: int) -> np.ndarray:
    """An empty and a full mask, a disk, a chequered mask, noise, and masks that begin and end in a corner."""
    rows, columns = np.mgrid[:height, :width]
    noise = np.random.default_rng(height * width).random((height, width)) < 0.5
    disk = (rows - height / 2) ** 2 + (columns - width / 3) ** 2 < (min(height, width) / 3) ** 2
    corners = [(rows < 2) & (columns < 3), (rows >= height - 2) & (columns >= width - 3), rows >= height // 2]
    return np.stack([rows < 0, rows >= 0, disk, (rows + columns) % 2 > 0, noise, *corners])


@pytest.mark.parametrize("size", [(1, 1), (1, 97), (97, 1), (8, 64), (45, 131), (64, 8), (271, 479), (270, 480)])
def test_codes_of_frames_of_any_size_equal_those_of_pycocotools(size: tuple[int, int]) -> None:
    batch = blobs(*size)
    codes = coco.encode(np.asfortranarray(batch.astype(np.uint8).transpose(1, 2, 0)))
    boxes = coco.toBbox(codes).astype(int)
    in_columns = batch.transpose(0, 2, 1).copy().transpose(0, 2, 1)
    for made in (encode(batch), encode(in_columns), encode_changes(packed(batch), *size)):
        assert [one.rle for one in made] == [code["counts"] for code in codes]
        assert [one.area for one in made] == coco.area(codes).tolist()
        assert [list(one.bbox) for one in made] == boxes.tolist()


def packed(batch: np.ndarray) -> np.ndarray:
    return packed_changes(torch.from_numpy(batch)).numpy()


def test_packed_changes_are_an_eighth_of_the_masks() -> None:
    assert packed(np.zeros((2, 48, 64), bool)).nbytes == 2 * 48 * 64 // 8
    assert packed(np.zeros((2, 5, 13), bool)).shape == (2, 16)


def test_no_masks_have_no_codes() -> None:
    assert encode(np.zeros((0, 4, 4), bool)) == encode_changes(np.zeros((0, 8), np.uint8), 4, 4) == []


def test_a_code_counts_down_the_columns() -> None:
    mask = np.array([[0, 1], [0, 1], [1, 0]], dtype=np.uint8)
    [code] = encode(mask[None])
    assert coco.decode({"size": [3, 2], "counts": code.rle}).tolist() == mask.tolist()
    uncompressed = {"size": [3, 2], "counts": [2, 3, 1]}
    assert coco.frPyObjects(uncompressed, 3, 2)["counts"] == code.rle

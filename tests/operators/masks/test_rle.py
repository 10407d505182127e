"""Run-length codes: they equal the codes of pycocotools, so every reader of COCO's format decodes the same mask."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays
from pycocotools import mask as coco

from vrshq.operators.masks.rle import decode, encode

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


def test_a_code_counts_down_the_columns() -> None:
    mask = np.array([[0, 1], [0, 1], [1, 0]], dtype=np.uint8)
    [code] = encode(mask[None])
    assert coco.decode({"size": [3, 2], "counts": code.rle}).tolist() == mask.tolist()
    uncompressed = {"size": [3, 2], "counts": [2, 3, 1]}
    assert coco.frPyObjects(uncompressed, 3, 2)["counts"] == code.rle

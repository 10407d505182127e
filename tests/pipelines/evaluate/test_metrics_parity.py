"""Parity with the golden metric values of the kit: J, F, A and R as published, to the last bit."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.support.parity import KIT
from vrshq.operators.masks.bits import Window, boundary, pack, runs
from vrshq.operators.masks.rle import Rle, encode
from vrshq.pipelines.evaluate.metrics import FrameMeasures, measure, tolerance

METRICS = KIT / "metrics"

pytestmark = pytest.mark.skipif(
    not (METRICS / "mask_pairs.npz").exists(), reason=f"no golden metrics at {METRICS} (set VRSHQ_PARITY_DIR)"
)


@cache
def arrays() -> Any:
    return np.load(METRICS / "mask_pairs.npz")


def expected() -> dict[str, Any]:
    path = METRICS / "mask_pairs_expected.json"
    return json.loads(path.read_text()) if path.exists() else {}


def rles(masks: np.ndarray) -> list[Rle]:
    height, width = masks.shape[1:]
    return [{"size": (height, width), "counts": code.rle} for code in encode(masks)]


def summed(masks: np.ndarray) -> list[list[Rle]]:
    """Masks whose sum is the given image, whose values are up to 2."""
    layers = [rles((masks > level).astype(np.uint8)) for level in range(max(1, int(masks.max())))]
    return [list(frame) for frame in zip(*layers, strict=True)]


def measured(name: str, value: int) -> FrameMeasures:
    gt, pred, foreground = (arrays()[f"{name}/{part}"] for part in ("gt", "pred", "foreground"))
    return measure(summed(gt), rles(pred), summed(foreground), value=value)


@pytest.mark.parametrize("value", [1, 255])
@pytest.mark.parametrize("name", sorted(expected()))
def test_published_values_are_equal_to_the_last_bit(name: str, value: int) -> None:
    want, got = expected()[name][f"pred_0_{value}"], measured(name, value)
    assert got.j.tolist() == want["J"]
    assert got.f.tolist() == want["F"]
    assert got.a.tolist() == want["A"]
    assert got.r.tolist() == want["R"]
    assert tolerance(*arrays()[f"{name}/gt"].shape[1:]) == expected()[name]["boundary_tolerance_px"]


@pytest.mark.parametrize("name", sorted(expected()))
def test_fixed_values_do_not_depend_on_how_files_spell_foreground(name: str) -> None:
    got = [measured(name, value) for value in (1, 255)]
    for field in ("a_fixed", "r_fixed"):
        assert getattr(got[0], field).tolist() == getattr(got[1], field).tolist()
    if arrays()[f"{name}/gt"].max() <= 1:  # with 0/1 files and no overlap, the published formula is right
        assert got[0].a_fixed.tolist() == expected()[name]["pred_0_1"]["A"]
        assert got[0].r_fixed.tolist() == expected()[name]["pred_0_1"]["R"]


@pytest.mark.parametrize("name", ["overlap", "border"])
def test_boundary_maps_are_equal(name: str) -> None:
    mask, want = arrays()[f"{name}/gt"][:1], arrays()[f"{name}/gt_boundary_frame0"]
    height, width = want.shape
    bits = boundary(pack(runs(rles(mask)), Window(0, height, 0, width)), height)
    pixels = np.unpackbits(bits[0].T.copy().view(np.uint8), axis=-1, bitorder="little", count=height)
    assert np.array_equal(pixels.T, want)

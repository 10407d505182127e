"""Signals of trust: computed on run-length codes, they equal their definitions on arrays of pixels."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vrshq.operators.masks.rle import encode
from vrshq.operators.masks.trust import Trust, trust, united


def of_pixels(masks: np.ndarray, scores: list[float]) -> Trust:
    """The definitions, on masks (T, H, W) bool."""
    pairs = [(one, other) for one, other in itertools.pairwise(masks) if one.any() or other.any()]
    flicker = [1 - (one & other).sum() / (one | other).sum() for one, other in pairs]
    sizes = [(one.sum(), other.sum()) for one, other in pairs if one.any() and other.any()]
    jumps = [abs(int(one) - int(other)) / max(one, other) for one, other in sizes]
    shown = "".join("1" if mask.any() else "0" for mask in masks)
    gaps = [len(gap) for gap in shown.strip("0").split("1")]
    inner = masks.copy()
    inner[:, 1:-1, 1:-1] = False
    finite = [score for score in scores if math.isfinite(score)]
    return Trust(
        flicker=float(np.mean(flicker)) if flicker else None,
        longest_gap=max(gaps) if masks.any() else None,
        area_jump=max(jumps, default=None),
        score_dips=float(np.mean(np.array(finite) < 0)) if finite else None,
        lowest_score=min(finite, default=None),
        border_share=inner.sum() / masks.sum() if masks.any() else None,
    )


@st.composite
def tracks(draw: st.DrawFn) -> tuple[np.ndarray, list[float]]:
    """Masks (T, H, W) of which some are empty, some equal their neighbour and some are boxes, and their logits."""
    frames, height, width = (draw(st.integers(1, most)) for most in (9, 12, 12))
    masks = np.zeros((frames, height, width), bool)
    for place in range(frames):
        kind = draw(st.sampled_from(("empty", "noise", "box", "as before")))
        if kind == "noise":
            masks[place] = draw(arrays(np.bool_, (height, width)))
        elif kind == "box":
            top, left = draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))
            masks[place, top : draw(st.integers(top + 1, height)), left : draw(st.integers(left + 1, width))] = True
        elif kind == "as before" and place:
            masks[place] = masks[place - 1]
    logits = st.floats(-20, 20) | st.sampled_from([math.nan, math.inf, 0.0])
    return masks, draw(st.lists(logits, min_size=frames, max_size=frames) | st.just([]))


@settings(max_examples=400, deadline=None)
@given(tracks())
def test_signals_of_codes_equal_those_of_pixels(track: tuple[np.ndarray, list[float]]) -> None:
    masks, scores = track
    found = trust(encode(masks), scores, *masks.shape[1:])
    expected = of_pixels(masks, scores)
    for name, value in vars(expected).items():
        assert getattr(found, name) == (value if value is None else pytest.approx(value, abs=1e-9)), name


@settings(max_examples=200, deadline=None)
@given(arrays(np.bool_, st.tuples(*(st.integers(1, most) for most in (4, 5, 8, 8)))))
def test_the_union_of_objects_has_their_pixels_area_and_box(objects: np.ndarray) -> None:
    found = united([encode(one) for one in objects], *objects.shape[2:])
    assert found == encode(np.asarray(objects.any(0)))


def test_a_steady_track_has_no_signal_and_each_fault_has_its_own() -> None:
    steady = np.zeros((6, 20, 20), bool)
    steady[:, 5:10, 5:10] = True
    assert trust(encode(steady), [3.0] * 6, 20, 20) == Trust(0, 0, 0, 0, 3, 0)
    gap = steady.copy()
    gap[2:4] = False
    assert trust(encode(gap), [3, 3, -1, -2, 3, 3], 20, 20) == Trust(2 / 4, 2, 0, 2 / 6, -2, 0)
    grown = steady.copy()
    grown[3, 0:10, 0:10] = True
    assert trust(encode(grown), [3.0] * 6, 20, 20) == Trust(2 * 0.75 / 5, 0, 0.75, 0, 3, 19 / 225)
    assert trust(encode(np.zeros((3, 4, 4), bool)), [], 4, 4) == Trust(None, None, None, None, None, None)

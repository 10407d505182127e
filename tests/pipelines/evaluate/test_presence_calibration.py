"""Promises of the calibration of presence and of the threshold for masks: they equal their definitions."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrshq.pipelines.evaluate.presence import BINS, brier_score, calibration_error, mask_threshold, reliability

# (whether there is a target, presence, whether there is a mask)
ANSWERS = st.lists(
    st.tuples(st.booleans(), st.floats(0, 1) | st.sampled_from([0.3, 0.5, 0.7]), st.booleans()), min_size=1
)


def columns(rows: list[tuple[bool, float, bool]]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    target, presence, masked = zip(*rows, strict=True)
    return np.array(target), np.array(presence), np.array(masked)


@settings(deadline=None)
@given(ANSWERS)
def test_every_expression_is_in_one_bin_which_holds_its_presence(rows: list[tuple[bool, float, bool]]) -> None:
    target, presence, _ = columns(rows)
    bins = reliability(target, presence)
    assert [one.low for one in bins] == [place / BINS for place in range(BINS)]
    assert sum(one.count for one in bins) == len(rows)
    filled = [one for one in bins if one.count]
    assert all(one.low - 1e-12 <= one.presence <= one.high + 1e-12 for one in filled)
    assert sum(one.count * one.presence for one in filled) == pytest.approx(presence.sum())
    assert sum(one.count * one.share for one in filled) == pytest.approx(target.sum())
    assert all(math.isnan(one.presence) and math.isnan(one.share) for one in bins if not one.count)


@settings(deadline=None)
@given(ANSWERS)
def test_the_calibration_error_lies_between_that_of_the_mean_and_one(rows: list[tuple[bool, float, bool]]) -> None:
    target, presence, _ = columns(rows)
    error = calibration_error(reliability(target, presence))
    assert abs(presence.mean() - target.mean()) - 1e-9 <= error <= 1 + 1e-9


def test_the_calibration_error_is_0_for_the_share_of_targets_and_1_for_an_inverted_presence() -> None:
    presence = np.repeat([0.25, 0.75], 4)
    right = np.array([True, False, False, False, True, True, True, False])
    assert calibration_error(reliability(right, presence)) == 0.0
    sure = np.array([1.0, 0.0])
    assert calibration_error(reliability(np.array([False, True]), sure)) == 1.0
    assert calibration_error(reliability(np.array([True, False]), sure)) == 0.0
    assert math.isnan(calibration_error(reliability(np.array([], bool), np.array([]))))


@pytest.mark.parametrize("presence", [-0.1, 1.1, math.nan])
def test_a_presence_outside_0_to_1_is_refused(presence: float) -> None:
    with pytest.raises(ValueError, match="expected 0 to 1"):
        reliability(np.array([True, False]), np.array([0.5, presence]))


@settings(deadline=None)
@given(ANSWERS)
def test_the_brier_score_equals_its_definition_and_the_base_rate_is_the_best_constant(
    rows: list[tuple[bool, float, bool]],
) -> None:
    target, presence, _ = columns(rows)
    pairs = zip(target.tolist(), presence.tolist(), strict=True)
    assert brier_score(target, presence) == pytest.approx(np.mean([(p - float(t)) ** 2 for t, p in pairs]))
    best = brier_score(target, np.full(len(target), target.mean()))
    assert best <= brier_score(target, np.full(len(target), presence[0])) + 1e-12


@settings(deadline=None)
@given(ANSWERS, st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]))
def test_the_threshold_is_the_least_that_keeps_false_positives_within_the_rate(
    rows: list[tuple[bool, float, bool]], rate: float
) -> None:
    target, presence, masked = columns(rows)
    found = mask_threshold(target, presence, masked, rate)

    def kept(of: np.ndarray, threshold: float) -> float:
        return float((masked & (presence > threshold))[of].mean()) if of.any() else math.nan

    assert found.no_target == pytest.approx(kept(~target, found.presence), nan_ok=True)
    assert found.target == pytest.approx(kept(target, found.presence), nan_ok=True)
    if not target.all():
        assert found.no_target <= rate + 1e-9
        lower = [value for value in (0.0, *presence[~target].tolist()) if value < found.presence]
        assert all(kept(~target, value) > rate + 1e-9 for value in lower)


def test_five_percent_of_twenty_expressions_is_one() -> None:
    presence = np.linspace(0.05, 0.95, 20)
    found = mask_threshold(np.zeros(20, bool), presence, np.ones(20, bool))
    assert found.presence == presence[-2]
    assert found.no_target == 0.05

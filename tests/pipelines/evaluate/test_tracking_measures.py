"""Promises of J by distance from the keyframe: the counted expressions and frames, and the meaning of `relative`."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vrshq.pipelines.evaluate.protocols import DISTANCES, FAR, Carried, by_distance


def carried(j: list[float], shown: list[bool] | None = None, keyframe: int = 0, video_id: str = "a") -> Carried:
    frames = np.arange(len(j))
    return Carried(video_id, np.array(j), np.array(shown or [True] * len(j)), abs(frames - keyframe))


@st.composite
def expressions(draw: st.DrawFn) -> list[Carried]:
    found = []
    for _ in range(draw(st.integers(1, 5))):
        length = draw(st.integers(1, 30))
        j = draw(st.lists(st.integers(0, 64).map(lambda pixels: pixels / 64), min_size=length, max_size=length))
        shown = draw(st.lists(st.booleans(), min_size=length, max_size=length))
        found.append(carried(j, shown, draw(st.integers(0, length - 1)), draw(st.sampled_from("abc"))))
    return found


def measured(found: list[Carried], distances: tuple[int, int | None]) -> dict[str, Any]:
    return by_distance(found, distances, samples=50)


@settings(deadline=None)
@given(expressions())
def test_every_frame_is_in_one_range_and_shown_or_hidden(found: list[Carried]) -> None:
    ranges = [measured(found, distances) for distances in DISTANCES]
    assert sum(one["frames"] for one in ranges) == sum(int(one.shown.sum()) for one in found)
    assert sum(one["hidden_frames"] for one in ranges) == sum(int((~one.shown).sum()) for one in found)
    assert sum(one["frames"] for one in ranges[-2:]) == measured(found, FAR)["frames"]


@settings(deadline=None)
@given(expressions(), st.sampled_from([*DISTANCES, FAR]))
def test_means_equal_their_definition(found: list[Carried], distances: tuple[int, int | None]) -> None:
    low, high = distances
    end = math.inf if high is None else high
    means, pairs = [], []
    for one in found:
        rows = list(zip(one.j.tolist(), one.shown.tolist(), one.distance.tolist(), strict=True))
        inside = [j for j, shown, distance in rows if shown and low <= distance <= end]
        keys = [j for j, shown, distance in rows if shown and distance == 0]
        means += [np.mean(inside)] if inside else []
        pairs += [(np.mean(inside), keys[0])] if inside and keys else []
    got = measured(found, distances)
    assert (got["expressions"], got["relative_expressions"]) == (len(means), len(pairs))
    assert got["J"] == pytest.approx(100 * np.mean(means) if means else math.nan, nan_ok=True)
    below = sum(key for _, key in pairs)
    expected = 100 * sum(mean for mean, _ in pairs) / below if below else math.nan
    assert got["relative"] == pytest.approx(expected, nan_ok=True)


@settings(deadline=None)
@given(expressions())
def test_relative_j_is_100_percent_if_j_is_the_same_on_all_frames(found: list[Carried]) -> None:
    same = [Carried(one.video_id, np.full(len(one.j), 0.4), one.shown, one.distance) for one in found]
    for distances in (*DISTANCES, FAR):
        got = measured(same, distances)
        if got["relative_expressions"]:
            assert got["relative"] == pytest.approx(100)
            assert got["relative_interval"] == pytest.approx((100, 100))
            assert got["J"] == pytest.approx(40)


def test_relative_j_is_a_quotient_of_sums_over_the_same_expressions() -> None:
    tracked = carried([0.8] + [0.6] * 9)
    short = carried([0.1] * 5, video_id="b")  # it has no far frames, so its keyframe does not count
    # its keyframe does not show the object, so there is no pair
    unseen = carried([0.0] + [0.9] * 9, [False] + [True] * 9, video_id="c")
    far = measured([tracked, short, unseen], FAR)
    assert far["relative"] == pytest.approx(75)
    assert (far["expressions"], far["relative_expressions"]) == (2, 1)
    assert far["J"] == pytest.approx(100 * (0.6 + 0.9) / 2)


def test_expressions_count_once_however_many_frames_they_have() -> None:
    long, short = carried([1.0] + [0.5] * 99), carried([1.0] * 9, video_id="b")
    assert measured([long, short], FAR)["J"] == pytest.approx(75)


def test_a_keyframe_with_j_0_does_not_divide_by_zero() -> None:
    got = measured([carried([0.0] + [0.5] * 9)], FAR)
    assert math.isnan(got["relative"])
    assert all(math.isnan(end) for end in got["relative_interval"])
    assert got["J"] == pytest.approx(50)
    lost, good = carried([0.0] + [0.5] * 9), carried([1.0] + [0.5] * 9, video_id="b")
    assert measured([lost, good], FAR)["relative"] == pytest.approx(100)


def test_hidden_frames_count_apart() -> None:
    shown = [True] * 8 + [True, False, False, False]
    got = measured([carried([1.0] * 8 + [0.5, 1.0, 1.0, 0.0], shown)], FAR)
    assert (got["frames"], got["J"]) == (1, 50.0)
    assert got["hidden_frames"] == 3
    assert got["hidden_empty"] == pytest.approx(2 / 3)  # J of two empty masks is 1


def test_intervals_come_from_draws_of_videos_and_hold_the_mean() -> None:
    found = [carried([1.0] + [value] * 9, video_id=str(place)) for place, value in enumerate((0.2, 0.4, 0.6, 0.8))]
    got = by_distance(found, FAR, samples=400)
    low, high = got["J_interval"]
    assert 20 <= low < got["J"] < high <= 80
    one_video = [Carried("a", one.j, one.shown, one.distance) for one in found]
    assert by_distance(one_video, FAR, samples=400)["J_interval"] == pytest.approx((50, 50))

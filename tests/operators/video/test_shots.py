"""Frames that stand for shots: every shot has one as far as there are frames, and cuts are found where they are."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tests.support.array_video import ArrayVideo, unit_batch
from vrshq.operators.presample import PreSample, PreSampleConfig
from vrshq.operators.video.shots import frames_of_shots, histograms, shot_starts


@st.composite
def shots(draw: st.DrawFn) -> tuple[list[int], int]:
    lengths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=15))
    ends = np.cumsum(lengths).tolist()
    return [0, *ends[:-1]], ends[-1]


@given(shots(), st.integers(1, 20))
def test_frames_are_ascending_distinct_as_many_as_asked_and_in_different_shots_first(
    cut: tuple[list[int], int], most: int
) -> None:
    starts, total = cut
    frames = frames_of_shots(starts, total, most)
    assert frames == sorted(set(frames))
    assert (frames[0] >= 0, frames[-1] < total) == (True, True)
    in_shots = {int(np.searchsorted(starts, frame, "right")) for frame in frames}
    assert len(frames) == min(most, total if len(starts) <= most else most)
    assert len(in_shots) == min(len(starts), len(frames))


def test_one_shot_gives_middles_of_equal_parts_and_the_longest_of_many_shots_have_one_frame_each() -> None:
    assert frames_of_shots([0], 100, 4) == [12, 37, 62, 87]
    assert frames_of_shots([0, 10, 50, 52], 100, 2) == [30, 76]
    assert frames_of_shots([0, 80], 100, 5) == [10, 30, 50, 70, 90]


def scenes(*backgrounds: tuple[int, tuple[int, int, int]]) -> list[np.ndarray]:
    """Scenes of some frames each: a square that moves before a background of its own, with noise."""
    frames, random = [], np.random.default_rng(0)
    for length, background in backgrounds:
        for place in range(length):
            frame = np.full((96, 160, 3), background, np.uint8)
            frame[30:60, 3 * place : 3 * place + 30] = (220, 220, 220)
            frames.append((frame + random.integers(0, 20, frame.shape)).astype(np.uint8))
    return frames


def test_cuts_are_found_between_scenes_and_not_where_a_thing_moves_or_all_flickers() -> None:
    dark, bright, blue = (30, 60, 30), (200, 180, 90), (40, 40, 160)
    assert shot_starts(histograms(scenes((20, dark), (30, bright), (15, blue)))) == [0, 20, 50]
    assert shot_starts(histograms(scenes((40, dark)))) == [0]
    assert shot_starts(histograms(scenes(*[(1, dark), (1, bright)] * 20))) == [0]
    assert shot_starts(histograms(scenes((1, dark)))) == [0]


def test_the_sampler_asks_no_clip_and_gives_each_instruction_the_same_frames() -> None:
    stage = PreSample(PreSampleConfig(model="untrained-tiny", sampler="shots", max_image_token=5))
    assert not hasattr(stage, "clip")
    found = stage(unit_batch(ArrayVideo(17), ["one", "other"]))
    assert found["clip_probs"][0] == [None, None]
    assert found["sampled_frames"][0][0] == found["sampled_frames"][0][1]
    assert len(found["sampled_frames"][0][0]) == 5

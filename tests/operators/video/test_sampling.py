from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vrshq.operators.video.sampling import BY_NUMBER, SAMPLERS, generator, grid, local_global, segment, true_n


def peak(total: int, best: int) -> np.ndarray:
    return np.asarray(np.eye(total, dtype=np.float32)[best])


def random() -> np.random.Generator:
    return generator(0, "video", "instruction")


@given(
    st.sampled_from(sorted(SAMPLERS)), st.integers(1, 150), st.integers(1, 20), st.integers(0, 2**32), st.integers(0, 5)
)
def test_samplers_give_ascending_distinct_frames_of_the_video(
    name: str, total: int, max_frames: int, seed: int, levels: int
) -> None:
    values = np.random.default_rng(seed).random(total).astype(np.float32)
    probabilities = np.floor(values * levels) if levels else values  # with levels: many equal ones
    frames = SAMPLERS[name](probabilities, max_frames, generator(seed, "v", "i"))
    assert frames == sorted(set(frames))
    assert 1 <= len(frames) <= max_frames
    assert 0 <= frames[0] <= frames[-1] < total
    assert all(type(frame) is int for frame in frames)
    if name != "grid":
        assert len(frames) == min(total, max_frames)
    if name in ("grid", "segment", "local_global", "true_n"):
        assert int(probabilities.argmax()) in frames


@pytest.mark.parametrize(
    ("total", "best", "frames"),
    [
        (1, 0, [0]),
        (12, 7, [1, 3, 5, 7, 9, 11]),
        (22, 8, list(range(0, 22, 2))),
        (23, 9, list(range(0, 23, 3))),
        (11, 4, list(range(11))),
        (40, 39, list(range(3, 40, 4))),
    ],
)
def test_grid_is_the_references(total: int, best: int, frames: list[int]) -> None:
    assert grid(peak(total, best), 12, random()) == frames


def test_one_frame_is_the_best_frame() -> None:
    for sampler in (grid, segment, local_global, true_n):
        assert sampler(peak(30, 17), 1, random()) == [17]


def test_segment_takes_the_best_of_each_segment_also_if_an_earlier_frame_is_equal() -> None:
    assert segment(np.array([3, 9, 1, 9, 0, 2], np.float32), 3, random()) == [1, 3, 5]


def test_local_global_has_the_best_half_and_one_of_each_segment_of_the_rest() -> None:
    probabilities = np.arange(20, dtype=np.float32)
    frames = local_global(probabilities, 8, random())
    assert frames[4:] == [16, 17, 18, 19]
    assert [frame // 4 for frame in frames[:4]] == [0, 1, 2, 3]


def test_true_n_is_even_and_full() -> None:
    assert true_n(peak(100, 42), 10, random()) == list(range(2, 100, 10))
    assert true_n(peak(12, 5), 12, random()) == list(range(12))


def test_random_numbers_depend_on_seed_video_and_instruction_and_on_nothing_else() -> None:
    assert generator(0, "a", "b").integers(1 << 30) == generator(0, "a", "b").integers(1 << 30)
    others = [(1, "a", "b"), (0, "ab", ""), (0, "", "ab"), (0, "b", "a")]
    draws = {int(generator(*arguments).integers(1 << 60)) for arguments in [(0, "a", "b"), *others]}
    assert len(draws) == 5


@given(st.integers(1, 150), st.integers(1, 64), st.integers(0, 2**32))
def test_random_frames_are_distinct_ascending_and_decided_by_the_seed(total: int, count: int, seed: int) -> None:
    frames = BY_NUMBER["random"](total, count, generator(seed, "v", "i"))
    assert frames == sorted({*frames})
    assert len(frames) == min(total, count)
    assert 0 <= frames[0] <= frames[-1] < total
    assert frames == BY_NUMBER["random"](total, count, generator(seed, "v", "i"))


def test_random_frames_differ_between_seeds_and_instructions() -> None:
    drawn = {tuple(BY_NUMBER["random"](100, 5, generator(seed, "v", name))) for seed in (0, 1) for name in ("0", "1")}
    assert len(drawn) == 4

"""The choice of the keyframe by TKS and its baselines, TDA's arithmetic, hole filling, and frames read ahead."""

from __future__ import annotations

import threading
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from vrshq.operators.fuse import fuse, similarities
from vrshq.operators.keyframe import METHODS, KeyframeConfig, choose
from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.keyframe_motion import motion_scores
from vrshq.operators.models.keyframe_scores import Terms, adaptive_alpha, tks_scores, z_scores
from vrshq.operators.video.prefetch import ahead
from vrshq.operators.video.sampling import generator

numbers = st.floats(-20, 20, width=32)


def chosen(
    method: str,
    *,
    scores: list[float],
    cosines: list[float],
    clip: list[float],
    motion: list[float] | None = None,
    video: str = "v",
) -> int:
    return choose(
        method,
        object_scores=torch.tensor(scores),
        similarities=torch.tensor(cosines),
        clip_probs=torch.tensor(clip),
        random=generator(0, video, "0"),
        motion=None if motion is None else torch.tensor(motion),
    )


def test_each_method_looks_at_what_its_name_says() -> None:
    given_scores: dict[str, Any] = {"scores": [0.0, 9.0, 1.0, 0.0], "cosines": [0.9, -0.9, 0.0, 0.0]}
    given_scores |= {"clip": [0.1, 0.1, 0.1, 0.7], "motion": [0.0, 0.0, 9.0, 0.0]}
    got = {method: chosen(method, **given_scores) for method in METHODS if method != "random"}
    sums = {"clip+similarity": 3, "clip+object_score": 1, "clip+similarity+object_score": 1, "tks_z": 0}
    sums |= {"motion": 2, "tks_z+motion": 2}
    assert got == {"tks": 1, "clip": 3, "similarity": 0, "object_score": 1, "first": 0, "middle": 2} | sums


def test_of_equal_scores_the_first_wins() -> None:
    for method in ("tks", "clip", "similarity", "object_score"):
        assert chosen(method, scores=[1.0] * 5, cosines=[0.5] * 5, clip=[0.2] * 5) == 0


def test_motion_is_what_changes_inside_the_mask_and_not_what_changes_everywhere() -> None:
    # three frames: a bright square moves from frame 1 to 2, while the whole picture gets brighter from 0 to 1
    frames = np.full((3, 64, 64, 3), 50, np.uint8)
    frames[1:] += 40
    masks = np.zeros((3, 64, 64), bool)
    masks[0, 8:24, 8:24] = masks[1, 8:24, 8:24] = masks[2, 32:48, 32:48] = True
    frames[masks] = 220
    frames[0][masks[0]] = 180  # it gets brighter like the rest
    got = motion_scores(frames, masks)
    assert got[0] == pytest.approx(0, abs=0.5)
    assert got[2] > got[1] > 50
    assert motion_scores(frames, np.zeros_like(masks)).tolist() == [0, 0, 0]
    assert motion_scores(frames[:1], masks[:1]).tolist() == [0]


def test_random_depends_on_the_instruction_and_not_on_what_ran_before() -> None:
    frames = {"scores": [0.0] * 12, "cosines": [0.0] * 12, "clip": [0.0] * 12}
    picks = [chosen("random", **frames, video=f"video {number}") for number in range(30)]
    assert picks == [chosen("random", **frames, video=f"video {number}") for number in range(30)]
    assert len(set(picks)) > 3


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(numbers, st.floats(-1, 1, width=32)), min_size=1, max_size=12))
def test_tks_scores_are_two_distributions_over_the_frames(pairs: list[tuple[float, float]]) -> None:
    scores = tks_scores(torch.tensor([pair[0] for pair in pairs]), torch.tensor([pair[1] for pair in pairs]))
    assert float(scores.sum()) == pytest.approx(2, abs=1e-4)
    assert (scores > 0).all()


def test_clips_share_of_a_sum_is_its_softmax_over_the_sampled_frames_alone() -> None:
    logits = torch.tensor([2.0, 0.5, -1.0, 3.0, 0.0])
    sampled = [0, 2, 4]
    terms = Terms(torch.zeros(3), torch.zeros(3), logits.softmax(0)[sampled])
    torch.testing.assert_close(terms.shares()[0], logits[sampled].softmax(0))


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.integers(-100, 100), min_size=1, max_size=12),
    st.floats(0.01, 100),
    st.floats(-100, 100),
)
def test_z_scores_do_not_change_where_a_term_is_scaled_and_moved(
    values: list[int], factor: float, offset: float
) -> None:
    term = torch.tensor(values, dtype=torch.float64)
    got = z_scores(factor * term + offset)
    torch.testing.assert_close(got, z_scores(term), atol=1e-6, rtol=0)
    assert float(got.sum()) == pytest.approx(0, abs=1e-6)
    spread = float(got.square().mean())
    assert spread == (0 if len(set(values)) == 1 else pytest.approx(1))


def test_on_equal_scale_the_similarity_decides_where_the_object_is_seen_alike() -> None:
    # nearly equal logits where it is seen; cosines hardly differ as always, so tks does not look at them
    frames: dict[str, Any] = {"scores": [6.3, 6.0, -8.0], "cosines": [0.90, 0.95, 0.80], "clip": [0.0] * 3}
    assert {method: chosen(method, **frames) for method in ("tks", "tks_z")} == {"tks": 0, "tks_z": 1}


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.tuples(st.floats(-1, 1, width=32), numbers), min_size=1, max_size=12),
    st.floats(0, 2),
    st.floats(0.01, 2),
    st.randoms(use_true_random=False),
)
def test_adaptive_alpha_stays_between_none_and_twice_and_the_order_of_frames_does_not_matter(
    frames: list[tuple[float, float]], alpha: float, temperature: float, order: Any
) -> None:
    def weight(frames: list[tuple[float, float]], more: float = 0.0) -> float:
        weights = (torch.tensor([frame[0] for frame in frames]) / temperature).softmax(0)
        return adaptive_alpha(alpha, weights, torch.tensor([frame[1] + more for frame in frames]))

    got = weight(frames)
    assert 0 <= got <= 2 * alpha
    assert weight(frames, more=1.0) >= got - 1e-7  # an object that is seen better weighs more
    mixed = list(frames)
    order.shuffle(mixed)
    assert weight(mixed) == pytest.approx(got, abs=1e-5)


def test_adaptive_alpha_is_alpha_for_flat_similarities_of_a_visible_object_and_twice_for_a_single_frame() -> None:
    flat, seen, unseen = torch.full((8,), 1 / 8), torch.full((8,), 50.0), torch.full((8,), -50.0)
    assert adaptive_alpha(0.1, flat, seen) == pytest.approx(0.1, abs=1e-6)
    assert adaptive_alpha(0.1, flat, unseen) == pytest.approx(0, abs=1e-6)
    one = torch.tensor([0.0, 1.0, 0.0])
    assert adaptive_alpha(0.1, one, torch.tensor([-50.0, 50.0, -50.0])) == pytest.approx(0.2, abs=1e-6)
    assert adaptive_alpha(0.1, torch.ones(1), torch.tensor([50.0])) == pytest.approx(0.1, abs=1e-6)


def test_the_temperature_sharpens_the_mean_of_the_frames_and_one_is_the_reference() -> None:
    torch.manual_seed(0)
    seg, tak = torch.randn(4, 8), torch.randn(8)
    assert torch.equal(fuse(seg, tak, 0.1, 1.0), tak + 0.1 * (similarities(seg, tak).softmax(0) @ seg))
    best = seg[similarities(seg, tak).argmax()]
    torch.testing.assert_close(fuse(seg, tak, 1.0, 1e-4), tak + best)


@settings(max_examples=50, deadline=None)
@given(arrays(np.float32, (5, 8), elements=st.floats(-5, 5, width=32)), arrays(np.float32, 8, elements=numbers))
def test_fusion_adds_a_convex_mean_of_the_frames(seg: np.ndarray, tak: np.ndarray) -> None:
    segments, video = torch.from_numpy(seg), torch.from_numpy(tak)
    assert torch.equal(fuse(segments, video, 0.0), video)
    mean = fuse(segments, video, 1.0) - video
    assert (mean <= segments.amax(0) + 1e-3).all()
    assert (mean >= segments.amin(0) - 1e-3).all()
    assert (similarities(segments, video).abs() <= 1 + 1e-5).all()


def test_an_unknown_method_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="tks, clip"):
        KeyframeConfig(model="untrained-tiny", method="best")


@settings(max_examples=60, deadline=None)
@given(arrays(np.float32, (2, 12, 12), elements=st.sampled_from([-3.0, 0.0, 2.0])), st.integers(0, 12))
def test_holes_are_filled_up_to_their_area_and_nothing_else_changes(logits: np.ndarray, area: int) -> None:
    filled = fill_holes(torch.from_numpy(logits), area).numpy()
    for before, after in zip(logits, filled, strict=True):
        count, labels = cv2.connectedComponents((before <= 0).astype(np.uint8), connectivity=8)
        for label in range(1, count):
            region = labels == label
            small = region.sum() <= area
            assert (after[region] == (np.float32(0.1) if small else before[region])).all()
        assert (after[before > 0] == before[before > 0]).all()


def test_items_are_prepared_one_at_a_time_on_another_thread_and_in_order() -> None:
    running = threading.Lock()
    threads = set()

    def prepare(item: int) -> int:
        assert running.acquire(blocking=False)
        threads.add(threading.current_thread().name)
        running.release()
        return item * item

    assert list(ahead(prepare, range(20))) == [number * number for number in range(20)]
    assert threading.current_thread().name not in threads
    assert list(ahead(prepare, [])) == []


def test_what_preparing_raises_is_raised_at_its_item() -> None:
    def prepare(item: int) -> int:
        if item == 2:
            raise ValueError("item 2")
        return item

    items = ahead(prepare, range(5))
    assert [next(items), next(items)] == [0, 1]
    with pytest.raises(ValueError, match="item 2"):
        next(items)

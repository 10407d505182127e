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
from vrshq.operators.keyframe import METHODS, KeyframeConfig, choose, tks_scores
from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.video.prefetch import ahead
from vrshq.operators.video.sampling import generator

numbers = st.floats(-20, 20, width=32)


def chosen(method: str, *, scores: list[float], cosines: list[float], clip: list[float], video: str = "v") -> int:
    return choose(
        method,
        object_scores=torch.tensor(scores),
        similarities=torch.tensor(cosines),
        clip_probs=torch.tensor(clip),
        random=generator(0, video, "0"),
    )


def test_each_method_looks_at_what_its_name_says() -> None:
    given_scores: dict[str, Any] = {"scores": [0.0, 9.0, 1.0, 0.0], "cosines": [0.9, -0.9, 0.0, 0.0]}
    given_scores["clip"] = [0.1, 0.1, 0.1, 0.7]
    got = {method: chosen(method, **given_scores) for method in METHODS if method != "random"}
    assert got == {"tks": 1, "clip": 3, "similarity": 0, "object_score": 1, "first": 0, "middle": 2}


def test_of_equal_scores_the_first_wins() -> None:
    for method in ("tks", "clip", "similarity", "object_score"):
        assert chosen(method, scores=[1.0] * 5, cosines=[0.5] * 5, clip=[0.2] * 5) == 0


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

"""Sampled frames, oracle queries, and labels of objects' positions."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.operators.training.helpers import (
    SMALL,
    clip_of,
    objects_absent_in_some_frames,
    objects_of,
    view_of,
)
from vrshq.operators.synth import make_video
from vrshq.operators.synth.judging import MAYBE, YES
from vrshq.operators.training.clip import (
    COLOUR_NAMES,
    DEEDS,
    SHAPE_NAMES,
    choose_frames,
    from_synth,
    judge_deeds,
)
from vrshq.operators.training.places import dense_labels, paces, padded_view, seen_places
from vrshq.operators.training.queries import UNKNOWN, draw_queries, meant_queries, simplest
from vrshq.operators.training.segmentation import window_around


@given(st.integers(1, 12), st.integers(1, 5), st.data())
def test_the_window_holds_the_keyframe_and_stays_inside(total: int, size: int, data: Any) -> None:
    keyframe = data.draw(st.integers(0, total - 1))
    window = window_around(keyframe, total, size)
    assert len(window) == min(size, total)
    assert keyframe in window
    assert window.start >= 0
    assert window.stop <= total


@given(st.integers(1, 60), st.integers(1, 8), st.integers(0, 4), st.integers(0, 1000))
def test_one_frame_is_sampled_from_each_segment(total: int, least: int, more: int, seed: int) -> None:
    frames = choose_frames(np.random.default_rng(seed), total, least, least + more)
    assert min(least, total) <= len(frames) <= min(least + more, total)
    assert (np.diff(frames) > 0).all()
    assert frames[0] < math.ceil(total / len(frames)) + 1
    assert total - 1 - frames[-1] < math.ceil(total / len(frames)) + 1


def test_oracle_queries_are_answered_by_the_objects_that_fit() -> None:
    for index in range(20):
        objects = objects_of(clip_of(index))
        queries, masks = draw_queries(objects, np.random.default_rng(index))
        for row in range(len(queries.nothing)):
            colour, shape = queries.colours[row], queries.shapes[row]
            fits = [
                (colour in (UNKNOWN, objects.colours[item])) and (shape in (UNKNOWN, objects.shapes[item]))
                for item in range(len(objects.colours))
            ]
            if queries.placed[row]:
                fits = [place == row for place in range(len(fits))]
            expected = objects.masks[fits].any(0) if row < len(fits) else np.zeros_like(masks[row])
            assert np.array_equal(masks[row], expected)


def test_the_simplest_query_still_distinguishes_its_object() -> None:
    decided = []
    for index in range(20):
        objects = objects_of(clip_of(index))
        full, single = meant_queries(objects)
        short = simplest(full, objects)
        for row in np.flatnonzero(single & ~full.nothing):
            assert short.colours[row] == full.colours[row]
            alone = list(objects.colours).count(full.colours[row]) == 1
            assert (short.shapes[row], short.placed[row]) == ((UNKNOWN, False) if alone else (full.shapes[row], True))
            decided.append(alone)
    assert 0 < sum(decided) < len(decided)


@pytest.mark.parametrize("seen", ["centre", "whole", "padded"])
def test_the_centre_of_an_object_is_given_in_the_view(seen: Literal["centre", "whole", "padded"]) -> None:
    wide = replace(SMALL, aspects=(1.5,))
    clip = from_synth(make_video(0, 1, "train", wide), np.random.default_rng(0), (1, 1), 1)
    objects = objects_of(clip)
    height, width = clip.frames.shape[1:3]
    assert width > height
    view = padded_view(height, width, 8) if seen == "padded" else view_of(objects, seen)
    assert (view.rows, view.columns) == ((7, 9) if seen == "whole" else (8, 8))
    labels = dense_labels(objects, view)
    filled = labels.radius > 0
    assert filled.any()
    centres = objects.places[:, 0, :2] * (width, height)  # pixels
    within = {
        "centre": (centres - ((width - height) // 2, 0)) / height,
        "whole": centres / (width, height),
        "padded": centres / width,
    }[seen]
    far = np.linalg.norm(labels.centre[filled].numpy()[:, None] - within, axis=2)
    assert far.min(1).max() < 1e-5
    # it is the object on the patch: its centre is not farther away than the object extends
    rows, columns = np.indices((view.rows, view.columns))
    patches = np.stack([(columns + 0.5) / view.columns, (rows + 0.5) / view.rows], axis=-1).reshape(-1, 2)[
        filled.numpy()
    ]
    reach = 2 * objects.places[:, 0, 2][far.argmin(1)] * (height / width if seen == "padded" else 1) + 0.1
    assert (np.linalg.norm(labels.centre[filled].numpy() - patches, axis=1) < reach).all()


def test_a_place_has_the_colour_of_the_object_on_half_of_it_and_the_shape_of_the_object_on_a_tenth() -> None:
    clip = clip_of(3)
    objects = objects_of(clip)
    labels = dense_labels(objects, view_of(objects))
    colour, shape, weight, radius = (
        part.view(4, 8, 8) for part in (labels.colour, labels.shape, labels.weight, labels.radius)
    )
    shares = objects.masks.reshape(len(objects.colours), 4, 8, 8, 8, 8).mean((3, 5))
    first = shares.argmax(0)
    for place in np.ndindex(4, 8, 8):
        best = first[place]
        share = shares[(best, *place)]
        assert colour[place] == (objects.colours[best] if share >= 0.5 else len(COLOUR_NAMES))
        assert shape[place] == (objects.shapes[best] if share >= 0.1 else len(SHAPE_NAMES))
        assert (weight[place] > 0) == (share >= 0.1)
        assert radius[place] == (objects.places[best, place[0], 2] if share >= 0.5 else 0)
    for frame in range(4):  # the weights of each object sum to 1
        touched = {int(one) for one in first[frame][shares.max(0)[frame] >= 0.1]}
        assert float(weight[frame].sum()) == pytest.approx(len(touched), abs=1e-5)


def test_positions_are_relative_to_the_towers_view() -> None:
    video = make_video(0, 1, "train", replace(SMALL, aspects=(1.5,)))
    wide = objects_of(from_synth(video, np.random.default_rng(0), (2, 2), 1))
    height, width = wide.masks.shape[2:]
    pixels = wide.places[..., :2] * (width, height)
    assert np.allclose(seen_places(wide, view_of(wide, "whole")), wide.places[..., :2], atol=1e-6)
    assert np.allclose(seen_places(wide, view_of(wide)), (pixels - ((width - height) / 2, 0)) / height, atol=1e-6)
    square = objects_of(clip_of())
    assert np.allclose(seen_places(square, view_of(square)), square.places[..., :2], atol=1e-6)


def test_paces_in_a_wide_frame_are_the_same_along_both_sides() -> None:
    objects = objects_absent_in_some_frames()
    count, frames = objects.masks.shape[:2]
    places, masks = objects.places.copy(), np.ones((count, frames, 32, 128), bool)
    places[..., :2] = 0.5
    places[0, 1:, 0] += 16 / 128  # 16 pixels to the right; below, 16 pixels down
    places[1, 1:, 1] += 16 / 32
    wide = replace(objects, places=places, masks=masks)
    found = paces(wide, view_of(wide, "whole"))[0]
    assert found[:2, 1, :2] == pytest.approx(16 / 64, abs=1e-6)  # 32 x 128 has the area of 64 x 64


def test_deeds_agree_with_the_answers_of_instructions_without_names() -> None:
    same = {"fastest": "fastest", "slowest": "slowest", "still": "still", "hidden": "hidden", "hiding": "hiding"}
    same |= {"enters": "entering", "leaves": "leaving", "grows": "growing", "shrinks": "shrinking", "turns": "turning"}
    same |= {
        "enters_last": "entering last",
        "leaves_first": "leaving first",
        "largest": "largest",
        "smallest": "smallest",
    }
    checked: Counter[str] = Counter()
    for index in range(40):
        video = make_video(0, index, "train", replace(SMALL, expressions=6))
        deeds = judge_deeds(video)
        for expression in video.expressions:
            deed = same.get(expression.subtype)
            if expression.subtype in ("heading", "outermost"):
                deed = f"{'heading' if expression.subtype == 'heading' else 'furthest'} {expression.names['heading']}"
            if deed and expression.kind != "absent" and not expression.names.keys() & {"colour", "shape"}:
                verdicts = deeds[:, list(DEEDS).index(deed)]
                assert tuple(np.flatnonzero(verdicts == YES)) == expression.object_ids
                assert MAYBE not in verdicts
                checked[deed] += 1
    assert len(checked) >= 12
    assert sum(checked.values()) >= 60

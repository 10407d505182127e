"""Promises of the measures: equal to those of whole images, protocols as published, presence and time by definition."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pycocotools import mask as coco

from tests.support import full_image_metrics as reference
from vrshq.operators.masks.bits import RleError, Window, boundary, count, dilate, pack, runs, without_gaps
from vrshq.operators.masks.rle import Rle, encode
from vrshq.pipelines.evaluate.metrics import Overlap, measure, merged, overlaps, tolerance
from vrshq.pipelines.evaluate.presence import (
    auroc,
    average_precision,
    final_score,
    no_target_summary,
    temporal_iou,
    volume_iou,
)
from vrshq.pipelines.evaluate.protocols import (
    PROTOCOLS,
    bootstrap,
    expression_score,
    group_of,
    last_per_object,
    summarize,
)


def code(mask: np.ndarray) -> Rle:
    return {"size": mask.shape, "counts": encode(mask[None] != 0)[0].rle}


def one_overlap(truth: np.ndarray, predicted: np.ndarray) -> Overlap:
    return overlaps(runs([code(truth)]), runs([code(predicted)]))[0]


def pixels(bits: np.ndarray, rows: int) -> np.ndarray:
    """The bits of an image as (rows, columns) uint8, 0 and 1."""
    return np.unpackbits(bits.T.copy().view(np.uint8), axis=-1, bitorder="little", count=rows).T


@st.composite
def masks(draw: st.DrawFn, height: int, width: int) -> np.ndarray:
    """Draws a mask: empty, full, one pixel, boxes (often at the border) or noise."""
    kind = draw(st.sampled_from(["empty", "full", "pixel", "boxes", "noise"]))
    mask = np.zeros((height, width), np.uint8)
    if kind == "full":
        mask[:] = 1
    elif kind == "pixel":
        mask[draw(st.integers(0, height - 1)), draw(st.integers(0, width - 1))] = 1
    elif kind == "boxes":
        for _ in range(draw(st.integers(1, 3))):
            top, left = draw(st.integers(-height // 3, height - 1)), draw(st.integers(-width // 3, width - 1))
            bottom, right = top + draw(st.integers(1, height)), left + draw(st.integers(1, width))
            mask[max(0, top) : max(0, bottom), max(0, left) : max(0, right)] = 1
    elif kind == "noise":
        share = draw(st.floats(0.02, 0.98))
        mask[:] = np.random.default_rng(draw(st.integers(0, 2**32 - 1))).random((height, width)) < share
    return mask


# heights below and above the 64 rows of a word; the longest diagonals have a tolerance of 3 pixels
SIZES = st.tuples(st.integers(1, 200), st.integers(1, 260))


@st.composite
def pairs(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    height, width = draw(SIZES)
    truth = draw(masks(height, width))
    if draw(st.booleans()):
        return truth, draw(masks(height, width))
    # nearly equal masks, whose boundaries are within or beyond the tolerance
    shift = draw(st.tuples(st.integers(-4, 4), st.integers(-4, 4)))
    return truth, np.roll(truth, shift, (0, 1))


@settings(max_examples=300, deadline=None)
@given(pairs())
def test_j_and_f_equal_the_whole_image_to_the_last_bit(pair: tuple[np.ndarray, np.ndarray]) -> None:
    truth, predicted = pair
    got = one_overlap(truth, predicted)
    assert got.j == reference.jaccard(truth, predicted)
    assert got.f == reference.boundary_f(truth, predicted)
    assert (got.truth_area, got.predicted_area) == (truth.sum(), predicted.sum())
    assert (got.intersection, got.union) == ((truth & predicted).sum(), (truth | predicted).sum())


@pytest.mark.parametrize(
    ("truth", "predicted"),
    list(product(["empty", "full", "corner", "edge", "middle"], repeat=2)),
    ids=lambda name: name,
)
@pytest.mark.parametrize("shape", [(60, 80), (1, 9), (9, 1), (1, 1), (128, 64), (480, 854)])
def test_special_masks_equal_the_whole_image(shape: tuple[int, int], truth: str, predicted: str) -> None:
    drawn = {name: np.zeros(shape, np.uint8) for name in ("empty", "full", "corner", "edge", "middle")}
    drawn["full"][:] = 1
    drawn["corner"][-1, -1] = 1
    drawn["edge"][-3:] = 1
    drawn["middle"][shape[0] // 3 : shape[0] // 2 + 1, shape[1] // 3 : shape[1] // 2 + 1] = 1
    one, other = drawn[truth], drawn[predicted]
    got = one_overlap(one, other)
    assert (got.j, got.f) == (reference.jaccard(one, other), reference.boundary_f(one, other))


@pytest.mark.parametrize("seed", range(12))
def test_large_images_equal_the_whole_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    pair = np.zeros((2, 1080, 1920), np.uint8)
    for mask in pair:
        for _ in range(rng.integers(1, 4)):
            top, left = rng.integers(-100, 1000), rng.integers(-100, 1800)
            height, width = rng.integers(1, 300, 2)
            mask[max(0, top) : max(0, top + height), max(0, left) : max(0, left + width)] = 1
    if seed % 2:
        pair[1] = np.roll(pair[0], rng.integers(-25, 25, 2), (0, 1))
    got = one_overlap(pair[0], pair[1])
    assert (got.j, got.f) == (reference.jaccard(*pair), reference.boundary_f(*pair))


def test_a_full_mask_has_no_boundary_so_f_is_1_against_an_empty_one_as_published() -> None:
    full, empty = np.ones((30, 40), np.uint8), np.zeros((30, 40), np.uint8)
    got = one_overlap(empty, full)
    assert (got.j, got.f) == (0.0, 1.0)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_all_measures_equal_the_whole_image_also_where_truth_exceeds_1(data: st.DataObject) -> None:
    height, width = data.draw(SIZES)
    layers = [[data.draw(masks(height, width)) for _ in range(data.draw(st.integers(0, 3)))] for _ in range(2)]
    guesses = [data.draw(masks(height, width)) for _ in range(2)]
    around = [[data.draw(masks(height, width)) for _ in range(data.draw(st.integers(0, 2)))] for _ in range(2)]
    value = data.draw(st.sampled_from([1, 255]))
    zero = np.zeros((height, width), np.uint8)
    got = measure(
        [[code(mask) for mask in frame] for frame in layers],
        [code(mask) for mask in guesses],
        [[code(mask) for mask in frame] for frame in around],
        value=value,
    )
    for place, guess in enumerate(guesses):
        truth = np.asarray(np.sum([zero, *layers[place]], axis=0, dtype=np.uint8))
        foreground = np.asarray(np.sum([zero, *around[place]], axis=0, dtype=np.uint8))
        as_read = guess * np.uint8(value)
        assert got.j[place] == reference.jaccard(truth, guess)
        assert got.f[place] == reference.boundary_f(truth, guess)
        assert got.a[place] == reference.accuracy(truth, as_read)
        assert got.r[place] == reference.robustness(truth, as_read, foreground)
        flat = [np.asarray(image > 0).astype(np.uint8) for image in (truth, guess, foreground)]
        assert got.a_fixed[place] == reference.accuracy(*flat[:2])
        assert got.r_fixed[place] == reference.robustness(*flat)


@settings(max_examples=200, deadline=None)
@given(pairs(), st.integers(1, 30))
def test_dilation_and_boundary_equal_opencv_on_the_whole_image(
    pair: tuple[np.ndarray, np.ndarray], radius: int
) -> None:
    import cv2

    height, width = pair[0].shape
    bits = pack(runs([code(mask) for mask in pair]), Window(0, height, 0, width))
    edges = boundary(bits, height)
    grown = dilate(edges, radius)
    for mask, packed, edge, near in zip(pair, bits, edges, grown, strict=True):
        assert np.array_equal(pixels(packed, height), mask)
        want = reference.boundary_map(mask).astype(np.uint8)
        assert np.array_equal(pixels(edge, height), want)
        assert np.array_equal(pixels(near, height), cv2.dilate(want, reference.disk(radius)))
    assert count(edges).tolist() == [int(reference.boundary_map(mask).sum()) for mask in pair]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 199), min_size=1, max_size=6), st.integers(1, 20))
def test_dropping_empty_columns_keeps_distances_up_to_the_radius(filled: set[int], radius: int) -> None:
    bits = np.zeros((1, 1, 200), np.uint64)
    bits[0, 0, list(filled)] = 1
    kept = np.flatnonzero(without_gaps(bits, radius)[0, 0])
    assert np.minimum(np.diff(kept), radius + 1).tolist() == np.minimum(np.diff(sorted(filled)), radius + 1).tolist()


@given(hnp.arrays(np.uint8, st.tuples(st.integers(1, 70), st.integers(1, 20)), elements=st.integers(0, 1)))
def test_runs_are_those_of_pycocotools(mask: np.ndarray) -> None:
    found = runs([code(mask)])[0]
    flat = np.zeros(mask.size, np.uint8)
    for begin, end in found.edges.reshape(-1, 2):
        flat[begin:end] = 1
    assert np.array_equal(flat.reshape(mask.shape[::-1]).T, mask)
    assert found.area == mask.sum()


def test_long_runs_and_runs_of_no_pixel_are_read() -> None:
    mask = np.zeros((1080, 1920), np.uint8)
    mask[:, 5:1900] = 1
    assert runs([code(mask)])[0].edges.tolist() == [5 * 1080, 1900 * 1080]
    counts = [3, 2, 0, 2, 5]  # the third run has no pixel
    rle = coco.frPyObjects({"size": [4, 3], "counts": counts}, 4, 3)
    assert runs([rle])[0].area == int(coco.area(rle)) == 4
    assert overlaps(runs([rle]), runs([code(coco.decode(rle))]))[0].j == 1.0


@pytest.mark.parametrize(
    "counts", [b"", b"zzzz", b"05", b"\xff\xff", b"P", b"o0", b"`" * 40 + b"0", b"0" * 9, b"0\x00"], ids=repr
)
def test_broken_run_length_codes_are_refused(counts: bytes) -> None:
    with pytest.raises(RleError):
        runs([{"size": (6, 8), "counts": counts}])


@settings(max_examples=300)
@given(st.binary(max_size=60), st.integers(1, 40), st.integers(1, 40))
def test_any_bytes_are_read_as_a_mask_or_refused(counts: bytes, height: int, width: int) -> None:
    try:
        found = runs([{"size": (height, width), "counts": counts}])[0]
    except RleError:
        return
    assert 0 <= found.area <= height * width
    assert np.all(np.diff(found.edges) >= 0)


def test_measures_refuse_lists_and_sizes_that_do_not_fit() -> None:
    small, large = code(np.ones((4, 5), np.uint8)), code(np.ones((5, 4), np.uint8))
    for truth, predicted in (([[small]], [small, small]), ([], [])):
        with pytest.raises(ValueError, match="as many frames"):
            measure(truth, predicted)
    with pytest.raises(ValueError, match="4x5, 5x4"):
        measure([[small]], [large])
    assert math.isnan(measure([[small]], [small]).r[0])
    assert merged([], 4, 5)["counts"] == code(np.zeros((4, 5), np.uint8))["counts"]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_masks_measured_together_are_measured_as_each_alone(data: st.DataObject) -> None:
    height, width = data.draw(SIZES)
    drawn = [
        (data.draw(masks(height, width)), data.draw(masks(height, width))) for _ in range(data.draw(st.integers(1, 6)))
    ]
    together = overlaps(runs([code(one) for one, _ in drawn]), runs([code(other) for _, other in drawn]))
    assert together == [one_overlap(*pair) for pair in drawn]


def test_codes_read_together_are_those_read_alone_and_a_broken_one_is_named() -> None:
    rng = np.random.default_rng(3)
    drawn = [(rng.random(rng.integers(1, 60, 2)) < rng.random()).astype(np.uint8) for _ in range(40)]
    codes = [code(mask) for mask in drawn]
    for found, one in zip(runs(codes), codes, strict=True):
        alone = runs([one])[0]
        assert (found.height, found.width, found.edges.tolist()) == (alone.height, alone.width, alone.edges.tolist())
    assert runs([]) == []
    with pytest.raises(RleError, match="mask 7 of"):
        runs([*codes[:7], {"size": (3, 3), "counts": codes[8]["counts"]}, *codes[7:]])


@pytest.mark.parametrize(("size", "want"), [((480, 854), 8), ((720, 1280), 12), ((1080, 1920), 18)])
def test_tolerance_is_that_of_the_reference_sizes(size: tuple[int, int], want: int) -> None:
    assert tolerance(*size) == want


def test_expressions_are_rounded_before_they_are_averaged_only_where_the_protocol_says_so() -> None:
    frames = np.array([1 / 3, 2 / 3, 1 / 7])
    assert expression_score(frames, PROTOCOLS["revos"]) == round(float(frames.mean()) * 100, 2)
    assert expression_score(frames, PROTOCOLS["mevis"]) == float(frames.mean()) * 100
    official = PROTOCOLS["ref-davis17-official"]
    assert expression_score(np.array([0.0, 0.5, np.nan, 1.0, 0.0]), official) == 75.0
    assert math.isnan(expression_score(np.array([1.0, 1.0]), official))


def columns(rows: list[tuple[str, str | None, float, float]]) -> dict[str, np.ndarray]:
    video, group, j, f = zip(*rows, strict=True)
    return {"video_id": np.array(video, object), "group": np.array(group, object), "J": np.array(j), "F": np.array(f)}


def test_overall_is_the_mean_of_group_means_whatever_their_sizes() -> None:
    rows = [("a", "referring", 10.0, 20.0), ("a", "referring", 30.0, 40.0), ("b", "referring", 50.0, 60.0)]
    got = summarize(columns([*rows, ("b", "reasoning", 90.0, 70.0), ("b", None, 0.0, 0.0)]))
    assert got["referring"] == {"J": 30.0, "F": 40.0, "JF": 35.0}
    assert got["overall"] == {"J": 60.0, "F": 55.0, "JF": 57.5}
    assert summarize(columns([("a", None, 1.0, 1.0)])) == {}


def test_groups_are_kinds_annotators_or_all_but_no_target() -> None:
    kinds = [group_of(PROTOCOLS["revos"], "0", kind) for kind in ("referring", "reasoning", "no-target", None)]
    assert kinds == ["referring", "reasoning", None, None]
    official = PROTOCOLS["ref-davis17-official"]
    assert [group_of(official, name, None) for name in ("5", "6", "x")] == ["annotator 1", "annotator 2", None]
    assert [group_of(PROTOCOLS["mevis"], "0", kind) for kind in (None, "no-target")] == ["all", None]


def test_the_last_text_on_an_object_counts() -> None:
    assert last_per_object([("v", "1"), ("v", "2"), ("v", "1"), ("w", "1")]).tolist() == [False, True, True, True]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 100)), min_size=1, max_size=40))
def test_intervals_hold_only_means_that_draws_of_videos_can_give(rows: list[tuple[str, float]]) -> None:
    table = columns([(video, "all", value, value) for video, value in rows])
    low, high = bootstrap(table, samples=200)["all"]["J"]
    means = [np.mean([value for other, value in rows if other == video]) for video, _ in rows]
    assert min(means) - 1e-9 <= low <= high <= max(means) + 1e-9
    assert bootstrap(table, samples=200) == bootstrap(table, samples=200)
    assert bootstrap({**table, "video_id": np.full(len(rows), "one", object)})["all"]["J"] == pytest.approx(
        [np.mean([value for _, value in rows])] * 2
    )


def test_intervals_cover_the_mean_about_as_often_as_they_say() -> None:
    rng = np.random.default_rng(7)
    hits = 0
    for trial in range(200):
        videos = np.repeat(np.arange(60), 3)
        values = 50 + rng.normal(0, 10, 60)[videos] + rng.normal(0, 5, videos.size)
        table = columns([(str(video), "all", value, value) for video, value in zip(videos, values, strict=True)])
        low, high = bootstrap(table, samples=300, seed=trial)["all"]["J"]
        hits += low <= 50 <= high
    assert 175 <= hits <= 199


SCORED = st.lists(st.tuples(st.booleans(), st.integers(0, 5)), min_size=1, max_size=30)


@given(SCORED)
def test_auroc_is_the_share_of_pairs_in_order(rows: list[tuple[bool, int]]) -> None:
    positive, scores = (np.array(column) for column in zip(*rows, strict=True))
    pairs = [(a > b) + 0.5 * (a == b) for a in scores[positive] for b in scores[~positive]]
    got = auroc(positive, scores)
    assert got == pytest.approx(np.mean(pairs)) if pairs else math.isnan(got)


@given(SCORED)
def test_average_precision_equals_its_definition(rows: list[tuple[bool, int]]) -> None:
    positive, scores = (np.array(column) for column in zip(*rows, strict=True))
    area, before = 0.0, 0.0
    for level in sorted(set(scores.tolist()), reverse=True):
        taken = scores >= level
        recall = positive[taken].sum() / max(1, positive.sum())
        area, before = area + (recall - before) * positive[taken].mean(), recall
    got = average_precision(positive, scores)
    assert got == pytest.approx(area) if positive.any() else math.isnan(got)


def test_no_target_measures_count_masks_not_presence() -> None:
    got = no_target_summary(
        target=np.array([True, True, False, False]),
        presence=np.array([0.9, 0.2, 0.4, 0.1]),
        empty_frames=np.array([1, 4, 4, 2]),
        frames=np.array([4, 4, 4, 4]),
        predicted_area=np.array([30, 0, 0, 40]),
        pixels=np.array([400, 400, 400, 400]),
    )
    assert got == {
        "n_acc": 0.5,
        "false_positive_rate": 0.5,
        "t_acc": 0.5,
        "auroc": 0.75,
        "auprc": pytest.approx(0.5 + 0.5 * 2 / 3),
        "false_positive_area": 0.05,
        "empty_expressions": 0.5,
        "empty_frames": 5 / 8,
    }


def test_final_is_the_mean_of_jf_n_acc_and_t_acc() -> None:
    # MomentSeg's published numbers on MeViS v2's val_u
    assert final_score(53.09, 41.38, 92.53) == pytest.approx(62.33, abs=0.005)
    assert math.isnan(final_score(53.09, math.nan, 92.53))


def test_temporal_and_volume_iou() -> None:
    true, predicted = np.array([True, True, False, False]), np.array([True, False, True, False])
    j = np.array([0.6, 0.0, 0.0, 1.0])
    assert temporal_iou(true, predicted) == pytest.approx(1 / 3)
    assert volume_iou(j, true, predicted) == pytest.approx(0.2)
    nothing = np.zeros(4, bool)
    assert (temporal_iou(nothing, nothing), volume_iou(j, nothing, nothing)) == (1.0, 1.0)

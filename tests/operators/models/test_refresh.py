"""Candidates that take over from lost tracks: when they do, what changes, and that an interruption changes nothing."""

from __future__ import annotations

from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.support.array_video import ArrayVideo
from vrshq.operators.models.families import SA2VA, VRS_HQ, RefreshWhen
from vrshq.operators.models.family import Pauses, TrackState
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.refresh import Candidates
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.tracking import TrackedFrame, condition_all, propagate_all
from vrshq.operators.models.sam2.values import Memory
from vrshq.operators.models.shared import shared_network
from vrshq.operators.synth import SynthConfig, make_video
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.label.settings import Settings

TOTAL, KEYFRAME, AT = 16, 3, 9


@cache
def segmenter() -> Segmenter:
    network = shared_network("untrained-tiny", "segmenter", "cpu", "float32")
    assert isinstance(network, Segmenter)
    return network


def half(side: int, *, left: bool) -> Tensor:
    """Logits of a mask of the left, or of the right half of a frame."""
    logits = torch.full((side, side), 3.0)
    logits[:, side // 2 :] = -3.0
    return logits if left else -logits


def opened() -> VideoFeatures:
    return VideoFeatures(segmenter(), ArrayVideo(TOTAL), budget_bytes=1 << 30, batch_size=4)


@cache
def memory() -> Memory:
    mask = half(segmenter().image_size // 4, left=True)
    return condition_all(segmenter(), opened(), {0: KEYFRAME}, {0: mask}, 0)[0][1]


def track(candidates: Candidates | None = None, pauses: Pauses | None = None) -> dict[int, TrackedFrame]:
    memories = {0: {KEYFRAME: memory()}}
    steps = propagate_all(segmenter(), opened(), memories, TOTAL, 16, candidates=candidates, pauses=pauses)
    return {item.frame: item for step in steps for item in step}


def candidate(score: float, *, left: bool = False) -> dict[tuple[int, int], tuple[float, Tensor]]:
    return {(AT, 0): (score, half(segmenter().image_size // 4, left=left))}


def candidates(when: RefreshWhen, found: dict[tuple[int, int], tuple[float, Tensor]]) -> Candidates:
    return Candidates(when, 0, found, {0: KEYFRAME})


def nowhere(_: Tensor) -> float:
    raise AssertionError("no mask is tracked back")


def equal(one: TrackedFrame, other: TrackedFrame) -> bool:
    return torch.equal(one.low_res, other.low_res) and one.object_logit == other.object_logit


def test_from_the_frame_of_the_candidate_on_and_in_its_direction_alone_the_track_is_another() -> None:
    plain = track()
    score = plain[AT].object_logit + 1
    found = track(candidates("disagreement", candidate(abs(score) + 1)))
    assert found[AT].object_logit == abs(score) + 1
    same = [frame for frame in plain if equal(plain[frame], found[frame])]
    assert same == [frame for frame in plain if frame < AT]
    mask = candidate(1.0)[AT, 0][1]
    entered, _ = segmenter().condition(opened().get([AT]), segmenter().to_image_size(mask[None]) > 0, 0)
    assert torch.equal(found[AT].low_res, entered[0])


def test_a_candidate_takes_over_only_where_it_should() -> None:
    side = segmenter().image_size // 4
    left, right = half(side, left=True), half(side, left=False)
    lost = candidates("lost", {(AT, 0): (2.0, right)})
    assert lost.better(AT, 0, -0.1, left, nowhere) is not None
    assert lost.better(AT, 0, 0.1, left, nowhere) is None, "not lost"
    assert lost.better(AT + 1, 0, -0.1, left, nowhere) is None, "no candidate on this frame"
    assert lost.better(AT, 1, -0.1, left, nowhere) is None, "no candidate of this object"
    unseen = candidates("lost", {(AT, 0): (-0.1, right)})
    assert unseen.better(AT, 0, -5.0, left, nowhere) is None, "it shows nothing either"
    differing = candidates("disagreement", {(AT, 0): (2.0, right)})
    assert differing.better(AT, 0, 1.0, left, nowhere) is not None
    assert differing.better(AT, 0, 3.0, left, nowhere) is None, "the tracked one is surer"
    assert differing.better(AT, 0, 1.0, right, nowhere) is None, "they agree"
    assert differing.better(AT, 0, -1.0, right, nowhere) is not None


@given(new=st.floats(0, 1), old=st.floats(0, 1), score=st.floats(-5, 5), surer=st.booleans())
def test_forward_backward_takes_the_mask_that_returns_to_the_keyframe_whatever_the_scores(
    *, new: float, old: float, score: float, surer: bool
) -> None:
    side = segmenter().image_size // 4
    left, right = half(side, left=True), half(side, left=False)
    both = candidates("forward-backward", {(AT, 0): (6.0 if surer else 0.0, right)})
    taken = both.better(AT, 0, score, left, lambda mask: new if mask is right else old)
    assert (taken is not None) == (new >= 0.5 and (score < 0 or new > old))
    if score >= 0:
        assert both.better(AT, 0, score, right, nowhere) is None, "they agree"


def test_the_keyframe_s_own_mask_returns_to_itself_and_another_object_s_does_not() -> None:
    """On real weights: of two objects of a synthetic video, tracked to the keyframe from a later frame."""
    network = shared_network("tiny", "segmenter", "cpu", "float32")
    assert isinstance(network, Segmenter)
    video = make_video(7, 0, "test", SynthConfig(frames=(12, 12), objects=(3, 3), short_sides=(128,), aspects=(1.0,)))
    masks, at, side = torch.from_numpy(video.masks).float(), 6, network.image_size // 4
    shown = [number for number, mask in enumerate(masks) if mask[0].any() and mask[at].any()]
    assert len(shown) > 1
    logits = {
        (frame, number): F.interpolate(masks[number, frame][None, None], (side, side))[0, 0] * 20 - 10
        for frame in (0, at)
        for number in shown
    }
    found = {key: (5.0, mask) for key, mask in logits.items()}
    both = Candidates("forward-backward", 0, found, dict.fromkeys(shown, 0))
    frames = ArrayVideo(len(video.frames))
    frames.array, (frames.height, frames.width) = video.frames, video.frames.shape[1:3]
    features = VideoFeatures(network, frames, budget_bytes=1 << 30, batch_size=4)
    for number in shown:
        returned = {one: both.returned_iou(network, features, at, number, logits[at, one]) for one in shown}
        assert returned[number] > 0.5
        assert max(returned, key=returned.__getitem__) == number


@pytest.mark.parametrize("when", ["never", "disagreement", "forward-backward"])
def test_a_track_that_goes_on_from_any_of_its_states_has_the_same_outputs(when: RefreshWhen) -> None:
    keyframe = {(KEYFRAME, 0): candidate(1.0, left=True)[AT, 0]}
    found = None if when == "never" else candidates(when, candidate(99.0) | keyframe)
    states: list[TrackState] = []
    whole = track(found, Pauses(4, {}, states.append))
    assert len(states) == 4
    for number, state in enumerate(states):
        later: list[TrackState] = []
        rest = track(found, Pauses(4, {"sweep": state}, later.append))
        assert len(later) == len(states) - number - 1
        assert all(equal(item, whole[frame]) for frame, item in rest.items())
    assert not rest


def test_a_start_without_a_keyframe_refuses_it_in_a_line() -> None:
    settings = Settings.model_validate({"tracking": {"refresh": "lost", "start": "frames"}})
    with pytest.raises(SettingsError, match=r"^tracking\.refresh lost: expected never with tracking\.start frames$"):
        settings.for_family(VRS_HQ)


def test_families_that_choose_no_keyframe_refuse_it_in_a_line() -> None:
    settings = Settings.model_validate({"model": "untrained-tiny", "tracking": {"refresh": "lost"}})
    assert settings.for_family(VRS_HQ).tracking.refresh == "lost"
    with pytest.raises(SettingsError, match=r"tracking\.refresh lost: expected never for a model of the family"):
        settings.for_family(SA2VA)

"""Candidates that take over from lost tracks: when they do, what changes, and that an interruption changes nothing."""

from __future__ import annotations

from functools import cache

import pytest
import torch
from torch import Tensor

from tests.support.array_video import ArrayVideo
from vrshq.operators.models.families import SA2VA, VRS_HQ
from vrshq.operators.models.family import Pauses, TrackState
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.refresh import Candidates
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.tracking import TrackedFrame, condition_all, propagate_all
from vrshq.operators.models.sam2.values import Memory
from vrshq.operators.models.shared import shared_network
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


def equal(one: TrackedFrame, other: TrackedFrame) -> bool:
    return torch.equal(one.low_res, other.low_res) and one.object_logit == other.object_logit


def test_from_the_frame_of_the_candidate_on_and_in_its_direction_alone_the_track_is_another() -> None:
    plain = track()
    score = plain[AT].object_logit + 1
    found = track(Candidates("disagreement", 0, candidate(abs(score) + 1)))
    assert found[AT].object_logit == abs(score) + 1
    same = [frame for frame in plain if equal(plain[frame], found[frame])]
    assert same == [frame for frame in plain if frame < AT]
    mask = candidate(1.0)[AT, 0][1]
    entered, _ = segmenter().condition(opened().get([AT]), segmenter().to_image_size(mask[None]) > 0, 0)
    assert torch.equal(found[AT].low_res, entered[0])


def test_a_candidate_takes_over_only_where_it_should() -> None:
    side = segmenter().image_size // 4
    left, right = half(side, left=True), half(side, left=False)
    lost = Candidates("lost", 0, {(AT, 0): (2.0, right)})
    assert lost.better(AT, 0, -0.1, left) is not None
    assert lost.better(AT, 0, 0.1, left) is None, "not lost"
    assert lost.better(AT + 1, 0, -0.1, left) is None, "no candidate on this frame"
    assert lost.better(AT, 1, -0.1, left) is None, "no candidate of this object"
    assert Candidates("lost", 0, {(AT, 0): (-0.1, right)}).better(AT, 0, -5.0, left) is None, "it shows nothing either"
    differing = Candidates("disagreement", 0, {(AT, 0): (2.0, right)})
    assert differing.better(AT, 0, 1.0, left) is not None
    assert differing.better(AT, 0, 3.0, left) is None, "the tracked one is surer"
    assert differing.better(AT, 0, 1.0, right) is None, "they agree"
    assert differing.better(AT, 0, -1.0, right) is not None


@pytest.mark.parametrize("refreshed", [False, True])
def test_a_track_that_goes_on_from_any_of_its_states_has_the_same_outputs(*, refreshed: bool) -> None:
    candidates = Candidates("disagreement", 0, candidate(99.0)) if refreshed else None
    states: list[TrackState] = []
    whole = track(candidates, Pauses(4, {}, states.append))
    assert len(states) == 4
    for number, state in enumerate(states):
        later: list[TrackState] = []
        rest = track(candidates, Pauses(4, {"sweep": state}, later.append))
        assert len(later) == len(states) - number - 1
        assert all(equal(item, whole[frame]) for frame, item in rest.items())
    assert not rest


def test_families_that_choose_no_keyframe_refuse_it_in_a_line() -> None:
    settings = Settings.model_validate({"model": "untrained-tiny", "tracking": {"refresh": "lost"}})
    assert settings.for_family(VRS_HQ).tracking.refresh == "lost"
    with pytest.raises(SettingsError, match=r"tracking\.refresh lost: expected never for a model of the family"):
        settings.for_family(SA2VA)

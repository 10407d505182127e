"""A step of SAM2 on a GPU stays lean: upper bounds of what is launched, cast, promoted and waited for, without a GPU."""

from __future__ import annotations

from collections import Counter
from functools import cache

import pytest
import torch
from torch import Tensor

from tests.benchmarks.count_kernels import measure
from tests.support.array_video import ArrayVideo
from vrshq.operators.models.config import Sam2Config
from vrshq.operators.models.sam2 import tracking
from vrshq.operators.models.sam2.constants import Constants
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.prompting import decode_candidates
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.values import Features, Memory
from vrshq.operators.models.shared import shared_network, shared_segmenter

# Hiera-L's decoder, memory attention and memory encoder, at a size that builds in a second; its trunk has 5 of 48 blocks
SMALL = Sam2Config(
    image_size=256,
    embed_dim=16,
    num_heads=1,
    stages=(1, 1, 2, 1),
    global_attention_blocks=(3,),
    window_spec=(8, 4, 8, 4),
)


@cache
def counts() -> dict[str, Counter[str]]:
    return {part: found.total for part, found in measure(SMALL, torch.bfloat16, 16).items()}


def test_a_tracking_step_of_16_objects_is_lean() -> None:
    step = counts()["track"]
    assert step["kernels"] <= 270
    assert step["copies"] <= 5
    assert (step["casts"], step["promoted"], step["uploads"]) == (0, 0, 0)
    assert step["syncs"] <= 1


def test_encoding_and_candidates_cast_once() -> None:
    assert counts()["encode"]["kernels"] <= 81
    assert counts()["decode_prompt"]["kernels"] <= 110
    for part in ("encode", "decode_prompt"):
        found = counts()[part]
        assert found["casts"] <= 1
        assert (found["promoted"], found["syncs"], found["uploads"]) == (0, 0, 0)


def test_bfloat16_has_a_segmenter_of_its_own_and_leaves_float32_alone() -> None:
    exact = shared_segmenter("untrained-tiny", "cpu", "float32")
    rounded = shared_segmenter("untrained-tiny", "cpu", "bfloat16")
    assert {weight.dtype for weight in rounded.parameters()} == {torch.bfloat16}
    assert {weight.dtype for weight in exact.parameters()} == {torch.float32}
    assert exact is shared_segmenter("untrained-tiny", "cpu", "float32")
    half = shared_segmenter("untrained-tiny", "cpu", "float16")  # too narrow for sums
    assert {weight.dtype for weight in half.parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_tracks_nearly_the_same_masks(dtype: str) -> None:
    exact, rounded = (tracked(shared_segmenter("untrained-tiny", "cpu", name)) for name in ("float32", dtype))
    overlap = ((exact > 0) & (rounded > 0)).sum() / ((exact > 0) | (rounded > 0)).sum()
    assert overlap > 0.9


@torch.inference_mode()
def tracked(segmenter: Segmenter) -> Tensor:
    video = ArrayVideo(6)
    features = VideoFeatures(segmenter, video, budget_bytes=1 << 30, batch_size=4)
    side = segmenter.config.image_size // 4
    mask = torch.full((side, side), -1.0)
    mask[: side // 2] = 1.0
    found = tracking.condition_all(segmenter, features, {0: 0, 1: 2}, {0: mask, 1: -mask}, 0)
    memories = {one: {frame: found[one][1]} for one, frame in ((0, 0), (1, 2))}
    steps = tracking.propagate_all(segmenter, features, memories, 6, 16)
    return torch.stack([item.low_res.float() for step in steps for item in step])


def test_rows_of_one_batch_join_without_a_copy() -> None:
    batch, other = torch.arange(12.0).view(4, 3), torch.zeros(2, 3)

    def rows(*places: int) -> list[tracking._Row]:
        return [tracking._Row(batch, place) for place in places]

    assert tracking._Row.join(rows(1, 2, 3)).data_ptr() == batch[1].data_ptr()
    for places in ([0, 2], [1, 0]):
        assert torch.equal(tracking._Row.join(rows(*places)), batch[places])
    mixed = tracking._Row.join([*rows(3), tracking._Row(other, 0)])
    assert torch.equal(mixed, torch.stack([batch[3], other[0]]))


def test_memories_older_than_their_use_are_let_go() -> None:
    """A row holds its batch, so that a track whose frames are prompted must not keep old batches."""
    track = tracking._Track(0, {0: Memory(torch.zeros(1), torch.zeros(1))}, 6, 15)
    for frame in range(1, 21):
        track.remember(frame, Memory(torch.zeros(2), torch.zeros(2)), 1)
    assert (len(track.recent), len(track.pointers)) == (6, 15)
    track.forget(25)
    assert [frame for frame, _ in track.recent] == [20, 19]
    track.forget(40)
    assert (len(track.recent), len(track.pointers)) == (0, 0)


def test_constants_follow_their_weights() -> None:
    constants, weight, made = Constants(), torch.nn.Parameter(torch.ones(2)), []

    def make() -> Tensor:
        made.append(0)
        return weight * 2

    with torch.no_grad():
        first = constants.of("twice", make, weight)
        assert constants.of("twice", make, weight) is first
        weight.add_(1)
        assert constants.of("twice", make, weight).tolist() == [4, 4]
    assert len(made) == 2
    assert constants.of("twice", make, weight).requires_grad  # gradients flow, so nothing is kept
    with torch.inference_mode():
        assert not constants.of("again", make, weight).is_inference()  # it may be part of a graph later


@pytest.mark.parametrize(("budget", "batches"), [(1 << 30, [4, 4, 3]), (1, [2, 2, 2, 2, 2, 1])])
def test_candidate_frames_are_encoded_in_whole_batches(
    budget: int, batches: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two objects on eleven frames, four pairs in a step: the frames come in the encoder's batches, not in the steps'."""
    segmenter: Segmenter = shared_network("untrained-tiny", "segmenter", "cpu", "float32")
    sizes: list[int] = []
    encode = Segmenter.encode

    def counted(self: Segmenter, pixels: Tensor) -> Features:
        sizes.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(Segmenter, "encode", counted)
    video = ArrayVideo(22)
    features = VideoFeatures(segmenter, video, budget_bytes=budget, batch_size=4)
    pairs = [(frame, number) for frame in range(0, 22, 2) for number in range(2)]
    prompts = [torch.zeros(segmenter.config.d_model) for _ in range(2)]
    assert len(decode_candidates(segmenter, features, pairs, prompts, 4, 0)) == 22
    assert sizes == batches
    assert features.encoder_calls == 11
    assert features.get([0]).nbytes == segmenter.frame_bytes

"""Promise 4 for image features: their memory does not grow with the length of the video, and each frame is encoded once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.support.array_video import ArrayVideo
from tests.support.clips import h264
from vrshq.operators.models.family import Frames
from vrshq.operators.models.sam2.features import CPU_FRAMES, VideoFeatures
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.tracking import CPU_OBJECTS, condition_all, propagate_all
from vrshq.operators.models.shared import shared_network
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.video import Video, open_video

WINDOW = 32  # largest number of frames that a sweep encodes in advance


def segmenter() -> Segmenter:
    network: Segmenter = shared_network("untrained-tiny", "segmenter", "cpu", "float32")
    return network


@cache
def frame_bytes() -> int:
    size = segmenter().image_size
    with torch.inference_mode():
        return segmenter().encode(torch.zeros(1, 3, size, size)).nbytes


@dataclass
class Swept:
    """The result of a sweep.

    Attributes:
        most: largest number of frames whose features were kept at once.
        left: number of frames whose features were kept after the sweep.
        encoded: number of encoded frames.
        outputs: (instruction position, frame) of each output.
    """

    most: int
    left: int
    encoded: int
    outputs: list[tuple[int, int]]


def sweep(video: Frames, keyframes: list[int], budget_frames: int = 10_000) -> Swept:
    """Tracks one instruction from each keyframe through the video, with a budget for the features of `budget_frames` frames."""
    features = VideoFeatures(segmenter(), video, budget_bytes=budget_frames * frame_bytes(), batch_size=4)
    starts = dict(enumerate(keyframes))
    size = segmenter().image_size // 4
    mask = torch.full((size, size), -1.0)
    mask[: size // 2] = 1.0
    conditioned = condition_all(segmenter(), features, starts, dict.fromkeys(starts, mask), 0)
    memories = {position: {starts[position]: memory} for position, (_, memory) in conditioned.items()}
    most, outputs = 0, []
    for step in propagate_all(segmenter(), features, memories, video.num_frames, 16):
        most = max(most, features.kept_bytes // frame_bytes())
        outputs += [(item.position, item.frame) for item in step]
    return Swept(most, features.kept_bytes // frame_bytes(), features.encoder_calls, outputs)


@pytest.mark.parametrize("total", [40, 80])
def test_for_one_instruction_a_video_of_any_length_holds_one_window_of_frames(total: int) -> None:
    swept = sweep(ArrayVideo(total), [total // 2])
    assert swept.encoded == total
    assert swept.most <= WINDOW + 1
    assert swept.left <= 1
    assert sorted(swept.outputs) == [(0, frame) for frame in range(total) if frame != total // 2]


@pytest.mark.parametrize("total", [50, 80])
def test_for_several_instructions_only_frames_between_their_keyframes_are_kept_for_the_way_back(total: int) -> None:
    swept = sweep(ArrayVideo(total), [20, 30, 26])
    assert swept.encoded == total
    assert swept.most <= WINDOW + 11
    assert swept.left <= 1
    assert len(set(swept.outputs)) == len(swept.outputs) == 3 * (total - 1)


def test_what_does_not_fit_into_the_budget_is_encoded_again_within_it() -> None:
    swept = sweep(ArrayVideo(40), [5, 35], budget_frames=12)
    assert swept.most <= 12
    assert 40 < swept.encoded <= 2 * 40
    assert len(set(swept.outputs)) == 2 * 39


def test_a_forgotten_frame_can_be_requested_again() -> None:
    features = VideoFeatures(segmenter(), ArrayVideo(3), budget_bytes=1 << 30, batch_size=1)
    before = features.get([1])
    features.forget(1)
    features.forget(1)
    assert features.kept_bytes == 0
    assert torch.equal(features.get([1]).s16, before.s16)
    assert features.encoder_calls == 2


@pytest.mark.parametrize("decord", [True, False])
def test_a_backward_sweep_starts_decoding_once_for_each_window(decord: bool, tmp_path: Path) -> None:
    path = h264(tmp_path / "clip.mp4", frames=70)
    with open_video(str(path), DecodeConfig(frame_cache_bytes=0, decord=decord)) as video:
        assert isinstance(video, Video)
        before = video.decode_passes
        swept = sweep(video, [69])
        assert swept.encoded == 70
        # one pass for the keyframe, and one or two for each window, which decord may read in two parts
        assert video.decode_passes - before <= 1 + 2 * -(-69 // WINDOW)


def test_a_segmenter_on_the_cpu_touches_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """SAM2's own constructor moves tables to a GPU that it finds; here that would fail, because there is none."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    built = Segmenter(segmenter().config)
    tables = [layer.cross_attn_image.freqs_cis for layer in built.memory_attention.layers]
    assert {table.device.type for table in tables} == {"cpu"}
    assert torch.cuda.is_available()


def test_a_cpu_computes_large_images_one_by_one_and_small_ones_in_whole_batches() -> None:
    sizes = {256: (4, 8), 512: (1, 2), 1024: (1, 1)}
    for side, (frames, objects) in sizes.items():
        network: Any = SimpleNamespace(device=torch.device("cpu"), image_size=side)
        assert (Segmenter.fitting(network, 4, CPU_FRAMES), Segmenter.fitting(network, 16, CPU_OBJECTS)) == (
            frames,
            objects,
        )
        network.device = torch.device("cuda")
        assert Segmenter.fitting(network, 16, CPU_FRAMES) == 16

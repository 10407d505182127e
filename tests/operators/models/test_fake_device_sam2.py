"""Every path through SAM2 runs on a GPU without a tensor left on the CPU, at Hiera-L's sizes, as VRS-HQ and Sa2VA use it.

See `test_fake_device`.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from tests.benchmarks.count_kernels import steady_step
from tests.support.array_video import ArrayVideo
from tests.support.fake_device import TWO_DEVICES, TYPES, fake_device, on_fake_device, there
from tests.support.sa2va_sizes import sa2va_4b
from vrshq.operators.models.config import Sam2Config
from vrshq.operators.models.sa2va.tracker import sa2va_segmenter
from vrshq.operators.models.sam2.original import OriginalFeatures, with_original
from vrshq.operators.models.sam2.prompting import decode_candidates
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.tracking import condition_all, prompt_all
from vrshq.operators.models.sam2.values import Features

# Hiera-L but for repeated blocks: one of each kind stays (first of a stage, windowed, global), and two of four layers that
# attend to memories.
SHALLOW: Any = {"stages": (1, 1, 2, 1), "global_attention_blocks": (3,), "memory_attention_layers": 2}
HIERA_L = Sam2Config(**SHALLOW)
SHAPES = ((32, 256, 256), (64, 128, 128), (256, 64, 64))  # of a frame's features


class FakeFeatures:
    """Stands for `VideoFeatures` of a video whose frames were encoded before."""

    def __init__(self, features: Features, frames: int) -> None:
        self.features, self.video = features, ArrayVideo(frames, 48, 64)
        self.resized_hw = (768, 1024)

    def get(self, indices: list[int]) -> Features:
        return self.features if len(indices) == 1 else self.features[[0] * len(indices)]

    def prefetch(self, _: list[int]) -> None:
        pass

    def forget(self, _: int) -> None:
        pass

    def window(self) -> int:
        return 32


@dataclass(frozen=True)
class Sam2:
    """SAM2 of a family in a type, and the features of four frames, all on the fake device."""

    segmenter: Segmenter
    features: Features
    dtype: torch.dtype


def name_of(parameter: Any) -> str:
    return f"{parameter[0]}-{str(parameter[1]).removeprefix('torch.')}"


@pytest.fixture(
    scope="module", params=[(family, dtype) for family in ("vrs_hq", "sa2va") for dtype in TYPES], ids=name_of
)
def sam2(request: pytest.FixtureRequest) -> Iterator[Sam2]:
    family, dtype = request.param
    with fake_device() as (mode, _):
        segmenter = segmenter_there(mode, dtype, family)
        yield Sam2(segmenter, segmenter.encode(torch.empty(4, 3, 1024, 1024, device="cuda")), dtype)


def segmenter_there(mode: FakeTensorMode, dtype: torch.dtype, family: str) -> Segmenter:
    sizes: Any = HIERA_L
    if family == "sa2va":
        sizes = replace(sa2va_4b().sam2, **SHALLOW)
    build = {"vrs_hq": lambda: Segmenter(sizes), "sa2va": lambda: sa2va_segmenter(sizes)}[family]
    return on_fake_device(build, mode).compute_in(dtype)


def test_frames_are_encoded_and_prompted_on_the_device(sam2: Sam2) -> None:
    segmenter, features, dtype = sam2.segmenter, sam2.features, sam2.dtype
    for part, shape in zip(features.parts, SHAPES, strict=True):
        there(part, 4, *shape, dtype=dtype)
    many = features[[0] * 16]
    decoded, memory = segmenter.decode_prompted(many, torch.empty(16, 256, device="cuda"))
    there(decoded.low_res, 16, 256, 256, dtype=dtype)
    masks = torch.empty(16, 1024, 1024, dtype=torch.bool, device="cuda")
    low_res, entered = segmenter.condition(many, masks, 0)
    for one in (memory, entered, segmenter.enter(many, masks)[1]):
        there(one.features, 16, 64, 64, 64, dtype=dtype)
        there(one.pointer, 16, 256, dtype=dtype)
    there(to_frame_size(low_res, 1024, (576, 1024), (1080, 1920)), 16, 1080, 1920, dtype=torch.float32)


def test_prompts_and_masks_of_the_host_are_brought_to_the_device(sam2: Sam2) -> None:
    opened: Any = FakeFeatures(sam2.features[:1], 6)
    pairs, given = [(frame, number) for frame in (1, 3) for number in range(2)], [torch.empty(256) for _ in range(2)]
    found = decode_candidates(sam2.segmenter, opened, pairs, given, 4, 0)
    assert {logits.device.type for _, logits in found.values()} == {"cpu"}
    masks = {number: found[1, number][1] for number in range(2)}
    for low_res, memory in condition_all(sam2.segmenter, opened, {0: 1, 1: 1}, masks, 0).values():
        there(low_res, 256, 256, dtype=low_res.dtype)
        there(memory.features, 1, 64, 64, 64, dtype=sam2.dtype)
    for step in prompt_all(sam2.segmenter, opened, pairs, given, 4, 0):
        for one in step:
            there(one.memory.features, 1, 64, 64, 64, dtype=sam2.dtype)


@pytest.mark.parametrize("objects", [1, 16])
def test_a_steady_tracking_step_runs_on_the_device(objects: int, sam2: Sam2) -> None:
    outputs: Any = steady_step(sam2.segmenter, sam2.features[:1], objects)()
    assert len(outputs) == objects
    there(outputs[0].low_res, 256, 256, dtype=sam2.dtype)
    there(outputs[0].memory.features, 1, 64, 64, 64, dtype=sam2.dtype)


def test_the_original_decoder_runs_beside_the_tuned_one_on_the_device(sam2: Sam2) -> None:
    original = with_original(copy.copy(sam2.segmenter), sam2.segmenter.sam_mask_decoder)
    opened: Any = FakeFeatures(replace(sam2.features[:1], original=(sam2.features.s4[:1], sam2.features.s8[:1])), 2)
    features = OriginalFeatures(opened).get([0])
    low_res, memory = original.enter(features, torch.empty(1, 1024, 1024, dtype=torch.bool, device="cuda"))
    there(low_res, 1, 256, 256, dtype=low_res.dtype)
    decoded, _ = original.track(features, [memory], [], [])
    there(decoded.low_res, 1, 256, 256, dtype=sam2.dtype)


def test_a_tensor_that_sam2_left_on_the_cpu_is_reported(sam2: Sam2, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults planted in paths that were just shown to run: a prompt, a memory, a pointer, a table."""
    segmenter, features = sam2.segmenter, sam2.features[:1]
    memory = segmenter.condition(features, torch.empty(1, 1024, 1024, dtype=torch.bool, device="cuda"), 0)[1]
    for fault in (
        lambda: segmenter.decode_prompt(features, torch.empty(1, 256, dtype=sam2.dtype)),
        lambda: segmenter.track(features, [memory], [torch.empty(1, 64, 64, 64, dtype=sam2.dtype)], []),
        lambda: segmenter.track(features, [replace(memory, pointer=torch.empty(1, 256, dtype=sam2.dtype))], [], []),
    ):
        with pytest.raises(RuntimeError, match=TWO_DEVICES):
            fault()
    monkeypatch.setattr(Segmenter, "_image_code", lambda *_: torch.zeros(1, 64 * 64, 256, dtype=sam2.dtype))
    with pytest.raises(RuntimeError, match=TWO_DEVICES):
        segmenter.track(features, [memory], [], [])

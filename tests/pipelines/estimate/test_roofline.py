"""Seconds by stage from operations and bytes: within a factor of what a careful estimate of an H100 says."""

from __future__ import annotations

import pytest

from vrshq.cluster.ray.gpus import known_gpus
from vrshq.pipelines.estimate.roofline import (
    Device,
    encode_seconds,
    prefix_seconds,
    slowest,
    stage_terms,
    track_seconds,
)
from vrshq.pipelines.estimate.sizes import sizes_of_known
from vrshq.pipelines.estimate.terms import Terms

SIZES = sizes_of_known("vrs-hq-7b")


def on(name: str, dtype: str = "bfloat16", *, tf32: bool = False) -> Device:
    return Device(known_gpus()[name], dtype, tf32)


def near(found: float, expected: float, factor: float = 3) -> bool:
    return expected / factor <= found <= expected * factor


def test_an_h100_takes_what_the_review_estimates_within_a_factor_of_three() -> None:
    device = on("H100-80GB")
    terms = stage_terms(SIZES, device, frames=11, batch=16)
    assert near(encode_seconds(SIZES.sam2, device), 0.010)
    assert near(track_seconds(SIZES.sam2, device), 0.002)
    assert near(terms["presample"].frame, 0.001)
    assert near(16 * prefix_seconds(SIZES, device, 11), 0.66)
    assert near(16 * prefix_seconds(SIZES, on("H100-80GB", "float32"), 11), 6.6)
    # the reference unit: 300 frames, 16 instructions; about 14 s of GPU work
    assert near(Terms.total(terms.values()).seconds(300, 16), 14, 1.5)


def test_frames_that_all_instructions_share_are_read_once() -> None:
    device = on("H100-80GB")
    own, shared = (stage_terms(SIZES, device, frames=11, batch=16, shared=one)["tokens"] for one in (False, True))
    assert shared.unit == pytest.approx(own.instruction - shared.instruction)
    assert shared.seconds(300, 1) == pytest.approx(own.seconds(300, 1))
    assert shared.seconds(300, 16) < own.seconds(300, 16) / 3


def test_a_type_that_a_gpu_lacks_is_no_faster_than_float32() -> None:
    assert on("V100-32GB", "bfloat16").rate == on("V100-32GB", "float32").rate < on("V100-32GB", "float16").rate
    assert on("A100-40GB", "float32", tf32=True).rate > on("A100-40GB", "float32").rate
    assert on("T4-16GB", "float32", tf32=True).rate == on("T4-16GB", "float32").rate


def test_generated_answers_are_bound_by_bandwidth() -> None:
    sizes = sizes_of_known("sa2va-qwen3-vl-4b")
    slow, fast = (
        stage_terms(sizes, on(name), frames=5, batch=1, shared=True)["tokens"].instruction
        for name in ("H100-80GB", "H200-141GB")
    )
    assert slow / fast == pytest.approx(4800 / 3350, rel=0.1)


def test_an_unknown_gpu_is_taken_for_the_slowest_of_its_type() -> None:
    assert slowest("bfloat16").name == "A10G-24GB"
    assert slowest("float32").name == "T4-16GB"


def test_terms_add_up() -> None:
    one, two = Terms(1, 2, 3, 4), Terms(frame=1)
    assert Terms.total([one, two]) == Terms(1, 3, 3, 4)
    assert one.times(2) == Terms(2, 4, 6, 8)
    assert one.seconds(10, 2) == 1 + 20 + 6 + 80
    assert one.seconds(10, 2, pairs=5) == 1 + 20 + 6 + 20

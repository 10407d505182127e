"""GPU memory by part: weights as the networks have them, and what lives at once as fake tensors of the true sizes count it."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.count_kernels import fake_gpu, on_fake_gpu, steady_step
from tests.support.device_memory import most_bytes
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.config import ModelConfig, Sam2Config
from vrshq.operators.models.sa2va.layout import layout as sa2va_layout
from vrshq.operators.models.sa2va.layout import place_of, read_config
from vrshq.operators.models.vrs_hq.checkpoint import layout, split_name
from vrshq.operators.models.vrs_hq.language import GPU_PREFIXES
from vrshq.pipelines.estimate.memory import (
    CONTEXT_BYTES,
    PREFIXES,
    Use,
    encoder_numbers,
    gpu_memory,
    shortage,
    tracking_numbers,
)
from vrshq.pipelines.estimate.sizes import sized_models, sizes_of, sizes_of_known
from vrshq.pipelines.models.known import known_models

GIB = 1 << 30
ALL = frozenset({"language", "segmenter", "clip"})
SA2VA_TINY = Path(__file__).parents[2] / "data" / "sa2va-tiny"


def use(dtype: str, frames: int = 12, **changes: Any) -> Use:
    """The default settings."""
    defaults: dict[str, Any] = {
        "instruction_batch": 16,
        "encode_batch": 4,
        "clip_batch": 16,
        "feature_cache_bytes": 2 * GIB,
        "parts": ALL,
    }
    return Use(dtype=dtype, frames=frames, **defaults | changes)


def test_prefixes_are_counted_as_often_as_they_are_run_together() -> None:
    assert PREFIXES["vrs-hq"] == GPU_PREFIXES


def counted(shapes: dict[str, int]) -> dict[str, int]:
    return {part: shapes.get(part, 0) for part in ("language", "segmenter", "clip")}


def test_the_numbers_of_weights_are_those_of_the_networks() -> None:
    parts: dict[str, int] = {}
    for name, shape in layout(ModelConfig()).items():
        parts[split_name(name)[0]] = parts.get(split_name(name)[0], 0) + prod(shape)
    assert sizes_of_known("vrs-hq-7b").weights == pytest.approx(counted(parts), rel=0.01)


def test_the_numbers_of_a_sa2va_are_those_of_its_networks() -> None:
    """The smallest one's norms and biases are not small; SAM2 has the published sizes there."""
    parts: dict[str, int] = {}
    for name, shape in sa2va_layout(read_config(SA2VA_TINY)).items():
        parts[place_of(name)[0]] = parts.get(place_of(name)[0], 0) + prod(shape)
    sizes = sizes_of(open_bundle(str(SA2VA_TINY)))
    assert sizes is not None
    assert sizes.weights["segmenter"] == pytest.approx(parts["segmenter"], rel=0.01)


def test_known_models_have_the_number_of_weights_that_their_table_states() -> None:
    stated = known_models()
    both = [name for name in sized_models() if name in stated]
    assert len(both) == 3
    for name in both:
        assert sum(sizes_of_known(name).weights.values()) == pytest.approx(stated[name].parameters, rel=0.002)


@pytest.mark.parametrize(
    ("dtype", "part", "review", "share"),
    [
        # the table of a reading of the code before weights and memories of SAM2 had the computing type
        ("float32", "weights of the language model", 27.7, 1),
        ("float32", "weights of SAM2", 0.9, 1),
        ("float32", "weights of CLIP", 1.7, 1),
        ("bfloat16", "weights of the language model", 13.9, 1),
        ("bfloat16", "weights of SAM2", 0.9, 0.5),  # float32 then
        ("bfloat16", "weights of CLIP", 0.9, 1),
        ("float32", "prompts", 2.3, 2.0),  # two prefixes at once now, activations, and a batch of the vision tower
        ("bfloat16", "prompts", 1.1, 2.0),
        ("float32", "image features", 2.1, 1),
        ("float32", "tracking", 3.0, 0.55),  # keys of memories were copied and rotated as complex numbers
        ("bfloat16", "tracking", 2.5, 0.33),  # memories were float32, too
        ("float32", "encoder batch", 3.5, 0.5),  # an estimate then, counted now
        ("bfloat16", "encoder batch", 2.0, 0.42),
        ("float32", "context and slack", 2.5, 1 / 3),  # three processes then
    ],
)
def test_parts_of_the_7b_are_those_of_the_review(dtype: str, part: str, review: float, share: float) -> None:
    found = gpu_memory(sizes_of_known("vrs-hq-7b"), use(dtype))[part] / 1e9
    assert found == pytest.approx(review * share, rel=0.2)


def test_the_whole_of_the_7b_is_less_than_the_review_says_by_what_became_half() -> None:
    whole = {
        dtype: sum(gpu_memory(sizes_of_known("vrs-hq-7b"), use(dtype)).values()) for dtype in ("float32", "bfloat16")
    }
    assert whole["float32"] / 1e9 == pytest.approx(43, rel=0.2)
    assert whole["bfloat16"] / 1e9 == pytest.approx(25, rel=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_lives_at_once_is_what_fake_tensors_of_the_true_sizes_count(dtype: torch.dtype) -> None:
    config = Sam2Config()
    with fake_gpu() as mode:
        segmenter = on_fake_gpu(config, mode)
        segmenter.compute_in(dtype)
        frames = torch.empty(4, 3, config.image_size, config.image_size, device="cuda", dtype=dtype)
        encoding = most_bytes(lambda: segmenter.encode(frames))
        step = steady_step(segmenter, segmenter.encode(frames[:1]), 16)
        tracking = most_bytes(step)
    assert encoder_numbers(config, 4) * dtype.itemsize == pytest.approx(encoding, rel=0.05)
    kept = 16 * 8 * 4096 * 64 * dtype.itemsize  # memories of earlier frames, which the step does not make
    assert tracking_numbers(config, 16) * dtype.itemsize - kept == pytest.approx(tracking, rel=0.05)


def test_an_actor_books_the_parts_that_it_loads() -> None:
    sizes = sizes_of_known("vrs-hq-7b")
    whole = gpu_memory(sizes, use("bfloat16"))
    parts = [gpu_memory(sizes, use("bfloat16", parts={part})) for part in sorted(ALL)]
    assert sum(sum(part.values()) for part in parts) == sum(whole.values()) + 2 * CONTEXT_BYTES
    assert gpu_memory(sizes, use("bfloat16", parts=())) == {}


def test_batches_and_the_budget_of_features_count() -> None:
    sizes = sizes_of_known("vrs-hq-7b")

    def of(**changes: Any) -> dict[str, int]:
        return gpu_memory(sizes, use("bfloat16", **changes))

    small = of(instruction_batch=4, feature_cache_bytes=GIB, encode_batch=1)
    whole = of()
    for part in ("tracking", "masks of full size", "encoder batch"):
        assert small[part] == pytest.approx(whole[part] / 4, rel=1e-6)
    assert small["image features"] == GIB
    assert small["prompts"] < whole["prompts"]


def test_each_unit_that_is_worked_on_at_once_has_batches_and_features_of_its_own() -> None:
    sizes = sizes_of_known("vrs-hq-7b")
    one, two = (gpu_memory(sizes, use("bfloat16", units=units)) for units in (1, 2))
    shared = [part for part in one if part.startswith("weights")] + ["context and slack"]
    assert two == {part: size if part in shared else 2 * size for part, size in one.items()}


def test_cuda_graphs_keep_the_memory_of_their_calls_once_for_all_units() -> None:
    sizes = sizes_of_known("vrs-hq-7b")
    plain, compiled = (gpu_memory(sizes, use("bfloat16", compiled=wanted)) for wanted in (False, True))
    graphs = compiled.pop("CUDA graphs")
    assert compiled == plain
    assert graphs == pytest.approx(plain["encoder batch"] + 2 * plain["tracking"], rel=1e-6)
    assert gpu_memory(sizes, use("bfloat16", compiled=True, units=2))["CUDA graphs"] == graphs
    assert "CUDA graphs" not in gpu_memory(sizes, use("bfloat16", compiled=True, parts={"language"}))


def test_a_shortage_is_one_line_that_says_what_helps() -> None:
    needed = {"weights of SAM2": 10 * GIB, "tracking": 21 * GIB}
    assert shortage(needed, None, "bfloat16") == shortage(needed, 31 * GIB, "bfloat16") == ""
    assert shortage(needed, 24 * GIB, "bfloat16") == (
        "needs 31.0 GiB of GPU memory, the GPU has 24.0 GiB; "
        "lower resources.instruction_batch or resources.feature_cache_mib, or take a larger GPU"
    )
    assert shortage(needed, 8 * GIB, "bfloat16") == (
        "needs 31.0 GiB of GPU memory, the GPU has 8.0 GiB, and the weights alone take 10.0 GiB; take a larger GPU"
    )
    assert shortage(needed, 8 * GIB, "float32").endswith("; set dtype=bfloat16, or take a larger GPU")
    assert shortage(needed, 8 * GIB, "float32", bfloat16=False).endswith("; set dtype=float16, or take a larger GPU")

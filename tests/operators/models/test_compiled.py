"""Compiled code gives the masks of the plain one, is made a bounded number of times, and is not even loaded unless asked for.

Most tests trace the networks in one piece as for the compiler and run what was traced (`traced`); the compiler itself takes
half a minute for a step, so that it has a function of three operators here, and a run in `pipelines/label/test_compile.py`.
"""

from __future__ import annotations

import copy
import functools
import shutil
import sysconfig
import threading
from collections.abc import Iterator, Sequence
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor

from tests.benchmarks.count_kernels import fake_gpu, on_fake_gpu
from tests.support.array_video import ArrayVideo
from vrshq.operators.models.config import Sam2Config
from vrshq.operators.models.family import Pauses, TrackState
from vrshq.operators.models.sa2va.tracker import USAGE
from vrshq.operators.models.sam2 import compiled
from vrshq.operators.models.sam2 import segmenter as module
from vrshq.operators.models.sam2.compiled import CompilerError, check_compiler, run_compiled, sizes
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.tracking import condition_all, propagate_all
from vrshq.operators.models.sam2.values import Memory, Usage

# The least SAM2; a frame attends to its keyframe and the frame before, so that a memory is full after one frame.
LEAST = Sam2Config(
    image_size=64,
    d_model=16,
    memory_dim=8,
    embed_dim=8,
    num_heads=1,
    stages=(1, 1, 2, 1),
    global_attention_blocks=(3,),
    window_spec=(8, 4, 8, 4),
    window_pos_embed_bkg_spatial_size=(2, 2),
    memory_attention_layers=1,
    memory_attention_dim_feedforward=16,
    decoder_dim_feedforward=16,
    num_maskmem=2,
    max_object_pointers=2,
)
FRAMES, BATCH = 9, 2
COMPILED = compiled._compiled
Masks = dict[tuple[int, int], Tensor]


@pytest.fixture(scope="module")
def plain() -> Segmenter:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        built: Segmenter = Segmenter(LEAST).eval()
        return built


@pytest.fixture(scope="module")
def made() -> Iterator[list[str]]:
    """Has functions traced in one piece and not compiled; one entry for each that would have been compiled."""
    found: list[str] = []

    def backend(graph: Any, _: Sequence[Tensor]) -> Any:
        found.append(threading.current_thread().name)
        return graph.forward

    def trace(function: Any) -> Any:
        return torch.compile(function, backend=backend, fullgraph=True, dynamic=False)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(compiled, "_compiled", functools.cache(trace))
        yield found


@pytest.fixture(scope="module")
def traced(plain: Segmenter, made: list[str]) -> Segmenter:
    assert made is not None
    return plain.as_compiled()


def tracked(
    segmenter: Segmenter, objects: int, *, frames: int = FRAMES, pauses: Pauses | None = None, seed: int = 0
) -> Masks:
    """Mask logits by object and frame; the keyframe is the middle one."""
    opened = VideoFeatures(segmenter, ArrayVideo(frames, 48, 64, seed=seed), budget_bytes=1 << 30, batch_size=4)
    random, side, middle = torch.Generator().manual_seed(seed), segmenter.image_size // 4, frames // 2
    masks = {one: torch.randn(side, side, generator=random) for one in range(objects)}
    begun = condition_all(segmenter, opened, dict.fromkeys(masks, middle), masks, 0)
    memories = {one: {middle: memory} for one, (_, memory) in begun.items()}
    steps = propagate_all(segmenter, opened, memories, frames, BATCH, pauses=pauses)
    return {(one.position, one.frame): one.low_res.clone() for step in steps for one in step}


def distance(one: Masks, other: Masks) -> float:
    """The largest difference of logits."""
    assert one.keys() == other.keys()
    return max(float((one[key] - other[key]).abs().max()) for key in one)


def test_masks_are_the_plain_ones_and_few_shapes_are_compiled(
    plain: Segmenter, traced: Segmenter, made: list[str]
) -> None:
    """Three objects are cut into 2 and 1; all later numbers of objects, and videos of other lengths, use these."""
    before = len(made)
    for objects, frames in ((3, FRAMES), (1, 5), (2, 13), (5, 6)):
        assert distance(tracked(traced, objects, frames=frames), tracked(plain, objects, frames=frames)) < 1e-5
    # the encoder, and two sizes of a step
    assert len(made) - before == 3
    # after an allocation has failed, batches are halved: their sizes are there already, but for the encoder's
    opened = VideoFeatures(traced, ArrayVideo(5, 48, 64), budget_bytes=1 << 30, batch_size=2)
    opened.get(range(5))
    assert len(made) - before == 4
    # one thread makes and runs it all
    assert {name.split("_")[0] for name in made} == {"compiled"}


def test_threads_that_track_at_once_get_their_own_masks(plain: Segmenter, traced: Segmenter) -> None:
    found: dict[int, Masks] = {}

    def track(seed: int) -> None:
        found[seed] = tracked(traced, 3, seed=seed)

    threads = [threading.Thread(target=track, args=(seed,)) for seed in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    alone = {seed: tracked(plain, 3, seed=seed) for seed in range(4)}
    assert all(distance(found[seed], alone[seed]) < 1e-5 for seed in alone)
    assert distance(alone[0], alone[1]) > 1e-3


def test_an_interrupted_track_goes_on_to_the_same_bits(traced: Segmenter) -> None:
    states: list[TrackState] = []
    whole = tracked(traced, 3, pauses=Pauses(3, {}, states.append))
    assert {state.about["reverse"] for state in states} == {False, True}
    for state in states[:-1]:
        rest = tracked(traced, 3, pauses=Pauses(3, {"sweep": state}, lambda _: None))
        assert rest
        assert all(torch.equal(whole[key], rest[key]) for key in rest)


@pytest.mark.long
@pytest.mark.usefixtures("made")
@pytest.mark.parametrize(
    ("dtype", "usage"),
    [("bfloat16", Usage()), ("float16", Usage()), ("float32", USAGE)],
    ids=["bfloat16", "float16", "as Sa2VA"],
)
def test_other_types_and_uses_are_traced_and_give_nearly_the_plain_masks(
    dtype: str, usage: Usage, plain: Segmenter
) -> None:
    other: Segmenter = Segmenter(LEAST, usage).eval()
    other.load_state_dict(plain.state_dict())
    other.compute_in(getattr(torch, dtype))
    assert distance(tracked(other.as_compiled(), 1, frames=5), tracked(other, 1, frames=5)) < 1e-2


@pytest.mark.parametrize("dtype", [torch.bfloat16, pytest.param(torch.float32, marks=pytest.mark.long)], ids=str)
def test_hiera_ls_step_and_encoder_are_one_graph_on_a_gpu_that_changes_no_input(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such a graph can run as a CUDA graph: nothing of it lies on the CPU, and it writes to its own memory alone."""
    from torch._dynamo.backends.common import aot_autograd

    large = Sam2Config(stages=(1, 1, 2, 1), global_attention_blocks=(3,), memory_attention_layers=2)
    graphs: list[Any] = []

    def keep(graph: Any, _: Any) -> Any:
        graphs.append(graph)
        return graph.forward

    trace = functools.partial(torch.compile, backend=aot_autograd(fw_compiler=keep), fullgraph=True, dynamic=False)
    with fake_gpu() as mode:
        segmenter = on_fake_gpu(large, mode).compute_in(dtype)
        parts: Any = trace(Segmenter._encode)(segmenter, torch.empty(4, 3, 1024, 1024, device="cuda"))
        assert [tuple(part.shape) for part in parts] == [(4, 32, 256, 256), (4, 64, 128, 128), (4, 256, 64, 64)]
        features = segmenter.encode(torch.empty(1, 3, 1024, 1024, device="cuda"))
        memory = Memory(*(torch.empty(16, *shape, dtype=dtype, device="cuda") for shape in ((64, 64, 64), (256,))))
        monkeypatch.setattr(module, "run_compiled", lambda function, *given: trace(function)(*given))
        wanted = copy.copy(segmenter)
        wanted.compiled = True
        decoded, kept = wanted.track(features, [memory], [memory.features] * 6, [memory.pointer] * 15, steady=True)
        assert (tuple(decoded.low_res.shape), decoded.low_res.dtype) == ((16, 256, 256), dtype)
        assert tuple(kept.features.shape) == (16, 64, 64, 64)
    assert len(graphs) == 2
    for graph in graphs:
        values = [node.meta["val"] for node in graph.graph.nodes if isinstance(node.meta.get("val"), Tensor)]
        assert {value.device.type for value in values} == {"cuda"}
        assert not any(value.is_complex() for value in values)
        assert not any("copy_" in str(node.target) for node in graph.graph.nodes)


def test_the_compiler_makes_a_function_once_for_each_shape_and_gives_tensors_of_the_callers_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The compiler itself, with the options that a step has."""
    from torch._dynamo.utils import counters

    def function(one: Tensor, other: Tensor) -> tuple[Tensor, ...]:
        total = (one * other + 1).relu()
        return total, total.sum(-1)

    monkeypatch.setattr(compiled, "_compiled", COMPILED)
    before = counters["stats"]["unique_graphs"]
    one, other = torch.randn(4, 16), torch.randn(4, 16)
    first = run_compiled(function, one, other)
    copies = [part.clone() for part in first]
    second = run_compiled(function, one * 2, other)
    for got, want in ((first, function(one, other)), (second, function(one * 2, other))):
        assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(got, want, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(first, copies, strict=True))
    assert counters["stats"]["unique_graphs"] - before == 1


def test_what_a_cuda_graph_gives_is_copied(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is overwritten by the next call; of results on a CPU no copy is needed."""
    for on_gpu, expected in ((True, ("a copy",)), (False, ("the result",))):
        result = mock.MagicMock(spec=Tensor, is_cuda=on_gpu)
        result.clone.return_value = "a copy"
        monkeypatch.setattr(compiled, "_compiled", lambda _, result=result: lambda: (result,))
        given = run_compiled(lambda: ())
        assert tuple("the result" if one is result else one for one in given) == expected


@pytest.mark.parametrize(
    ("count", "most", "expected"),
    [(1, 16, [1]), (7, 16, [4, 2, 1]), (16, 16, [16]), (20, 16, [16, 4]), (5, 1, [1] * 5), (13, 6, [4, 4, 4, 1])],
)
def test_batches_of_compiled_steps_are_powers_of_two(count: int, most: int, expected: list[int]) -> None:
    assert sizes(count, most) == expected


def test_what_is_missing_for_the_compiler_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(shutil, "which", lambda _: None)
        patched.delenv("CXX", raising=False)
        with pytest.raises(CompilerError, match=r"^compile true: no compiler g\+\+; .* or set compile=false$"):
            check_compiler("cpu")
        with pytest.raises(CompilerError, match="no compiler gcc or clang"):
            check_compiler("cuda")
        patched.setenv("CXX", "my-c++")
        with pytest.raises(CompilerError, match=r"no compiler CXX=my-c\+\+"):
            check_compiler("cpu")
    monkeypatch.setattr(shutil, "which", lambda name: name)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: "/nowhere")
    with pytest.raises(CompilerError, match=r"no /nowhere/Python\.h"):
        check_compiler("cpu")

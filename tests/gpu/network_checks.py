"""The networks alone: parity with the reference's tensors, times, kernels and memory at the true sizes."""

from __future__ import annotations

import time
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.profiler import ProfilerActivity, profile

from tests.gpu.context import Context, Result
from tests.gpu.parity_on_device import parity_of
from tests.support import parity as kit
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.clip import text_embeddings
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.values import Features
from vrshq.operators.models.shared import shared_network, shared_segmenter
from vrshq.operators.models.vrs_hq.network import ChatUniVi

SHARED_STEPS = 16  # objects in the largest step


def parity(context: Context) -> Result:
    """Every tensor and decision of the kit in float32 without TF32; masks in bfloat16 against those."""
    if reason := kit.missing():
        return Result("not here", reason)
    cases = kit.case_ids()[: 1 if context.dry else None]
    exact = [parity_of(kit.load_case(one), context.device) for one in cases]
    worst = max((one for case in exact for one in case.shares), key=lambda one: one[1])
    values = {"cases": cases, "worst": worst, "bfloat16_iou": min(case.bfloat16_iou for case in exact)}
    kept = worst[1] <= 1 and all(case.decided for case in exact)
    said = (
        f"{len(cases)} cases: worst tensor {worst[0]} at {worst[1]:.2f} of its tolerance, decisions "
        f"{'equal' if all(case.decided for case in exact) else 'DIFFER'}; bfloat16 masks IoU {values['bfloat16_iou']:.3f}"
    )
    return Result.of(kept, said, **values)


@torch.inference_mode()
def segmenter(context: Context) -> Result:
    """SAM2: encode, prompts, and a steady step of 1, 4 and 16 objects; kernels of a step; attention's backends."""
    network: Segmenter = shared_segmenter(context.model, context.device, context.dtype)
    side = network.config.image_size
    values: dict[str, Any] = {}
    with context.peak() as peak:
        for batch in (1, 4, 8):
            pixels = torch.zeros(batch, 3, side, side, device=context.device)
            values[f"encode_{batch}_ms"] = context.milliseconds(lambda: network.encode(pixels))  # noqa: B023
        features = network.encode(pixels[:1])
        many = features[[0] * SHARED_STEPS]
        prompts = torch.randn(SHARED_STEPS, network.config.d_model).to(context.device)
        values["decode_prompt_16_ms"] = context.milliseconds(lambda: network.decode_prompt(many, prompts))
        for objects in (1, 4, SHARED_STEPS):
            step = steady(network, features, objects)
            values[f"track_{objects}_ms"] = context.milliseconds(step)
    values["track_kernels"] = kernels(context, step)
    values["peak_gib"], values["backends"] = peak["gib"], backends(context, network)
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    return Result("number", said, values)


def steady(network: Segmenter, features: Features, objects: int) -> Any:
    """A tracking step with a full memory."""
    side, config = network.config.image_size, network.config
    mask = torch.ones(objects, side, side, dtype=torch.bool, device=features.s16.device)
    keyframe = network.condition(features[[0] * objects], mask, 0)[1]
    recent = [keyframe.features] * (config.num_maskmem - 1)
    pointers = [keyframe.pointer] * (config.max_object_pointers - 1)
    return lambda: network.track(features, [keyframe], recent, pointers)


def kernels(context: Context, step: Any) -> int:
    """Kernels that a call launches on the GPU; operators of the CPU when dry."""
    kind = ProfilerActivity.CPU if context.dry else ProfilerActivity.CUDA
    with profile(activities=[kind]) as recorded:
        step()
        context.wait()
    return sum(entry.count for entry in recorded.key_averages())


def backends(context: Context, network: Segmenter) -> dict[str, bool]:
    """Which of PyTorch's attentions take the memory attention's widest shape."""
    grid, width = network.config.image_size // 16, network.config.d_model
    query = torch.zeros(1, 1, grid * grid, width, dtype=torch.bfloat16, device=context.device)
    found = {}
    for backend in (
        SDPBackend.FLASH_ATTENTION,
        SDPBackend.EFFICIENT_ATTENTION,
        SDPBackend.CUDNN_ATTENTION,
        SDPBackend.MATH,
    ):
        try:
            with sdpa_kernel(backend):
                F.scaled_dot_product_attention(query, query, query)
            found[backend.name] = True
        except RuntimeError:
            found[backend.name] = False
    return found


@torch.inference_mode()
def language(context: Context) -> Result:
    """The MLLM: loading, prefix, suffixes, and `read_out` against `hidden_states`."""
    model, begin = context.model, time.perf_counter()
    with context.peak() as peak:
        network: ChatUniVi = shared_network(model, "language", context.device, context.dtype)
        values: dict[str, Any] = {"load_s": round(time.perf_counter() - begin, 2)}
        frames, tokenizer = 11, open_bundle(model).prompt_tokenizer()
        prompts = [tokenizer.encode(f"the block {number}", frames) for number in range(16)]
        side = network.config.tower.image_size
        pixels = torch.randn(frames, 3, side, side).to(context.device, network.dtype)
        tokens = network.image_tokens(pixels)
        values["tower_11_ms"] = context.milliseconds(lambda: network.image_tokens(pixels))
        values["prefix_ms"] = context.milliseconds(lambda: network.run_prefix(prompts[0], tokens))
        prefix = network.run_prefix(prompts[0], tokens)
        for count in (1, 16):
            some = prompts[:count]
            values[f"suffix_{count}_ms"] = context.milliseconds(lambda: network.suffix_states(prefix, some))  # noqa: B023
    values["peak_gib"] = peak["gib"]
    read = network.read_out(prompts[:1], tokens)[0]
    whole = network.text_hidden_fcs(network.hidden_states(prompts[0], tokens)[prompts[0].tak_position]).float()
    cosine = float(F.cosine_similarity(read.tak, whole, dim=0))
    values |= {"prefix_rows": prompts[0].prefix_rows, "cosine": round(cosine, 5)}
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    return Result.of(cosine > 0.99 and bool(torch.isfinite(read.seg).all()), said, **values)


@torch.inference_mode()
def clip(context: Context) -> Result:
    """The pre-sampling CLIP: frames per second by batch, and texts."""
    network: Any = shared_network(context.model, "clip", context.device, context.dtype)
    side = network.config.vision.image_size
    values: dict[str, Any] = {}
    for batch in (16, 64, 256) if not context.dry else (1, 4):
        pixels: Tensor = torch.randn(batch, 3, side, side).to(context.device, network.dtype)
        took = context.milliseconds(lambda: network.image_features(pixels))  # noqa: B023
        values[f"frames_per_s_{batch}"] = round(1000 * batch / took, 1)
    ids = [[1, 2, 3], [1, 4, 5, 6, 3]]
    finite = bool(torch.isfinite(text_embeddings(network, ids, 16)).all())
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    return Result("number" if finite else "FAIL", said, values)

"""SAM2 as compiled code (`compile=true`) against the same network without: results, times, and threads."""

from __future__ import annotations

import threading
import time
from typing import Any

import torch
from torch import Tensor

from tests.gpu.context import Context, Result
from tests.gpu.network_checks import kernels
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.values import Features, Memory
from vrshq.operators.models.shared import compiled_segmenter, shared_segmenter

IOU = 0.98  # of the masks of both, at least


class Steady:
    """A tracking step of B objects with full memories of random values, alike for both networks."""

    def __init__(self, network: Segmenter, features: Features, objects: int, seed: int = 0) -> None:
        config, random = network.config, torch.Generator().manual_seed(seed)
        grid, like = config.image_size // 16, features.s16

        def normal(*shape: int) -> Tensor:
            return torch.randn(objects, *shape, generator=random).to(like)

        def memory() -> Tensor:
            return normal(config.memory_dim, grid, grid)

        self.features = features
        self.keyframe = Memory(memory(), normal(config.d_model))
        self.recent = [memory() for _ in range(config.num_maskmem - 1)]
        self.pointers = [normal(config.d_model) for _ in range(config.max_object_pointers - 1)]

    @torch.inference_mode()
    def run(self, network: Segmenter) -> tuple[Tensor, Tensor]:
        """The step's mask logits and the features of its memory."""
        decoded, kept = network.track(self.features, [self.keyframe], self.recent, self.pointers, steady=True)
        return decoded.low_res, kept.features


def overlap(one: Tensor, other: Tensor) -> float:
    """IoU of all masks of two maps of logits; 1 where both are empty."""
    union = int(((one > 0) | (other > 0)).sum())
    return int(((one > 0) & (other > 0)).sum()) / union if union else 1.0


@torch.inference_mode()
def compiled(context: Context) -> Result:
    """Encoder and step: equal masks, results that outlive the next call, threads, milliseconds of both, seconds to compile."""
    arguments = context.model, context.device, context.dtype
    plain: Segmenter = shared_segmenter(*arguments)
    fast: Segmenter = compiled_segmenter(*arguments)
    side, values, ious = plain.config.image_size, dict[str, Any](), []
    pixels = torch.randn(1 if context.dry else 4, 3, side, side, generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(context.device)
    with context.peak() as peak:
        values["compile_encode_s"] = seconds(context, lambda: fast.encode(pixels))
        features = plain.encode(pixels)
        worst = max(
            float((one - other).abs().max() / other.abs().max())
            for one, other in zip(fast.encode(pixels).parts, features.parts, strict=True)
        )
        values["encode_difference"] = round(worst, 5)
        values["encode_plain_ms"], values["encode_compiled_ms"] = (
            context.milliseconds(lambda: network.encode(pixels))  # noqa: B023
            for network in (plain, fast)
        )
        for objects in (1,) if context.dry else (1, 4, 16):
            step = Steady(plain, features[:1], objects)
            values[f"compile_track_{objects}_s"] = seconds(context, lambda: step.run(fast))  # noqa: B023
            ious.append(overlap(step.run(fast)[0], step.run(plain)[0]))
            for name, network in (("plain", plain), ("compiled", fast)):
                values[f"track_{objects}_{name}_ms"] = context.milliseconds(lambda: step.run(network))  # noqa: B023
    values["track_kernels"] = kernels(context, lambda: step.run(fast))
    values["peak_gib"], values["iou"] = peak["gib"], round(min(ious), 4)
    values["outlives"], values["threads"] = outlives(context, fast, step), at_once(plain, fast, features[:1])
    said = ", ".join(f"{name} {value}" for name, value in values.items())
    kept = min(ious) >= IOU and worst < 0.05 and values["outlives"] and values["threads"]
    return Result.of(kept, said, **values)


def seconds(context: Context, call: Any) -> float:
    """Seconds of a first call."""
    begin = time.perf_counter()
    call()
    context.wait()
    return round(time.perf_counter() - begin, 1)


def outlives(context: Context, fast: Segmenter, step: Steady) -> bool:
    """Whether what a step gave is the same after three further ones: a CUDA graph writes to the same memory each time."""
    given = step.run(fast)
    copies = [one.clone() for one in given]
    other = Steady(fast, step.features, len(step.pointers[0]), seed=1)
    later = [other.run(fast) for _ in range(3)][-1]
    context.wait()
    return all(torch.equal(one, copy) for one, copy in zip(given, copies, strict=True)) and not torch.equal(
        given[0], later[0]
    )


def at_once(plain: Segmenter, fast: Segmenter, features: Features) -> bool:
    """Whether two threads with steps of their own get the masks of their own."""
    found: dict[int, list[Tensor]] = {0: [], 1: []}
    steps = {seed: Steady(plain, features, 1, seed=seed) for seed in found}

    def work(seed: int) -> None:
        found[seed] = [steps[seed].run(fast)[0] for _ in range(5)]

    threads = [threading.Thread(target=work, args=(seed,)) for seed in found]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    return all(
        len(found[seed]) == 5 and overlap(mask, steps[seed].run(plain)[0]) >= IOU
        for seed in found
        for mask in found[seed]
    )

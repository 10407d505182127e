"""How many kernels SAM2 launches on a GPU, counted without one: the true sizes on PyTorch's fake CUDA device.

    python -m tests.benchmarks.count_kernels [--dtype bfloat16] [--objects 16] [--json] [--by-operator]

No number is computed. Every operator that reaches the device is one kernel, attention included, which is one on a GPU. Not
kernels: views (the operator's schema says that its output is a view), and the names of `FREE`. An operator that launches two
kernels counts as one, so the counts are a lower bound for a profiler's. A tensor left on the CPU is an error here.

    track          one frame of one sweep: 16 objects, a keyframe, 6 memories and 15 pointers each; from the memories of the
                   frames before to the values on the host
    encode         the image features of one frame
    decode_prompt  candidate masks of 16 prompts

For each: `kernels`; `casts`, the kernels that change a tensor's type; `promoted`, bytes of half precision that became float32,
in a cast or as an operand beside float32; `copies`, casts apart, kernels that only move values; `syncs`, waits of the host for
the device; `uploads`, copies to the device.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

import torch
from sam2.modeling.sam.transformer import RoPEAttention
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vrshq.operators.models.config import Sam2Config
from vrshq.operators.models.sam2 import tracking
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.values import Features, Memory
from vrshq.operators.models.weights import parameters_on_meta

aten: Any = torch.ops.aten
FREE = {
    "empty",
    "empty_like",
    "new_empty",
    "empty_strided",
    "new_empty_strided",
    "detach",
    "_unsafe_view",
    "lift_fresh",
}
CASTS = {"_to_copy", "copy_"}
COPIES = {"clone", "cat", "stack", "copy_", "_to_copy", "repeat"}
WAITS = {"_local_scalar_dense", "equal", "nonzero", "masked_select", "is_nonzero"}
HALF = (torch.bfloat16, torch.float16)


class Counts(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what reaches the device while it is active."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.total: Counter[str] = Counter()
        self.by_operator: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name, kwargs = func.overloadpacket.__name__, kwargs or {}
        if name == "scaled_dot_product_attention":
            self._kernel(name)
            # the fused kernels' layout: heads inside
            batch, heads, length, _ = args[0].shape
            return args[0].new_empty(batch, length, heads, args[2].shape[-1]).transpose(1, 2)
        if func.namespace == "aten" and not name.startswith("upsample"):
            with self:
                parts = func.decompose(*args, **kwargs)
            if parts is not NotImplemented:
                return parts
        # any number: a fake tensor has none
        result = 0.5 if name == "_local_scalar_dense" else func(*args, **kwargs)
        inputs = [item for item in tree_leaves((args, kwargs)) if isinstance(item, Tensor)]
        outputs = [item for item in tree_leaves(result) if isinstance(item, Tensor)]
        if func.namespace != "aten":  # prim::device
            return result
        self._count(func, name, inputs, outputs)
        return result

    def _kernel(self, name: str) -> None:
        self.total["kernels"] += 1
        self.by_operator[name] += 1

    def _count(self, func: Any, name: str, inputs: list[Tensor], outputs: list[Tensor]) -> None:
        on_device = [item for item in [*inputs, *outputs] if item.device.type == "cuda"]
        if not on_device:
            return
        source = (inputs[-1] if name == "copy_" else inputs[0]) if inputs else outputs[0]
        places = {source.device.type, *(item.device.type for item in outputs)}
        if name in WAITS:
            self.total["syncs"] += 1
        elif name in CASTS and len(places) == 2:
            self.total["syncs" if source.device.type == "cuda" else "uploads"] += 1
        if name in FREE or func.is_view or name == "_local_scalar_dense":
            return
        self._kernel(name)
        if name in CASTS and source.dtype != outputs[0].dtype:
            self.total["casts"] += 1
            if source.dtype in HALF and outputs[0].dtype == torch.float32:
                self.total["promoted"] += source.nelement() * source.element_size()
        elif name in COPIES:
            self.total["copies"] += 1
        wide = any(item.dtype in (torch.float32, torch.complex64) for item in outputs)
        if wide and name not in (*CASTS, "native_layer_norm"):  # its statistics are float32
            self.total["promoted"] += sum(
                item.nelement() * item.element_size() for item in inputs if item.dtype in HALF
            )


@contextmanager
def fake_gpu() -> Iterator[FakeTensorMode]:
    """A fake CUDA device, on which automatic casts work as on a real one."""
    with ExitStack() as stack:
        for name, value in {
            "torch.cuda.amp.common.amp_definitely_not_available": False,
            "torch.cuda.is_bf16_supported": True,
        }.items():
            stack.enter_context(mock.patch(name, lambda *_, value=value, **__: value))
        stack.enter_context(torch.inference_mode())
        yield stack.enter_context(FakeTensorMode(allow_non_fake_inputs=False))


def on_fake_gpu(config: Sam2Config, mode: FakeTensorMode) -> Segmenter:
    """SAM2 of these sizes with float32 weights on the fake device."""
    with torch.utils._python_dispatch._disable_current_modes(), parameters_on_meta():
        network: Segmenter = Segmenter(config).eval()
    for module in network.modules():
        for name, value in module._parameters.items():
            if value is not None:
                fake = torch.empty(value.shape, dtype=value.dtype, device="cuda")
                module._parameters[name] = nn.Parameter(fake, requires_grad=False)
        for name, buffer in module._buffers.items():
            if buffer is not None:
                module._buffers[name] = torch.empty(buffer.shape, dtype=buffer.dtype, device="cuda")
        if isinstance(module, RoPEAttention):
            module.freqs_cis = mode.from_tensor(module.freqs_cis)  # on the CPU, as in a network that was just loaded
    return network


def counted(call: Callable[[], object]) -> Counts:
    """The counts of a call in its steady state: the second one."""
    with Counts():
        call()
    counts = Counts()
    with counts:
        call()
    return counts


class OneFrame:
    """Stands for `VideoFeatures`: the features of a frame, encoded before."""

    def __init__(self, features: Features) -> None:
        self.features = features

    def get(self, indices: list[int]) -> Features:
        assert len(indices) == 1
        return self.features


def measure(config: Sam2Config, dtype: torch.dtype, objects: int) -> dict[str, Counts]:
    """The counts of each part."""
    with fake_gpu() as mode:
        segmenter = on_fake_gpu(config, mode)
        segmenter.compute_in(dtype)
        pixels = torch.empty(1, 3, config.image_size, config.image_size, device="cuda")
        features = segmenter.encode(pixels)
        prompts = torch.empty(objects, config.d_model, device="cuda")
        many = features[[0] * objects]
        result = {
            "encode": counted(lambda: segmenter.encode(pixels)),
            "decode_prompt": counted(lambda: segmenter.decode_prompt(many, prompts)),
        }
        step = steady_step(segmenter, features, objects)
        result["track"] = counted(step)
        return result


def steady_step(segmenter: Segmenter, features: Features, objects: int) -> Callable[[], object]:
    """The next frame of a sweep in which all objects have their full memories."""
    config = segmenter.config
    side = config.image_size
    mask = torch.empty(1, side, side, dtype=torch.bool, device="cuda")
    keyframe: Memory = segmenter.condition(features, mask, 0)[1]
    pointers = config.max_object_pointers - 1
    tracks = [tracking._Track(one, {0: keyframe}, config.num_maskmem - 1, pointers) for one in range(objects)]
    frames = iter([1, *range(config.max_object_pointers, 1000)])
    opened: Any = OneFrame(features)
    prompts = tracking._Prompts()

    def step() -> object:
        frame = next(frames)
        (group,) = tracking._groups(tracks, frame, False, objects)
        outputs = tracking._track_group(segmenter, opened, group, frame, prompts)
        prompts.next_frame()
        return outputs

    with Counts():
        step()
    for track in tracks:  # the frames in between are remembered as the first one is
        for frame in range(2, config.max_object_pointers):
            for kept in (track.recent, track.pointers):
                kept.appendleft((frame, kept[0][1]))
    return step


NAMES = ("kernels", "casts", "promoted", "copies", "syncs", "uploads")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtype", choices=("bfloat16", "float16", "float32"), default="bfloat16")
    parser.add_argument("--objects", type=int, default=16)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--by-operator", action="store_true")
    options = parser.parse_args()
    found = measure(Sam2Config(), getattr(torch, options.dtype), options.objects)
    if options.json:
        print(json.dumps({f"{part}.{name}": counts.total[name] for part, counts in found.items() for name in NAMES}))
        return
    print(
        f"torch {torch.__version__}, Hiera-L at 1024 px, {options.dtype}, {options.objects} objects, counted, not timed\n"
    )
    print("| part | " + " | ".join(NAMES) + " |\n" + "| --- " * (len(NAMES) + 1) + "|")
    for part, counts in found.items():
        print(f"| {part} | " + " | ".join(f"{counts.total[name]:,}" for name in NAMES) + " |")
        if options.by_operator:
            print(", ".join(f"{name} {count}" for name, count in counts.by_operator.most_common()))


if __name__ == "__main__":
    main()

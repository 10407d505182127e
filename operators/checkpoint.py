"""From checkpoint files to networks: shard by shard, without running pickled code, every tensor accounted for.

Networks are built without memory and filled with each tensor as it is read, so that the peak is about one copy.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPConfig as HfClipConfig
from transformers import CLIPModel

from operators.bundle import Bundle, CheckpointError
from operators.model_config import ClipConfig
from operators.segmenter import Segmenter
from operators.tokens import ChatUniVi

Part = Literal["language", "segmenter", "clip"]
Network = TypeVar("Network", bound=nn.Module)


def load_language(bundle: Bundle, device: str, dtype: torch.dtype) -> ChatUniVi:
    """The MLLM: vision tower, clustering, projector, LLaMA, and the read-out of [SEG] and [TAK]."""
    return _load(bundle, "language", lambda: ChatUniVi(bundle.model), device, dtype)


def load_segmenter(bundle: Bundle, device: str, dtype: torch.dtype) -> Segmenter:
    """SAM 2.0 with an embedding as its prompt."""
    return _load(bundle, "segmenter", lambda: Segmenter(bundle.model.sam2), device, dtype)


def load_clip(bundle: Bundle, device: str, dtype: torch.dtype) -> CLIPModel:
    """The CLIP of pre-sampling."""
    return _load(bundle, "clip", lambda: CLIPModel(clip_config(bundle.model.clip)), device, dtype)


def _load(bundle: Bundle, part: Part, build: Callable[[], Network], device: str, dtype: torch.dtype) -> Network:
    if bundle.seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bundle.seed)
            network = build()
            if isinstance(network, Segmenter):
                make_untrained_masks_vary(network)
        return network.to(device=device, dtype=dtype).eval()
    with parameters_on_meta():
        network = build()
    fill(network, part, read_tensors(bundle.shards), device, dtype)
    return network.to(device).eval()


def read_tensors(shards: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) shard by shard; tensors of a shard in a `clip` folder get the prefix `clip.`.

    Raises:
        CheckpointError: a file that is truncated, or holds anything but tensors.
    """
    for shard in shards:
        prefix = "clip." if shard.parent.name == "clip" else ""
        try:
            if shard.suffix == ".safetensors":
                with safe_open(shard, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - no mapping, only this method
                        yield prefix + name, file.get_tensor(name)
            else:
                # weights_only: a pickle that names any other code is refused; mmap: tensors are read as they are used,
                # which files from before torch 1.6 do not allow
                mmap = zipfile.is_zipfile(shard)
                state = torch.load(shard, map_location="cpu", weights_only=True, mmap=mmap)
                for name in list(state):
                    yield prefix + name, state.pop(name)
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{shard}: refused, because it holds more than tensors or is damaged") from error
        except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{shard}: not a readable checkpoint shard ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


DERIVED = {
    "rotary_emb.inv_freq": "computed from the rotary base",
    "embeddings.position_ids": "counts from 0",
}


def place(name: str) -> tuple[Part, str] | str:
    """Where a checkpoint tensor belongs: (part, parameter name inside it), or why it is not used.

    Raises:
        CheckpointError: a name that no part of the model has.
    """
    for suffix, reason in DERIVED.items():
        if name.endswith(suffix):
            return reason
    if name == "lm_head.weight":
        return "the answer is teacher-forced, so no token is predicted"
    for prefix, part, inside in (
        ("model.visual_model.", "segmenter", ""),
        ("model.vision_tower.vision_tower.vision_model.", "language", "vision_tower."),
        ("model.mm_projector.", "language", "mm_projector."),
        ("model.text_hidden_fcs.0.", "language", "text_hidden_fcs."),
        ("model.embed_tokens.", "language", "llama.embed_tokens."),
        ("model.layers.", "language", "llama.layers."),
        ("model.norm.", "language", "llama.norm."),
        ("clip.", "clip", ""),
    ):
        if name.startswith(prefix):
            return part, inside + name.removeprefix(prefix)  # type: ignore[return-value]
    raise CheckpointError(f"unexpected tensor {name}: no part of the model has it")


def fill(
    network: nn.Module, part: Part, tensors: Iterable[tuple[str, Tensor]], device: str, dtype: torch.dtype
) -> None:
    """Puts a checkpoint's tensors into the parameters and buffers of one part of the model.

    Raises:
        CheckpointError: names the first tensor that is unexpected, of another shape, or missing.
    """
    wanted = network.state_dict()
    for name, tensor in tensors:
        target = place(name)
        if isinstance(target, str) or target[0] != part:
            continue
        inside = target[1]
        if inside not in wanted:
            raise CheckpointError(f"unexpected tensor {name}: the {part} part has no {inside}")
        expected = wanted.pop(inside)
        if tensor.shape != expected.shape:
            raise CheckpointError(f"{name}: shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}")
        owner, _, leaf = inside.rpartition(".")
        module = network.get_submodule(owner)
        # a copy, so that the shard's memory map can go once it is read
        value = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
        else:
            module._buffers[leaf] = value
    if wanted:
        first = sorted(wanted)[0]
        raise CheckpointError(f"missing tensor {first} of the {part} part ({len(wanted)} missing in all)")


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Networks built inside hold no parameter memory; buffers that are computed (rotary tables) stay real."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(self, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign, assignment]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def clip_config(config: ClipConfig) -> HfClipConfig:
    """transformers' configuration of the pre-sampling CLIP."""
    text = config.text
    return HfClipConfig(
        projection_dim=config.projection_dim,
        vision_config=config.vision.to_transformers(),
        text_config={
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_positions,
            "layer_norm_eps": text.layer_norm_eps,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": text.eos_token_id,
            "hidden_act": "quick_gelu",
        },
    )


@torch.no_grad()
def make_untrained_masks_vary(network: Segmenter) -> None:
    """Spreads the outputs of untrained weights, whose masks would all be gated away, or nearly empty, or nearly full."""
    decoder = network.sam_mask_decoder
    decoder.pred_obj_score_head.layers[-1].bias.fill_(1.0)
    for mlp in decoder.output_hypernetworks_mlps:
        bias = mlp.layers[-1].bias.normal_()
        bias.sub_(bias.mean())
    for convolution in (decoder.conv_s0, decoder.conv_s1):
        convolution.weight.mul_(10)

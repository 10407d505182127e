"""From a bundle to networks in evaluation mode, each loaded once per process where it is shared."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import torch
from transformers import CLIPModel

from vrshq.operators.models.bundle import Bundle, open_bundle
from vrshq.operators.models.clip import clip_config
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.weights import Network, Part, fill, open_checkpoint, parameters_on_meta


def load_language(bundle: Bundle, device: str = "cpu", dtype: torch.dtype = torch.float32) -> ChatUniVi:
    """The MLLM: vision tower, clustering, projector, LLaMA, and the read-out of [SEG] and [TAK]."""
    return _load(bundle, "language", lambda: ChatUniVi(bundle.model), device, dtype)


def load_segmenter(bundle: Bundle, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Segmenter:
    """SAM 2.0 with an embedding as its prompt."""
    return _load(bundle, "segmenter", lambda: Segmenter(bundle.model.sam2), device, dtype)


def load_clip(bundle: Bundle, device: str = "cpu", dtype: torch.dtype = torch.float32) -> CLIPModel:
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
    checkpoint = open_checkpoint(bundle)
    checkpoint.check(bundle.model)
    bundle.verify(checkpoint.files_of(part))
    with parameters_on_meta():
        network = build()
    fill(network, part, checkpoint, device, dtype)
    return network.to(device).eval()


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


@functools.cache
def shared_network(name: str, part: str, device: str, dtype: str) -> Any:
    """One copy of a network for all operators of this process (TKS and propagation hold the same SAM2).

    Args:
        part: "language", "segmenter" or "clip".
        dtype: torch's name of it, e.g. "float32".
    """
    bundle = open_bundle(name)
    loaders: dict[str, Callable[[Bundle, str, torch.dtype], Any]] = {
        "language": load_language,
        "segmenter": load_segmenter,
        "clip": load_clip,
    }
    return loaders[part](bundle, device, getattr(torch, dtype))


def shared_segmenter(model: str, device: str, dtype: str) -> Segmenter:
    """This process's SAM2 of a model, computing in `dtype` (torch's name of it); its weights are float32."""
    segmenter: Segmenter = shared_network(model, "segmenter", device, "float32")
    segmenter.precision = getattr(torch, dtype)
    return segmenter

"""Loading of the networks of a VRS-HQ bundle, in evaluation mode."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from vrshq.operators.models.bundle import Bundle
from vrshq.operators.models.clip_network import Clip
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.vrs_hq.checkpoint import Part, fill, open_checkpoint
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.weights import parameters_on_meta

Network = TypeVar("Network", bound=nn.Module)


def load_language(bundle: Bundle, device: str = "cpu", dtype: torch.dtype = torch.float32) -> ChatUniVi:
    """The MLLM: vision tower, clustering, projector, LLaMA, and the read-out of [SEG] and [TAK].

    Raises:
        CheckpointError: the weights do not fit the model, or a file has another sha256 than the listed one.
    """
    return _load(bundle, "language", lambda: ChatUniVi(bundle.model), device, dtype)


def load_segmenter(bundle: Bundle, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Segmenter:
    """SAM 2.0 with an embedding as its prompt. Raises CheckpointError as `load_language` does."""
    return _load(bundle, "segmenter", lambda: Segmenter(bundle.model.sam2), device, dtype)


def load_clip(bundle: Bundle, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Clip:
    """The CLIP of pre-sampling. Raises CheckpointError as `load_language` does."""
    return _load(bundle, "clip", lambda: Clip(bundle.model.clip), device, dtype)


LOADERS: dict[str, Callable[[Bundle, str, torch.dtype], nn.Module]] = {
    "language": load_language,
    "segmenter": load_segmenter,
    "clip": load_clip,
}


def _load(bundle: Bundle, part: Part, build: Callable[[], Network], device: str, dtype: torch.dtype) -> Network:
    if bundle.seed is not None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(bundle.seed)
            network = build()
            if isinstance(network, Segmenter):
                _spread_untrained_outputs(network)
        return network.to(device=device, dtype=dtype).eval()
    checkpoint = open_checkpoint(bundle)
    checkpoint.check(bundle.model, part)
    bundle.verify(checkpoint.files_of(part))
    with parameters_on_meta():
        network = build()
    fill(network, part, checkpoint, device, dtype)
    return network.to(device).eval()


@torch.no_grad()
def _spread_untrained_outputs(network: Segmenter) -> None:
    """Changes untrained weights so that masks vary. Otherwise all are gated, nearly empty, or nearly full."""
    decoder = network.sam_mask_decoder
    decoder.pred_obj_score_head.layers[-1].bias.fill_(1.0)
    for mlp in decoder.output_hypernetworks_mlps:
        bias = mlp.layers[-1].bias.normal_()
        bias.sub_(bias.mean())
    for convolution in (decoder.conv_s0, decoder.conv_s1):
        convolution.weight.mul_(10)

"""Networks that several stages use, loaded once per process, and the family of a bundle."""

from __future__ import annotations

import functools
import importlib
from typing import Any

import torch

from vrshq.operators.models.bundle import Bundle, open_bundle
from vrshq.operators.models.family import Family, TrackConfig


def family_of(bundle: Bundle) -> Family:
    """The code of a bundle's family. It is imported here, so that one family does not load the libraries of the others."""
    found: Any = importlib.import_module(bundle.family.module)
    family: Family = found
    return family


@functools.cache
def shared_network(name: str, part: str, device: str, dtype: str) -> Any:
    """One copy of a network for all stages of this process.

    Args:
        name: of the bundle, see `open_bundle`.
        part: the part of the model: "language", "segmenter" or "clip".
        device: torch's name of the device.
        dtype: torch's name of the weights' type, e.g. "float32".

    Raises:
        CheckpointError: no such bundle, or its weights do not fit.
    """
    bundle = open_bundle(name)
    return family_of(bundle).load(bundle, part, device, getattr(torch, dtype))


@functools.cache
def shared_segmenter(model: str, device: str, dtype: str) -> Any:
    """The SAM2 of a bundle, shared in this process. It computes in `dtype`, torch's name of it (`Segmenter.compute_in`)."""
    if dtype == "float32":
        return shared_network(model, "segmenter", device, dtype)
    bundle = open_bundle(model)
    segmenter: Any = family_of(bundle).load(bundle, "segmenter", device, torch.float32)
    return segmenter.compute_in(getattr(torch, dtype))


@functools.cache
def compiled_segmenter(model: str, device: str, dtype: str) -> Any:
    """`shared_segmenter` with compiled code; the weights are those of the other. Raises CompilerError."""
    return shared_segmenter(model, device, dtype).as_compiled()


def segmenter_for(config: TrackConfig) -> Any:
    """The SAM2 that a tracker with these settings uses, shared in this process. Raises CompilerError."""
    chosen = compiled_segmenter if config.compiled else shared_segmenter
    return chosen(config.model, config.device, config.dtype)

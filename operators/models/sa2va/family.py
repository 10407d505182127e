"""Sa2VA as a family: a generated answer, one object for each [SEG] in it, and SAM2 from prompts on the first frames."""

from __future__ import annotations

import torch
from torch import nn

from vrshq.operators.models.bundle import Bundle, CheckpointError
from vrshq.operators.models.families import SA2VA
from vrshq.operators.models.family import Language, ReadConfig, TrackConfig, Tracker
from vrshq.operators.models.sa2va.language import LanguageSide
from vrshq.operators.models.sa2va.layout import load_language, load_segmenter, read_config
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.original import load_original, with_original
from vrshq.operators.models.sam2.tracker import Sam2Tracker
from vrshq.operators.models.shared import shared_network, shared_segmenter


def load(bundle: Bundle, part: str, device: str, dtype: torch.dtype) -> nn.Module:
    """As `Family.load`."""
    config = read_config(bundle.folder, bundle.changes)
    if part == "language":
        return load_language(bundle.folder, config, device, dtype)
    if part == "segmenter":
        return load_segmenter(bundle.folder, config, device)
    if part == "original_decoder":
        decoder: nn.Module = load_original(bundle.folder, load_segmenter(bundle.folder, config, device))
        return decoder
    raise CheckpointError(f"{bundle.folder}: a model of the family {SA2VA.name} has no part {part}")


def language(config: ReadConfig) -> Language:
    """As `Family.language`."""
    return LanguageSide(config)


def tracker(config: TrackConfig) -> Tracker[VideoFeatures]:
    """As `Family.tracker`."""
    segmenter = shared_segmenter(config.model, config.device, config.dtype)
    if config.decoder == "own":
        return Sam2Tracker(segmenter, config, SA2VA)
    original = with_original(segmenter, shared_network(config.model, "original_decoder", config.device, "float32"))
    return Sam2Tracker(segmenter, config, SA2VA, original)

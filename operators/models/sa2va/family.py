"""Sa2VA as a family: a generated answer, one object for each [SEG] in it, and SAM2 from prompts on the first frames."""

from __future__ import annotations

import functools

import torch
from torch import nn

from vrshq.operators.models.bundle import Bundle, CheckpointError, open_bundle
from vrshq.operators.models.families import SA2VA
from vrshq.operators.models.family import Language, ReadConfig, TrackConfig, Tracker
from vrshq.operators.models.sa2va.language import LanguageSide
from vrshq.operators.models.sa2va.layout import load_language, load_segmenter, read_config
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.original import load_original, original_files, with_original
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.tracker import Sam2Tracker
from vrshq.operators.models.shared import segmenter_for


def load(bundle: Bundle, part: str, device: str, dtype: torch.dtype) -> nn.Module:
    """As `Family.load`."""
    config = read_config(bundle.folder, bundle.changes)
    bundle.verify(path for path in bundle.shards if path.exists())  # some parts alone may have been fetched
    if part == "language":
        return load_language(bundle.folder, config, device, dtype)
    if part == "segmenter":
        return load_segmenter(bundle.folder, config, device)
    raise CheckpointError(f"{bundle.folder}: a model of the family {SA2VA.name} has no part {part}")


def language(config: ReadConfig) -> Language:
    """As `Family.language`."""
    return LanguageSide(config)


def tracker(config: TrackConfig) -> Tracker[VideoFeatures]:
    """As `Family.tracker`."""
    segmenter = segmenter_for(config)
    if config.decoder == "own":
        return Sam2Tracker(segmenter, config, SA2VA)
    return Sam2Tracker(segmenter, config, SA2VA, _original(config.model, segmenter))


@functools.cache
def _original(model: str, segmenter: Segmenter) -> Segmenter:
    """The bundle's SAM2 (a shared one) with its original mask decoder, shared in this process."""
    bundle = open_bundle(model)
    bundle.verify(original_files(bundle.folder))
    return with_original(segmenter, load_original(bundle.folder, segmenter))

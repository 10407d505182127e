"""SAM 3 by text as a family: no language side, and a tracker that begins with the text."""

from __future__ import annotations

import torch
from torch import nn

from vrshq.operators.models.bundle import Bundle, CheckpointError
from vrshq.operators.models.families import SAM3
from vrshq.operators.models.family import Language, ReadConfig, TrackConfig, Tracker
from vrshq.operators.models.sam3.language import LanguageSide
from vrshq.operators.models.sam3.layout import load_network
from vrshq.operators.models.sam3.tracker import Opened, TextTracker


def load(bundle: Bundle, part: str, device: str, dtype: torch.dtype) -> nn.Module:
    """As `Family.load`."""
    if part == "segmenter":
        return load_network(bundle, device, dtype)
    raise CheckpointError(f"{bundle.folder}: a model of the family {SAM3.name} has no part {part}")


def language(config: ReadConfig) -> Language:
    """As `Family.language`."""
    return LanguageSide(config)


def tracker(config: TrackConfig) -> Tracker[Opened]:
    """As `Family.tracker`."""
    return TextTracker(config)

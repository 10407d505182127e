"""VRS-HQ as a family: a teacher-forced answer with one [SEG] per frame and one [TAK], and SAM2 from a keyframe's mask."""

from __future__ import annotations

import torch
from torch import nn

from vrshq.operators.models.bundle import Bundle
from vrshq.operators.models.families import VRS_HQ
from vrshq.operators.models.family import Language, ReadConfig, TrackConfig, Tracker
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.tracker import Sam2Tracker
from vrshq.operators.models.shared import segmenter_for
from vrshq.operators.models.vrs_hq.language import VrsHqLanguage
from vrshq.operators.models.vrs_hq.load import LOADERS


def load(bundle: Bundle, part: str, device: str, dtype: torch.dtype) -> nn.Module:
    """As `Family.load`."""
    return LOADERS[part](bundle, device, dtype)


def language(config: ReadConfig) -> Language:
    """As `Family.language`."""
    return VrsHqLanguage(config)


def tracker(config: TrackConfig) -> Tracker[VideoFeatures]:
    """As `Family.tracker`."""
    return Sam2Tracker(segmenter_for(config), config, VRS_HQ)

"""Settings that all stages with SAM2 share."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Sam2StageConfig:
    """Model, features and masks of a stage that runs SAM2.

    Attributes:
        model: name or folder of the bundle.
        hole_area: holes of at most this many low-resolution pixels are filled; 0 fills none.
        feature_cache_bytes: budget of the image features of one video.
        encode_batch: frames through SAM2's image encoder at once.
        device: torch's name of the device.
        dtype: torch's name of the type that SAM2 computes in; its weights are float32.
    """

    model: str = "tiny"
    hole_area: int = 8
    feature_cache_bytes: int = 2 << 30
    encode_batch: int = 4
    device: str = "cpu"
    dtype: str = "float32"

"""The files of a bundle's presence head, and the threshold that belongs to it. Nothing here loads torch.

A bundle may have a folder `presence` with `head.safetensors` (the head's tensors) and `head.json` (its threshold and
provenance). It has a head if the sha256 of the tensors is listed in its `bundle.json`, so that a head is part of the bundle's
fingerprint. Without a head, as with the published weights, presence is the sigmoid of the highest object score.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from vrshq.operators.models.bundle import Bundle, CheckpointError, read_json

WEIGHTS = "presence/head.safetensors"
DESCRIPTION = "presence/head.json"
FORMAT = "vrshq-presence/1"


@dataclass(frozen=True)
class HeadInfo:
    """What `head.json` says.

    Attributes:
        folder: of the bundle.
        threshold: 0 to 1; instructions whose presence is at most this should get no mask, as chosen on held-out videos.
    """

    folder: Path
    threshold: float

    @property
    def weights(self) -> Path:
        """The file of the head's tensors."""
        return self.folder / WEIGHTS


def head_of(bundle: Bundle) -> HeadInfo | None:
    """The presence head of a bundle; None without one.

    Raises:
        CheckpointError: the head's description is missing or cannot be used.
    """
    if WEIGHTS not in bundle.checksums:
        return None
    path = bundle.folder / DESCRIPTION
    if not path.exists():
        raise CheckpointError(f"{path}: no such file; expected the description of the presence head beside its tensors")
    values = read_json(path)
    if values.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {values.get('format')!r}, expected {FORMAT!r}")
    threshold = values.get("threshold")
    if isinstance(threshold, bool) or not isinstance(threshold, int | float) or not 0 <= threshold <= 1:
        raise CheckpointError(f"{path}: threshold {threshold!r}, expected a number from 0 to 1")
    return HeadInfo(bundle.folder, float(threshold))


def presence_threshold(bundle: Bundle) -> float:
    """The presence up to which an instruction should get no mask: the head's own threshold, else the bundle's `presence`."""
    head = head_of(bundle)
    return bundle.presence if head is None else head.threshold


def copy_head(bundle: Bundle, folder: Path) -> dict[str, str]:
    """Copies a bundle's presence head into another folder of the same weights; returns the sha256 to list, {} without one."""
    if head_of(bundle) is None:
        return {}
    bundle.verify([bundle.folder / WEIGHTS])
    for name in (WEIGHTS, DESCRIPTION):
        (folder / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(bundle.folder / name, folder / name)
    return {WEIGHTS: bundle.checksums[WEIGHTS]}

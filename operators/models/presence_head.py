"""The presence head: a logistic layer that tells from the candidates' evidence whether a video shows what an instruction means.

It is trained apart from the model (`vrshq train --config presence`) and changes none of its weights: teaching the decoder empty
masks costs other families about half of their J&F.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from vrshq.operators.models.bundle import DESCRIPTION as BUNDLE_DESCRIPTION
from vrshq.operators.models.bundle import FORMAT as BUNDLE_FORMAT
from vrshq.operators.models.bundle import Bundle, read_json
from vrshq.operators.models.evidence import Evidence, length
from vrshq.operators.models.presence import DESCRIPTION, FORMAT, WEIGHTS, head_of
from vrshq.operators.models.weights import check_tensors, map_file, write_safetensors

_FAR = 5.0  # standard deviations; evidence beyond them counts as this far


class PresenceHead(nn.Module):
    """Standardised evidence -> logit -> a line (Platt) that calibrates it.

    Args:
        evidence: length of `Evidence.described`.
    """

    mean: Tensor
    scale: Tensor
    platt: Tensor

    def __init__(self, evidence: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(evidence))
        self.register_buffer("scale", torch.ones(evidence))
        self.line = nn.Linear(evidence, 1)
        self.register_buffer("platt", torch.tensor([1.0, 0.0]))  # slope, offset

    def standardised(self, evidence: Tensor) -> Tensor:
        """Evidence (B, n) in standard deviations from the training data's mean."""
        return ((evidence - self.mean) / self.scale).clamp(-_FAR, _FAR)

    def logits(self, standardised: Tensor) -> Tensor:
        """Uncalibrated logits (B,) of standardised evidence (B, n)."""
        found: Tensor = self.line(standardised)
        return found[:, 0]

    def forward(self, evidence: Tensor) -> Tensor:
        """Calibrated logits (B,) of evidence (B, n)."""
        return self.platt[0] * self.logits(self.standardised(evidence)) + self.platt[1]

    @torch.inference_mode()
    def presence(self, evidence: Evidence) -> float:
        """The probability, 0 to 1, that the video shows what the instruction means."""
        described = torch.from_numpy(evidence.described())[None]
        return float(self(described)[0].double().sigmoid())


def load_head(bundle: Bundle) -> PresenceHead | None:
    """The presence head of a bundle, on the CPU in evaluation mode; None without one.

    Raises:
        CheckpointError: its file is absent or has another sha256, or a tensor is missing, unexpected or of another shape.
    """
    info = head_of(bundle)
    if info is None:
        return None
    bundle.verify([info.weights])
    given = map_file(info.weights)
    head = PresenceHead(length(bundle.model.sam2.d_model, bundle.model.out_dim))
    check_tensors(info.weights, given, {name: tuple(value.shape) for name, value in head.state_dict().items()})
    head.load_state_dict({name: value.float() for name, value in given.items()})
    return head.eval()


def write_with_head(
    bundle: Bundle, head: PresenceHead, folder: Path, *, threshold: float, provenance: Mapping[str, Any]
) -> Path:
    """Writes a bundle with a presence head: every other file is copied as it is.

    Args:
        bundle: the bundle; an earlier head is replaced.
        head: the head.
        folder: a new folder.
        threshold: see `vrshq.operators.models.presence.HeadInfo`.
        provenance: recorded in the head's description.

    Returns:
        `folder`.
    """
    shutil.copytree(bundle.folder, folder, ignore=shutil.ignore_patterns("__pycache__", "presence"))
    (folder / WEIGHTS).parent.mkdir()
    state = {name: value.detach().float() for name, value in head.state_dict().items()}
    contents = {name: (value.dtype, tuple(value.shape)) for name, value in state.items()}
    checksum = write_safetensors(folder / WEIGHTS, contents, state.__getitem__)
    about = {"format": FORMAT, "threshold": threshold, "provenance": dict(provenance)}
    _write_json(folder / DESCRIPTION, about)
    path = folder / BUNDLE_DESCRIPTION
    alone = {"format": BUNDLE_FORMAT, "model": bundle.model.to_dict()}
    described: dict[str, Any] = read_json(path) if path.exists() else alone
    _write_json(path, described | {"sha256": {**(described.get("sha256") or {}), WEIGHTS: checksum}})
    return folder


def _write_json(path: Path, values: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")

"""transformers' SAM 3 for video, with the image features of a frame computed once for all texts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import Sam3VideoConfig, Sam3VideoModel

from vrshq.operators.models.sam3 import kernels


class Sam3Network(nn.Module):
    """The detector and the tracker. Nothing of the library's is rewritten; the results of two of its methods are kept.

    `model.detector_model.get_vision_features` gives the picture's features, `model.get_vision_features_for_tracker` those that
    the tracker needs of them. Within one `step`, each runs once.
    """

    def __init__(self, config: Sam3VideoConfig) -> None:
        super().__init__()
        kernels.install()
        self.model: Any = Sam3VideoModel(config)
        self.encoder_calls = 0
        self._kept: dict[str, Any] | None = None  # results of the current step
        self._encode = self.model.detector_model.get_vision_features
        self._prepare = self.model.get_vision_features_for_tracker
        self.model.detector_model.get_vision_features = self._encode_once
        self.model.get_vision_features_for_tracker = self._prepare_once

    @property
    def dtype_and_device(self) -> tuple[torch.dtype, torch.device]:
        """The type and the device of the weights."""
        parameter = next(self.parameters())
        return parameter.dtype, parameter.device

    @torch.inference_mode()
    def step(self, sessions: Sequence[Any], frame: int) -> list[Any]:
        """Runs the library's detection and tracking of one frame in each of its sessions, which do not see each other.

        Args:
            sessions: of transformers, each with the same picture for this frame.
            frame: frame index.

        Returns:
            The library's output for each session.
        """
        self._kept = {}
        try:
            return [self.model(inference_session=session, frame_idx=frame) for session in sessions]
        finally:
            self._kept = None

    def _encode_once(self, pixel_values: Tensor, **options: Any) -> Any:
        if self._kept is None:
            return self._encode(pixel_values=pixel_values, **options)
        if "picture" not in self._kept:
            self.encoder_calls += 1
            self._kept["picture"] = self._encode(pixel_values=pixel_values, **options)
        return self._kept["picture"]

    def _prepare_once(self, vision_embeds: Any) -> Any:
        if self._kept is None:
            return self._prepare(vision_embeds=vision_embeds)
        if "tracker" not in self._kept:
            self._kept["tracker"] = self._prepare(vision_embeds=vision_embeds)
        return self._kept["tracker"]

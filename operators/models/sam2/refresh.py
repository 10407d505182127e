"""Refreshing a track: where tracking has lost its object, a candidate mask of a sampled frame takes over (not in the paper)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from vrshq.operators.models.families import RefreshWhen
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.sam2.values import Memory

_AGREE = 0.5  # IoU of two masks that show the same object


@dataclass(frozen=True)
class Candidates:
    """When tracks are refreshed, and by what.

    Attributes:
        when: "lost": the tracked object's score is below 0 and the candidate's is not; "disagreement": or both have a mask
            and the masks have an IoU below one half, and the candidate's score is the higher one; "forward-backward": lost, or
            both have a mask and the masks have an IoU below one half, and the candidate returns to the keyframe's mask with
            an IoU of at least one half, and better than the tracked mask (the forward-backward error of Kalal et al.,
            ICPR 2010, with masks for points).
        hole_area: see `fill_holes`.
        found: (frame, object) -> object logit and low-resolution mask logits (l, l), on the CPU.
        keyframes: object -> its keyframe, of which `found` has a mask too.
    """

    when: RefreshWhen
    hole_area: int
    found: Mapping[tuple[int, int], tuple[float, Tensor]]
    keyframes: Mapping[int, int]

    def better(
        self, frame: int, position: int, score: float, low_res: Tensor, returned: Callable[[Tensor], float]
    ) -> tuple[float, Tensor] | None:
        """The candidate that takes over from a tracked mask; None where the mask is kept.

        Args:
            frame: frame index.
            position: the object's number.
            score: object logit of the tracked mask.
            low_res: its mask logits (l, l).
            returned: `returned_iou` of a mask's logits (l, l) on this frame.
        """
        candidate = self.found.get((frame, position))
        if candidate is None or candidate[0] < 0:
            return None
        lost = score < 0
        if not lost and (self.when == "lost" or _iou(low_res.cpu(), candidate[1]) >= _AGREE):
            return None
        if self.when == "forward-backward":
            back = returned(candidate[1])
            better = back >= _AGREE and (lost or back > returned(low_res))
        else:
            better = lost or score < candidate[0]
        return candidate if better else None

    def returned_iou(
        self, segmenter: Segmenter, features: VideoFeatures, frame: int, position: int, low_res: Tensor
    ) -> float:
        """Tracks a mask (l, l) of a frame to the object's keyframe in one step, with that mask as the only memory.

        Returns:
            IoU of the mask that arrives with the keyframe's own.
        """
        keyframe = self.keyframes[position]
        _, memory = self.enter(segmenter, features, frame, (0.0, low_res))
        arrived, _ = segmenter.track(features.get([keyframe]), [memory], [], [])
        return _iou(arrived.low_res[0].cpu(), self.found[keyframe, position][1])

    def enter(
        self, segmenter: Segmenter, features: VideoFeatures, frame: int, candidate: tuple[float, Tensor]
    ) -> tuple[Tensor, Memory]:
        """The candidate as a keyframe's mask: its final logits (l, l) and its memory (B = 1)."""
        mask = segmenter.to_image_size(candidate[1][None].to(segmenter.device)) > 0
        low_res, memory = segmenter.condition(features.get([frame]), mask, self.hole_area)
        return low_res[0], memory


def _iou(one: Tensor, other: Tensor) -> float:
    """IoU of the masks of two maps of logits; 1 where both are empty."""
    masks = torch.stack([one > 0, other > 0])
    union = int(masks.any(0).sum())
    return int(masks.all(0).sum()) / union if union else 1.0

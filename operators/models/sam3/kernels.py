"""Two image operations that transformers' SAM 3 takes from a compiled package, here with numpy and OpenCV.

transformers fetches the package `cv-utils` from the hub while a model runs, and leaves both operations out where it cannot.
Results would then depend on the machine, and code from elsewhere would run. `install` puts the operations below in its place:
greedy suppression, and regions with neighbours in eight directions.
"""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor
from transformers.models.sam3_video import modeling_sam3_video


class Kernels:
    """The functions of the package that SAM 3 calls."""

    @staticmethod
    def generic_nms(ious: Tensor, scores: Tensor, threshold: float, *, use_iou_matrix: bool = True) -> Tensor:
        """Suppresses every detection that overlaps a better one.

        Args:
            ious: (N, N) IoU of each pair of detections.
            scores: (N,).
            threshold: largest IoU of two detections that are kept.
            use_iou_matrix: true, because boxes are not taken.

        Returns:
            The kept detections' indices (k,) int64, the best first; of equal scores the first comes first.
        """
        if not use_iou_matrix:
            raise ValueError("use_iou_matrix False: expected a matrix of IoUs")
        matrix = ious.float().cpu().numpy()
        order = np.argsort(-scores.float().cpu().numpy(), kind="stable")
        kept: list[int] = []
        while order.size:
            best, others = int(order[0]), order[1:]
            kept.append(best)
            order = others[matrix[best, others] <= threshold]
        return torch.tensor(kept, dtype=torch.int64, device=scores.device)

    @staticmethod
    def cc_2d(masks: Tensor, *, get_counts: bool = True) -> tuple[Tensor, Tensor]:
        """The connected regions of masks, with neighbours in eight directions.

        Args:
            masks: (N, 1, H, W) uint8, 0 or 1.
            get_counts: true, because the areas are what is asked for.

        Returns:
            The number of each pixel's region, and its area in pixels; both (N, 1, H, W) int32, 0 outside of masks.
        """
        if not get_counts:
            raise ValueError("get_counts False: expected True")
        images = masks.cpu().numpy()
        labels, areas = np.zeros(images.shape, np.int32), np.zeros(images.shape, np.int32)
        for place, (image,) in enumerate(images):
            _, labels[place, 0], stats, _ = cv2.connectedComponentsWithStats(image, connectivity=8)
            area = stats[:, cv2.CC_STAT_AREA].copy()
            area[0] = 0  # label 0 is everything outside
            areas[place, 0] = area[labels[place, 0]]
        return torch.from_numpy(labels).to(masks.device), torch.from_numpy(areas).to(masks.device)


def install() -> None:
    """Puts `Kernels` in the place of the package, for every SAM 3 of this process."""
    modeling_sam3_video.cv_utils_kernel = Kernels()

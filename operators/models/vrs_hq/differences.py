"""Motion features of the frames' tokens: the differences of neighbouring sampled frames in the vision tower's features.

No part of the published model. An option of training for a model whose tower reads each frame alone.
Shape letters: n sampled frames in order, N patches, C tower width, K tokens per frame, D LLaMA width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.vrs_hq.clustering import merge


class FrameDifferences(nn.Module):
    """Adds to each token how its patches differ from the same patches of the sampled frames before and after.

    token + W [x_t - x_(t-1), x_(t+1) - x_t], each difference merged over the token's patches as the patches were. The first
    frame has no frame before it and the last none after it: their differences are 0, and so are those of a single image. The
    idea is that of temporal differences (TDN, arXiv 2012.10071) with learned weights; the place in the model is ours.
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.clusters = config.clustering.clusters
        self.project = nn.Linear(2 * config.tower.hidden_size, config.language.hidden_size, bias=False)

    def forward(self, tokens: Tensor, patches: Tensor, assignments: Sequence[Tensor]) -> Tensor:
        """The tokens with what moves.

        Args:
            tokens: (n, K, D) projected tokens, level after level.
            patches: (n, N, C) the tower's features that the tokens were merged from.
            assignments: of each level, (n, its input tokens) int64, the cluster of each input token.

        Returns:
            (n, K, D).
        """
        steps = patches[1:] - patches[:-1]
        none = torch.zeros_like(patches[:1])
        merged = torch.cat([torch.cat([none, steps]), torch.cat([steps, none])], dim=-1)
        levels = []
        for clusters, assignment in zip(self.clusters, assignments, strict=True):
            merged = merge(merged, assignment, clusters)
            levels.append(merged)
        added: Tensor = tokens + self.project(torch.cat(levels, dim=1))
        return added

"""Chat-UniVi's token clustering (arXiv 2311.08046, section 3.1): DPC-KNN, level after level, without its random noise.

Shape letters: n images, N input tokens, K clusters, C features.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from vrshq.operators.models.config import ClusteringConfig


@dataclass(frozen=True)
class Level:
    """The result of one clustering level.

    Attributes:
        tokens: (n, K, C) the merged tokens.
        centres: (n, K) int64, the input token at the centre of each cluster, by falling density * delta.
        assignment: (n, N) int64, the cluster of each input token.
    """

    tokens: Tensor
    centres: Tensor
    assignment: Tensor


def cluster(tokens: Tensor, config: ClusteringConfig) -> list[Level]:
    """Clusters the tokens (n, N, C) of each image; every level clusters the tokens of the level before it."""
    levels: list[Level] = []
    for clusters, neighbours in zip(config.clusters, config.neighbours, strict=True):
        centres, assignment = dpc_knn(tokens, clusters, neighbours)
        tokens = merge(tokens, assignment, clusters)
        levels.append(Level(tokens, centres, assignment))
    return levels


def dpc_knn(tokens: Tensor, clusters: int, neighbours: int) -> tuple[Tensor, Tensor]:
    """Density peaks clustering with k nearest neighbours, as in the reference with the noise at zero.

    d_ij = |x_i - x_j| / sqrt(C); density_i = exp(-mean of the k smallest d_ij^2, its own zero among them); delta_i =
    smallest d_ij to a token of strictly larger density, or the image's largest distance where there is none; centres are
    the tokens of largest density * delta. Of equal values the lower index wins.

    Args:
        tokens: (n, N, C) of any float type, N >= clusters.
        clusters: K.
        neighbours: k.

    Returns:
        centres (n, K) int64 by falling density * delta, and assignment (n, N) int64 into them.
    """
    # Distances are taken directly (not through the dot product, which cancels) and in float64: which tokens become centres
    # must not depend on the machine, and the stored reference decisions are those of exact arithmetic.
    points = tokens.double()
    distance = torch.cdist(points, points, compute_mode="donot_use_mm_for_euclid_dist") / points.shape[-1] ** 0.5
    nearest = distance.topk(min(neighbours, points.shape[1]), dim=-1, largest=False).values
    density = (-nearest.square().mean(-1)).exp()
    denser = density[:, None, :] > density[:, :, None]
    farthest = distance.amax((1, 2))[:, None, None]
    delta = torch.where(denser, distance, farthest).amin(-1)
    centres = (density * delta).argsort(dim=-1, descending=True, stable=True)[:, :clusters]
    to_centres = distance.gather(1, centres[..., None].expand(-1, -1, distance.shape[-1]))
    assignment = to_centres.argmin(1)
    own = torch.arange(centres.shape[1], device=centres.device).expand_as(centres)
    return centres, assignment.scatter(1, centres, own)  # a centre joins itself, even if another centre lies on it


def merge(tokens: Tensor, assignment: Tensor, clusters: int) -> Tensor:
    """Sum of each cluster's members times 1 / (members + 1e-6): (n, K, C) in the type of `tokens`."""
    member = torch.nn.functional.one_hot(assignment, clusters).transpose(1, 2).float()
    return (member @ tokens.float() / (member.sum(-1, keepdim=True) + 1e-6)).to(tokens.dtype)

from __future__ import annotations

import math

import pytest
import torch

from vrshq.operators.models.config import ClusteringConfig
from vrshq.operators.models.vrs_hq.clustering import cluster, dpc_knn, merge


def one_by_one(points: list[list[float]], clusters: int, neighbours: int) -> tuple[list[int], list[int]]:
    """The definition in plain Python, for one image."""
    total, scale = len(points), math.sqrt(len(points[0]))
    distance = [[math.dist(a, b) / scale for b in points] for a in points]
    density = [math.exp(-sum(d * d for d in sorted(row)[:neighbours]) / neighbours) for row in distance]
    farthest = max(map(max, distance))
    delta = [
        min((distance[i][j] for j in range(total) if density[j] > density[i]), default=farthest) for i in range(total)
    ]
    centres = sorted(range(total), key=lambda i: -density[i] * delta[i])[:clusters]
    assignment = [min(range(clusters), key=lambda k: distance[centres[k]][i]) for i in range(total)]
    for index, centre in enumerate(centres):
        assignment[centre] = index
    return centres, assignment


@pytest.mark.parametrize(("clusters", "neighbours"), [(1, 1), (4, 3), (8, 5), (20, 5)])
def test_dpc_knn_equals_its_definition(clusters: int, neighbours: int) -> None:
    tokens = torch.randn(3, 20, 6, generator=torch.Generator().manual_seed(clusters), dtype=torch.float64)
    centres, assignment = dpc_knn(tokens, clusters, neighbours)
    for image in range(3):
        want = one_by_one(tokens[image].tolist(), clusters, neighbours)
        assert (centres[image].tolist(), assignment[image].tolist()) == want


def test_images_do_not_influence_each_other() -> None:
    tokens = torch.randn(4, 32, 8, generator=torch.Generator().manual_seed(1))
    together = dpc_knn(tokens, 8, 5)
    for image in range(4):
        alone = dpc_knn(tokens[image : image + 1], 8, 5)
        assert all(torch.equal(a[image], b[0]) for a, b in zip(together, alone, strict=True))


def test_equal_tokens_give_valid_and_repeatable_clusters() -> None:
    centres, assignment = dpc_knn(torch.ones(1, 10, 4), 3, 5)
    assert centres.tolist() == [[0, 1, 2]]
    assert assignment[0, :3].tolist() == [0, 1, 2]


def test_merge_averages_members_with_the_reference_weight() -> None:
    tokens = torch.tensor([[[1.0], [3.0], [10.0]]])
    merged = merge(tokens, torch.tensor([[0, 0, 1]]), 2)
    torch.testing.assert_close(merged, torch.tensor([[[4 / (2 + 1e-6)], [10 / (1 + 1e-6)]]]))


def test_levels_cluster_the_level_before() -> None:
    config = ClusteringConfig(clusters=(8, 4, 2), neighbours=(5, 3, 3))
    levels = cluster(torch.randn(2, 16, 6, generator=torch.Generator().manual_seed(2)), config)
    assert [tuple(level.tokens.shape) for level in levels] == [(2, 8, 6), (2, 4, 6), (2, 2, 6)]
    assert [tuple(level.assignment.shape) for level in levels] == [(2, 16), (2, 8), (2, 4)]
    torch.testing.assert_close(merge(levels[0].tokens, levels[1].assignment, 4), levels[1].tokens)


def test_bfloat16_tokens_stay_bfloat16() -> None:
    (level,) = cluster(torch.randn(1, 16, 6).bfloat16(), ClusteringConfig(clusters=(4,), neighbours=(3,)))
    assert level.tokens.dtype == torch.bfloat16

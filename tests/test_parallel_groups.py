"""The groups of a parallel run: without them two workers would start Ray at the same time and make module fixtures twice."""

from __future__ import annotations

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="needs a parallel run: make test")
def test_xdist_knows_the_group_of_each_test(request: pytest.FixtureRequest) -> None:
    marked = [item.get_closest_marker("ray") is not None for item in request.session.items]
    groups = {item.nodeid.rpartition("@")[2] for item in request.session.items if item.get_closest_marker("ray")}
    assert groups <= {"ray"}
    assert marked == sorted(marked, reverse=True)
    assert request.node.nodeid.endswith("@tests/test_parallel_groups.py")

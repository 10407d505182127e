"""The groups of a parallel run: without them each worker would start Ray and make module fixtures of its own."""

from __future__ import annotations

import os

import pytest


@pytest.mark.skipif("PYTEST_XDIST_WORKER" not in os.environ, reason="needs a parallel run: make test")
def test_xdist_knows_the_group_of_each_test(request: pytest.FixtureRequest) -> None:
    marked = [item for item in request.session.items if item.get_closest_marker("ray")]
    groups = {item.nodeid.rpartition("@")[2] for item in marked}
    assert groups <= {"ray", "shared ray"}
    assert request.node.nodeid.endswith("@tests/test_parallel_groups.py")
    # The worker that has the Ray of all cannot run tests that start their own, so those come first: they are more.
    counts = [sum(item.nodeid.endswith(f"@{name}") for item in marked) for name in ("ray", "shared ray")]
    assert counts[0] > counts[1]

"""A machine that cannot work gets no more actors, and the run goes on with the others: on a Ray of two machines."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pyarrow as pa
import pytest

from tests.support.engine_workers import BadOn
from tests.support.fault_kit import nodes
from vrshq.cluster.ray.engine import stream_receipts
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.session import ray_session

pytestmark = pytest.mark.ray


@pytest.fixture(scope="module")
def bad() -> Iterator[str]:
    """Ray's id of one of two connected machines with one CPU each."""
    import ray

    with nodes(1) as cluster, ray_session(cluster.address):
        yield str(next(node["NodeID"] for node in ray.nodes() if "node:__internal_head__" not in node["Resources"]))


@pytest.mark.parametrize("loads", [False, True], ids=["cannot load", "breaks at each unit"])
def test_a_bad_machine_is_shunned_and_named_and_no_unit_is_lost(
    bad: str, loads: bool, caplog: pytest.LogCaptureFixture
) -> None:
    units = pa.table({"unit_id": [f"{number:04x}" for number in range(24)], "number": pa.array(range(24))})
    pool = ActorPool(
        name="a", worker=BadOn, arguments={"name": "a", "node": bad, "loads": loads, "seconds": 0.4}, actors=2
    )
    with caplog.at_level(logging.WARNING, "vrshq.cluster.ray"):
        answers = list(stream_receipts(units, [pool], attempts=3, timing=Timing(look_s=0.2)))
    assert sorted(one["number"] for one in answers if isinstance(one, dict)) == list(range(24))
    why = "CUDA error: the GPU is lost" if loads else "pool a cannot start: RuntimeError: no CUDA driver"
    assert [line for line in caplog.messages if line.startswith("machine")] == [
        f"machine {bad[:8]} gets no more actors: {why}"
    ]

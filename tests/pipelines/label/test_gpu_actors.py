"""Each GPU has an actor of its own, on a real Ray with GPUs that exist in its books alone."""

from __future__ import annotations

import pyarrow as pa
import pytest

from tests.support.engine_workers import Step
from vrshq.cluster.ray.engine import stream_receipts
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.resources import cluster_machines, total
from vrshq.cluster.ray.session import ray_session
from vrshq.pipelines.label.planning.placement import choose_pools
from vrshq.pipelines.label.settings import Settings


@pytest.mark.ray
def test_each_actor_sees_a_gpu_of_its_own() -> None:
    units = pa.table({"unit_id": [f"{number:02x}" for number in range(16)], "number": pa.array(range(16))})
    with ray_session(num_cpus=8, num_gpus=4, object_store_memory=100_000_000):
        machines = cluster_machines()
        assert total(machines).gpus == 4
        (pool,) = choose_pools(Settings(), machines, units.num_rows)
        assert (pool.actors, pool.cpus, pool.gpus) == (4, 2, 1)
        actors = ActorPool(
            name="all",
            worker=Step,
            arguments={"name": "all", "seconds": 1.0},
            actors=pool.actors,
            num_cpus=pool.cpus,
            num_gpus=pool.gpus,
        )
        rows = [one for one in stream_receipts(units, [actors], attempts=1, timing=Timing()) if isinstance(one, dict)]
    assert len(rows) == 16
    gpus = {row["pid"]: row["visible_gpus"] for row in rows}
    assert sorted(gpus.values()) == ["0", "1", "2", "3"]

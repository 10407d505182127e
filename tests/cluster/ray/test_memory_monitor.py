"""A unit that takes too much memory is found by Ray's memory monitor, in a cluster whose limit is near."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import psutil
import pytest

pytestmark = pytest.mark.ray

CODE = """
import json
import pyarrow as pa
from vrshq.cluster.ray.engine import Lost, stream_receipts
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.session import ray_session
from tests.support.engine_workers import Greedy

units = pa.table({"unit_id": ["00", "01", "02"], "number": [0, 1, 2]})
with ray_session("local", num_cpus=1, object_store_memory=100_000_000):
    answers = list(stream_receipts(units, [ActorPool(name="a", worker=Greedy)], attempts=1))
lost = [one for one in answers if isinstance(one, Lost)]
print(json.dumps([sorted(one["unit_id"] for one in answers if isinstance(one, dict)), [one.reason for one in lost]]))
"""


def test_a_unit_that_takes_too_much_memory_is_killed_and_its_row_says_why() -> None:
    memory = psutil.virtual_memory()
    if memory.available < 8e9:
        pytest.skip(f"needs 8 GB of free memory, there are {memory.available / 1e9:.0f}")
    threshold = (memory.total - memory.available + 4e9) / memory.total
    environment = {"RAY_memory_usage_threshold": f"{threshold:.4f}", "RAY_memory_monitor_refresh_ms": "100"}
    done = subprocess.run(
        [sys.executable, "-c", CODE], capture_output=True, text=True, timeout=240, env={**os.environ, **environment}
    )
    assert done.returncode == 0, done.stderr
    finished, reasons = json.loads(done.stdout.splitlines()[-1])
    assert finished == ["00", "02"]
    assert reasons == ["its worker process was killed for memory"]

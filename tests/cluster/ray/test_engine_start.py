"""Promises of the engine about the start of a run: sums and shapes of machines, a busy Ray, an autoscaler."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.engine_workers import Step
from tests.support.s3_server import free_port
from vrshq.cluster.ray.engine import stream_receipts
from vrshq.cluster.ray.errors import NotEnoughResources
from vrshq.cluster.ray.needs import lacking
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.resources import Resources, cluster_machines, largest, may_grow, total
from vrshq.cluster.ray.session import ray_session

pytestmark = pytest.mark.ray

GIB = 1 << 30
FRACTIONS = [0.25, 1 / 3, 0.5, 1.0, 2.0]


def machine(cpus: float, gpus: float = 0, gib: float = 16) -> Resources:
    return Resources(cpus=cpus, gpus=gpus, memory_bytes=int(gib * GIB), nodes=1)


def pool(name: str = "a", actors: int = 1, cpus: float = 1, gpus: float = 0, **more: Any) -> ActorPool:
    arguments = {"name": name, **more.pop("arguments", {})}
    return ActorPool(name=name, worker=Step, arguments=arguments, actors=actors, num_cpus=cpus, num_gpus=gpus, **more)


def units(count: int) -> pa.Table:
    return pa.table({"unit_id": [f"{number:04x}" for number in range(count)], "number": pa.array(range(count))})


@pytest.mark.parametrize(
    ("pools", "machines", "lines"),
    [
        ([pool(actors=2, gpus=1)], [machine(4)], ["needs 2 GPUs, the cluster has 0"]),
        (
            [pool(gpus=0.5, cpus=9)],
            [machine(4)],
            ["needs 0.5 GPU, the cluster has 0", "needs 9 CPUs, the cluster has 4"],
        ),
        (
            [pool("keyframe+propagate", cpus=4), pool("tokens", cpus=1)],
            [machine(2), machine(2), machine(2)],
            ["pool keyframe+propagate: 4 CPUs on one machine, the largest has 2"],
        ),
        (
            [pool(actors=3, cpus=3)],
            [machine(5), machine(5)],
            ["pool a: 3 actors with 3 CPUs each on one machine, the machines have room for 2"],
        ),
        (
            [pool(cpus=4, gpus=1)],
            [machine(8), machine(2, gpus=2)],
            ["pool a: 1 actor with 1 GPU, 4 CPUs each on one machine, the machines have room for 0"],
        ),
        (
            [pool(actors=4, gpus=0.6)],
            [machine(8, gpus=3)],
            ["pool a: 4 actors with 0.6 GPU, 1 CPU each on one machine, the machines have room for 3"],
        ),
        (
            [pool(memory=20 * GIB)],
            [machine(1), machine(1)],
            ["pool a: 20.0 GiB of memory on one machine, the largest has 16.0 GiB"],
        ),
        ([pool(actors=9, gpus=1 / 3)], [machine(9, gpus=3)], []),
        ([pool()], [], ["needs 1 CPU, the cluster has 0"]),
    ],
)
def test_each_shortage_is_one_line(pools: list[ActorPool], machines: list[Resources], lines: list[str]) -> None:
    assert lacking(pools, machines) == lines


@given(
    data=st.data(),
    machines=st.lists(
        st.builds(machine, st.integers(0, 8), st.integers(0, 4), st.integers(1, 64)), min_size=1, max_size=4
    ),
)
def test_what_lies_on_the_machines_is_not_called_missing(data: st.DataObject, machines: list[Resources]) -> None:
    """Actors of one or two pools are laid on the machines one by one: where they lie, they must be said to fit."""
    pools = [
        (data.draw(st.sampled_from([0.5, 1.0, 2.0])), data.draw(st.sampled_from([0.0, *FRACTIONS]))) for _ in range(2)
    ]
    laid = [0, 0]
    for has in machines:
        cpus, gpus = has.cpus, [1.0] * int(has.gpus)
        for index, (need_cpus, need_gpus) in enumerate(pools):
            for _ in range(data.draw(st.integers(0, 4))):
                free = [place for place, left in enumerate(gpus) if left >= min(need_gpus, 1.0) - 1e-9]
                wanted = max(1, int(need_gpus)) if need_gpus else 0
                if cpus < need_cpus or len(free) < wanted:
                    break
                cpus -= need_cpus
                for place in free[:wanted]:
                    gpus[place] -= min(need_gpus, 1.0)
                laid[index] += 1
    there = [
        pool(name, actors=number, cpus=cpus, gpus=gpus)
        for name, number, (cpus, gpus) in zip("ab", laid, pools, strict=True)
        if number
    ]
    assert lacking(there, machines) == []


@given(
    machines=st.lists(st.builds(machine, st.integers(0, 8), st.integers(0, 4), st.integers(1, 64)), max_size=4),
    gpus=st.sampled_from([0.0, *FRACTIONS]),
    actors=st.integers(1, 40),
)
def test_nothing_is_missing_only_within_the_sums_and_on_single_machines(
    machines: list[Resources], gpus: float, actors: int
) -> None:
    one = pool(actors=actors, cpus=0.5, gpus=gpus)
    if not lacking([one], machines):
        assert 0.5 * actors <= total(machines).cpus
        assert gpus * actors <= total(machines).gpus + 1e-6
        assert gpus <= largest(machines).gpus


class TestBusyCluster:
    """A Ray of two CPUs of which somebody else holds some."""

    @pytest.fixture(scope="class", autouse=True)
    def session(self) -> Iterator[None]:
        with ray_session(num_cpus=2, object_store_memory=100_000_000):
            yield

    def test_a_pool_without_any_actor_ends_the_run_after_a_while_and_says_what_it_waited_for(self) -> None:
        with holding(2), pytest.raises(NotEnoughResources) as caught:
            list(stream_receipts(units(2), [pool(actors=2)], attempts=1, timing=Timing(start_s=4, look_s=0.5)))
        assert str(caught.value) == (
            "pool a: 0 of 2 actors started within 4 s, each needs 1 CPU; the cluster has 2 CPUs"
        )

    def test_a_pool_with_some_of_its_actors_works_on_and_says_so(self, caplog: pytest.LogCaptureFixture) -> None:
        with holding(1), caplog.at_level(logging.WARNING, "vrshq.cluster.ray"):
            slow = pool(actors=2, arguments={"seconds": 0.5})
            answers = list(stream_receipts(units(24), [slow], attempts=1, timing=Timing(start_s=8, look_s=0.5)))
        assert len(answers) == 24
        assert (
            "pool a: 1 of 2 actors started within 8 s, each needs 1 CPU; the cluster has 2 CPUs; working on"
            in caplog.text
        )

    def test_a_cluster_of_a_fixed_size_is_not_taken_for_one_that_grows(self) -> None:
        from ray.experimental import internal_kv

        for _ in range(240):  # until the part of Ray that watches the cluster has written down what it sees
            if b"active_nodes" in (internal_kv._internal_kv_get(b"__autoscaling_status") or b""):
                break
            time.sleep(0.25)
        else:
            raise AssertionError("Ray did not report on its nodes within a minute")
        assert not may_grow()


class holding:  # noqa: N801 - reads as the word that it is in a `with`
    """Keeps so many CPUs of the connected cluster from everybody else."""

    def __init__(self, cpus: int) -> None:
        import ray

        self._holder = ray.remote(num_cpus=cpus)(_Holder).remote()
        ray.get(self._holder.ready.remote())

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_: object) -> None:
        import ray

        ray.kill(self._holder)


class _Holder:
    def ready(self) -> None:
        pass


# The head of a cluster whose autoscaler (Ray's own, with the machines that its tests use) starts up to two raylets.
MACHINES = {
    "one": {"resources": {"CPU": 1, "object_store_memory": 100_000_000}, "node_config": {}, "max_workers": 2},
    "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
}
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
HEAD_ID = "f" * 51 + "00000"  # as Ray's stand-in for a cloud calls it
NO_COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")


@pytest.fixture(params=[pytest.param("older autoscaler", marks=pytest.mark.long), "newer autoscaler"])
def growing(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a cluster that has no CPU until somebody wants one."""
    port = free_port()
    provider: dict[str, Any] = {"type": "external", "module": PROVIDER, "gcs_address": f"127.0.0.1:{port}"}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    environment = {"RAY_FAKE_CLUSTER": "1", "AUTOSCALER_UPDATE_INTERVAL_S": "1"}
    if request.param == "newer autoscaler":
        provider |= {"launch_multiple": True, "head_node_id": HEAD_ID}
        environment |= {"RAY_enable_autoscaler_v2": "1", "RAY_NODE_TYPE_NAME": "ray.head.default"}
        environment |= {"RAY_CLOUD_INSTANCE_ID": HEAD_ID, "RAY_OVERRIDE_NODE_ID_FOR_TESTING": HEAD_ID}
    config = {
        "cluster_name": "growing",
        "max_workers": 2,
        "upscaling_speed": 100.0,
        "idle_timeout_minutes": 60,
        "provider": provider,
        "available_node_types": MACHINES,
        "head_node_type": "ray.head.default",
        "auth": {},
        "file_mounts": {},
        "file_mounts_sync_continuously": False,
        "cluster_synced_files": [],
        "rsync_exclude": [],
        "rsync_filter": [],
        **{f"{name}_commands": [] for name in NO_COMMANDS},
    }
    file = tmp_path_factory.mktemp("growing") / "config.yaml"
    file.write_text(json.dumps(config))
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--disable-usage-stats"]
    command += [f"--port={port}", "--num-cpus=0", "--include-dashboard=false", "--object-store-memory=100000000"]
    command += [f"--temp-dir={os.environ['RAY_TMPDIR']}/g", f"--autoscaling-config={file}"]
    command += [f"--{name}={free_port()}" for name in ("dashboard-agent-listen-port", "ray-client-server-port")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "token")
        log = file.with_suffix(".log").open("w+b")
        head = subprocess.Popen(
            command, env=os.environ | environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            for _ in range(240):
                assert head.poll() is None, Path(log.name).read_text()
                if "Ray runtime started" in Path(log.name).read_text():
                    break
                time.sleep(0.5)
            yield f"127.0.0.1:{port}"
        finally:
            # The machines that came are children of the autoscaler: they do not end with the head.
            started = psutil.Process(head.pid).children(recursive=True)
            head.kill()
            head.wait()
            for process in started:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def test_an_autoscaler_is_waited_for_and_what_it_does_not_bring_is_said(growing: str) -> None:
    with ray_session(growing):
        for _ in range(240):
            if may_grow():
                break
            time.sleep(0.25)
        assert may_grow()
        assert total(cluster_machines()).cpus == 0
        slow = pool(actors=2, arguments={"seconds": 0.3})
        receipts = stream_receipts(units(2000), [slow], attempts=1, timing=Timing(start_s=300, look_s=0.5))
        pids: set[int] = set()
        while len(pids) < 2:
            row = next(receipts)
            assert isinstance(row, dict)
            pids.add(row["pid"])
        receipts.close()  # type: ignore[attr-defined]
        assert [one.cpus for one in cluster_machines() if one.cpus] == [1, 1]
        with pytest.raises(NotEnoughResources) as caught:
            list(
                stream_receipts(
                    units(400),
                    [pool(actors=4, arguments={"seconds": 1.0})],
                    attempts=1,
                    timing=Timing(start_s=12, look_s=0.5),
                )
            )
        assert re.fullmatch(
            r"pool a: [012] of 4 actors started within 12 s, each needs 1 CPU; the cluster has 2 CPUs",
            str(caught.value),
        )

"""Promises of `cluster.engine`, on a real local Ray."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from cluster_helpers import S3_BUCKET
from engine_workers import CannotLoad, DiesLoading, Doubles, LoadsOnce, Step

from cluster.engine import NotEnoughResources, Pool, WorkerError, stream_receipts
from cluster.resources import cluster_resources
from cluster.run_directory import RunDirectory
from cluster.session import ray_session


@pytest.fixture(scope="module", autouse=True)
def ray() -> Iterator[None]:
    with ray_session(num_cpus=4, object_store_memory=200_000_000):
        yield


def units(count: int) -> pa.Table:
    return pa.table({"number": pa.array(range(count), pa.int64())})


def pool(name: str, worker: type = Step, *, actors: int = 1, batch_size: int = 1, **arguments: Any) -> Pool:
    if issubclass(worker, Step):
        arguments["name"] = name
    return Pool(name=name, worker=worker, arguments=arguments, actors=actors, num_cpus=0.5, batch_size=batch_size)


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("cluster")]


def test_every_unit_goes_through_every_pool_once_and_alone() -> None:
    pools = [pool("a", actors=2), pool("b", batch_size=4), pool("c")]
    rows = list(stream_receipts(units(20), pools, max_retries=0))
    assert sorted(row["number"] for row in rows) == list(range(20))
    assert {row["trail"] for row in rows} == {"abc"}
    # The pool of batches must not make later units share a call, and so a fate.
    assert {row["rows"] for row in rows} == {1}


def test_a_unit_that_kills_its_worker_costs_only_itself_and_a_bounded_number_of_tries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    deaths = tmp_path / "deaths"
    pools = [pool("a", deadly=[3], deaths=str(deaths), actors=2), pool("b", deadly=[7], deaths=str(deaths))]
    with caplog.at_level(logging.WARNING, "cluster.engine"):
        rows = list(stream_receipts(units(12), pools, max_retries=1))
    assert sorted(row["number"] for row in rows) == [number for number in range(12) if number not in (3, 7)]
    assert Counter(deaths.read_text().splitlines()) == {"[3]": 2, "[7]": 2}
    assert said(caplog) == ["lost a unit: its worker process died"] * 2


def test_a_worker_that_raises_loses_its_unit_and_says_why(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "cluster.engine"):
        rows = list(stream_receipts(units(4), [pool("a", wrong=[1])], max_retries=1))
    assert sorted(row["number"] for row in rows) == [0, 2, 3]
    assert said(caplog) == ["lost a unit: pool a: TypeError: a bug in two lines"]


def test_receipts_come_as_soon_as_they_are_there_and_a_run_can_be_left() -> None:
    receipts = stream_receipts(units(200), [pool("a", seconds=0.5)], max_retries=1)
    begin = time.monotonic()
    assert next(receipts)["trail"] == "a"
    assert time.monotonic() - begin < 60
    receipts.close()  # type: ignore[attr-defined]
    # Its actors are gone: four CPUs hold these pools only if nothing else runs.
    pools = [Pool(name="a", worker=Step, arguments={"name": "a"}, actors=3, num_cpus=1)]
    assert len(list(stream_receipts(units(6), pools, max_retries=1))) == 6


def test_a_worker_may_answer_with_more_rows_and_no_row() -> None:
    assert len(list(stream_receipts(units(3), [pool("a", Doubles)], max_retries=0))) == 6
    assert list(stream_receipts(units(0), [pool("a")], max_retries=0)) == []


def test_a_manifest_is_read_from_where_it_lies(s3_server: Path, tmp_path: Path) -> None:  # noqa: ARG001
    for uri in (str(tmp_path), f"s3://{S3_BUCKET}/engine"):
        run = RunDirectory(uri)
        run.write_manifest(units(5))
        rows = list(stream_receipts(run.manifest_uri, [pool("a")], max_retries=0))
        assert sorted(row["number"] for row in rows) == list(range(5))
    with pytest.raises(OSError, match=r"nothing\.parquet: cannot read: no such file"):
        next(stream_receipts(str(tmp_path / "nothing.parquet"), [pool("a")], max_retries=0))


def test_a_worker_that_cannot_start_ends_the_run_with_its_reason() -> None:
    expected = r"^pool a cannot start: FileNotFoundError: no weights at s3://bucket/weights$"
    with pytest.raises(WorkerError, match=expected):
        list(stream_receipts(units(4), [pool("a", CannotLoad)], max_retries=1))


def test_a_worker_whose_process_dies_while_it_starts_ends_the_run() -> None:
    with pytest.raises(WorkerError, match=r"^pool a: the worker's process died 3 times while it started"):
        list(stream_receipts(units(4), [pool("a", DiesLoading)], max_retries=1))


def test_a_pool_that_has_lost_all_its_actors_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"^pool a cannot start: RuntimeError: the GPU has fallen off the bus$"):
        list(stream_receipts(units(6), [pool("a", LoadsOnce, deadly=[2], mark=str(tmp_path / "mark"))], max_retries=1))


def test_asking_for_more_than_the_cluster_has_is_one_line() -> None:
    assert cluster_resources().cpus == 4
    wanted = {
        "needs 2 GPUs, the cluster has 0": Pool(name="a", worker=Step, actors=2, num_gpus=1),
        "needs 5 CPUs, the cluster has 4": Pool(name="a", worker=Step, actors=4, num_cpus=1),
    }
    for message, asked in wanted.items():
        with pytest.raises(NotEnoughResources) as caught:
            next(stream_receipts(units(8), [asked], max_retries=1))
        assert str(caught.value) == message
    with pytest.raises(NotEnoughResources, match=r"^needs 1024\.0 GiB of memory, the cluster has \d"):
        next(stream_receipts(units(8), [Pool(name="a", worker=Step, memory=2**40)], max_retries=1))


def test_mistaken_pools_are_refused() -> None:
    class Local:
        pass

    with pytest.raises(ValueError, match="top of an importable module"):
        Pool(name="a", worker=Local)
    with pytest.raises(ValueError, match="must be at least 1"):
        Pool(name="a", worker=Step, actors=0)
    with pytest.raises(ValueError, match="same name"):
        next(stream_receipts(units(1), [pool("a"), pool("a")], max_retries=0))
    with pytest.raises(ValueError, match="no pools"):
        next(stream_receipts(units(1), [], max_retries=0))

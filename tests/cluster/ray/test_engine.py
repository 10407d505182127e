"""Promises of `vrshq.cluster.ray.engine`, on a real local Ray."""

from __future__ import annotations

import logging
import re
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.support.commits_worker import Commits
from tests.support.engine_workers import CannotLoad, DiesLoading, Doubles, LoadsOnce, NullOrText, Step
from vrshq.cluster.ray.engine import Lost, stream_receipts
from vrshq.cluster.ray.errors import NotEnoughResources, WorkerError
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.resources import cluster_resources
from vrshq.cluster.storage.run_directory import RunDirectory

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("shared_ray")]


def units(count: int) -> pa.Table:
    return pa.table({"unit_id": [f"{number:04x}" for number in range(count)], "number": pa.array(range(count))})


def pool(
    name: str,
    worker: type = Step,
    *,
    actors: int = 1,
    calls: int = 1,
    deadline_s: float | None = None,
    **arguments: Any,
) -> ActorPool:
    if issubclass(worker, Step):
        arguments["name"] = name
    return ActorPool(
        name=name,
        worker=worker,
        arguments=arguments,
        actors=actors,
        num_cpus=0.5,
        calls=calls,
        deadline_s=deadline_s,
    )


def sent(
    manifest: pa.Table, pools: list[ActorPool], attempts: int = 1, grace_s: float = 10.0
) -> tuple[list[dict[str, Any]], list[Lost]]:
    """The receipts, and the units that are lost."""
    timing = Timing(look_s=0.2, grace_s=grace_s)
    answers = list(stream_receipts(manifest, pools, attempts=attempts, timing=timing))
    return [one for one in answers if isinstance(one, dict)], [one for one in answers if isinstance(one, Lost)]


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name.startswith("vrshq.cluster")]


def test_units_that_are_committed_together_are_finished_once_whatever_ends_their_processes(tmp_path: Path) -> None:
    run = RunDirectory(str(tmp_path))
    table = units(40)
    one = ActorPool(name="a", worker=Commits, arguments={"name": "a", "run": run.uri, "gone": 30, "deadly": [20]})
    answers = list(stream_receipts(table, [one], attempts=2, timing=Timing(look_s=0.2), finished=run.finished_among))
    lost = [one.row["number"] for one in answers if isinstance(one, Lost)]
    assert lost == [20]
    schema = pa.schema([("unit_id", pa.string()), ("number", pa.int64())])
    numbers = run.read("tracks", schema)["number"].to_pylist()
    assert sorted(numbers) == sorted({*range(40)} - {20})
    files = [name for name in run.folder.list("tracks") if "shared" in name]
    assert 0 < len(run.folder.list("tracks")) < 39 - len(files)
    receipts = [one["number"] for one in answers if isinstance(one, dict)]
    assert set(receipts) | {20} < {*range(40)}  # those that were committed when their process ended have none
    assert len(receipts) == len(set(receipts))


def test_every_unit_goes_through_every_pool_once_and_alone() -> None:
    pools = [pool("a", actors=2), pool("b", calls=2), pool("c")]
    rows, lost = sent(units(20), pools)
    assert sorted(row["number"] for row in rows) == list(range(20))
    assert {row["trail"] for row in rows} == {"abc"}
    # short units share calls, but the worker gets them one by one
    assert {(row["rows"], row["attempt"]) for row in rows} == {(1, 1)}
    assert lost == []


def test_a_unit_that_kills_its_worker_costs_only_itself_and_a_bounded_number_of_tries(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    log = str(tmp_path / "log")
    pools = [pool("a", deadly=[3], log=log, actors=2), pool("b", deadly=[7], log=log)]
    with caplog.at_level(logging.WARNING, "vrshq.cluster.ray"):
        rows, lost = sent(units(12), pools, attempts=2)
    assert sorted(row["number"] for row in rows) == [number for number in range(12) if number not in (3, 7)]
    assert {row["attempt"] for row in rows} == {1}
    assert Counter(line for line in Path(log).read_text().splitlines() if "dies" in line) == {"dies 3": 2, "dies 7": 2}
    assert sorted((one.row["number"], one.attempts, one.reason) for one in lost) == [
        (3, 2, "its worker process died"),
        (7, 2, "its worker process died"),
    ]
    assert said(caplog)[-1].endswith("is lost after 2 attempts: its worker process died")


def test_the_last_try_of_a_unit_is_alone_in_its_actor(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows, lost = sent(units(8), [pool("a", deadly=[1, 4], log=str(log), seconds=0.3, calls=2)], attempts=2)
    assert (len(rows), len(lost)) == (6, 2)
    at_work: set[str] = set()
    last = {}
    for line in log.read_text().splitlines():
        event, number = line.split()
        if event == "begin":
            last[number] = set(at_work)
            at_work.add(number)
        elif event == "dies":
            at_work.clear()  # with its process
        else:
            at_work.discard(number)
    assert last["1"] == last["4"] == set()


def test_other_units_go_on_while_the_last_try_of_one_is_made(tmp_path: Path) -> None:
    log = tmp_path / "log"
    slow = pool("a", deadly=[1], log=str(log), seconds=0.2, last_words=1.0, actors=3)
    rows, lost = sent(units(120), [slow], attempts=2)
    assert (len(rows), len(lost)) == (119, 1)
    lines = log.read_text().splitlines()
    last = len(lines) - 1 - lines[::-1].index("begin 1")
    assert lines.index("begin 1") < last < lines.index("dies 1", last) < len(lines) - 1
    assert lines[last + 1] != "dies 1", "another actor begins or ends a unit meanwhile"


def test_short_units_share_a_call_and_one_that_kills_costs_the_others_nothing(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows, lost = sent(units(400), [pool("a", deadly=[333], wrong=[222], log=str(log), actors=2)], attempts=2)
    assert sorted(row["number"] for row in rows) == [number for number in range(400) if number not in (222, 333)]
    assert {row["attempt"] for row in rows} == {1}
    assert sorted((one.row["number"], one.attempts) for one in lost) == [(222, 2), (333, 2)]


def test_a_unit_that_hangs_is_given_up_at_its_deadline_and_the_reason_says_where(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "vrshq.cluster.ray"):
        rows, lost = sent(units(6), [pool("a", hangs=[2], actors=2, deadline_s=3)], attempts=2)
    assert sorted(row["number"] for row in rows) == [0, 1, 3, 4, 5]
    assert [(one.row["number"], one.attempts) for one in lost] == [(2, 2)]
    assert re.fullmatch(
        r"took longer than [34] s \(it was in __call__ of tests.support.engine_workers, line \d+\)", lost[0].reason
    ), lost[0].reason
    stalls = [line for line in said(caplog) if "unit 0002 has been in pool a for" in line]
    assert len(stalls) == 2
    assert all(re.match(r"unit 0002 .* \(process \d+ on node [0-9a-f]{8}\); it will be given up in", s) for s in stalls)


def test_a_hang_that_holds_pythons_lock_is_ended_too() -> None:
    rows, lost = sent(units(3), [pool("a", hangs_in_c=[1], deadline_s=2)], grace_s=4)
    assert sorted(row["number"] for row in rows) == [0, 2]
    assert [(one.row["number"], one.reason) for one in lost] == [(1, "took longer than 2 s")]


def test_an_actor_works_on_as_many_units_at_once_as_it_may(tmp_path: Path) -> None:
    log = tmp_path / "log"
    rows, lost = sent(units(8), [pool("a", calls=3, seconds=0.5, log=str(log))])
    assert (len(rows), len({row["pid"] for row in rows}), lost) == (8, 1, [])
    under_way = most = 0
    for line in log.read_text().splitlines():
        under_way += 1 if line.startswith("begin") else -1
        most = max(most, under_way)
    assert most == 3


def test_of_units_at_work_in_one_actor_one_that_kills_or_hangs_is_lost_and_the_others_come_out() -> None:
    pools = [pool("a", deadly=[1], hangs_in_c=[4], calls=2, seconds=0.2, deadline_s=5)]
    rows, lost = sent(units(7), pools, attempts=2, grace_s=2)
    assert sorted(row["number"] for row in rows) == [0, 2, 3, 5, 6]
    assert [(one.row["number"], one.attempts) for one in sorted(lost, key=lambda one: one.row["number"])] == [
        (1, 2),
        (4, 2),
    ]


def test_a_worker_that_asks_for_more_time_gets_it() -> None:
    rows, lost = sent(units(2), [pool("a", seconds=1.5, asks_for=60, deadline_s=0.5)])
    assert (len(rows), lost) == (2, [])


def test_a_process_that_can_do_no_more_is_replaced_and_its_unit_tried_again() -> None:
    rows, lost = sent(units(6), [pool("a", unusable_once=[2])], attempts=2)
    assert sorted((row["number"], row["attempt"]) for row in rows) == [(n, 2 if n == 2 else 1) for n in range(6)]
    assert lost == []
    assert len({row["pid"] for row in rows if row["attempt"] == 1}) == 2


def test_a_worker_that_raises_loses_its_unit_and_says_why() -> None:
    rows, lost = sent(units(4), [pool("a", wrong=[1])], attempts=2)
    assert sorted(row["number"] for row in rows) == [0, 2, 3]
    assert [(one.attempts, one.reason) for one in lost] == [(2, "pool a: TypeError: a bug in two lines")]


def test_a_unit_that_is_done_although_no_row_came_is_not_sent_again(tmp_path: Path) -> None:
    log = tmp_path / "log"
    pools = [pool("a", deadly=[1, 3], log=str(log))]
    answers = list(stream_receipts(units(4), pools, attempts=3, finished={"0001", "0003"}.intersection))
    assert sorted(answer["number"] for answer in answers if isinstance(answer, dict)) == [0, 2]
    assert len(answers) == 2
    assert Counter(line for line in log.read_text().splitlines() if "dies" in line) == {"dies 1": 1, "dies 3": 1}


def test_finished_units_are_looked_for_only_where_receipts_are_missing() -> None:
    looked: list[int] = []

    def finished(ids: Sequence[str]) -> set[str]:
        looked.append(len(ids))
        return set()

    assert len(list(stream_receipts(units(3), [pool("a")], attempts=2, finished=finished))) == 3
    assert looked == []


def test_a_pool_grows_to_its_limit_while_there_is_work() -> None:
    growing = ActorPool(
        name="a", worker=Step, arguments={"name": "a", "seconds": 0.2}, actors=1, max_actors=2, num_cpus=1
    )
    # Calls take as long as the interval between looks: a look must not take an actor between two calls for idle.
    receipts = stream_receipts(units(600), [growing], attempts=1, timing=Timing(look_s=0.2))
    pids: set[int] = set()
    while len(pids) < 2:  # on a busy machine actors take their time to start, but there is work until they have
        row = next(receipts)
        assert isinstance(row, dict)
        pids.add(row["pid"])
    receipts.close()  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match="max_actors 1 is less than actors 2"):
        ActorPool(name="a", worker=Step, actors=2, max_actors=1)


def test_receipts_come_as_soon_as_they_are_there_and_a_run_can_be_left() -> None:
    receipts = stream_receipts(units(200), [pool("a", seconds=0.5)], attempts=1)
    begin = time.monotonic()
    first = next(receipts)
    assert isinstance(first, dict)
    assert first["trail"] == "a"
    assert time.monotonic() - begin < 60
    receipts.close()  # type: ignore[attr-defined]
    # Its actors are gone: four CPUs hold these pools only if nothing else runs.
    pools = [ActorPool(name="a", worker=Step, arguments={"name": "a"}, actors=3, num_cpus=1)]
    assert len(list(stream_receipts(units(6), pools, attempts=2))) == 6


def test_a_worker_may_answer_with_more_rows_and_no_row() -> None:
    assert len(list(stream_receipts(units(3), [pool("a", Doubles)], attempts=1))) == 6
    assert list(stream_receipts(units(0), [pool("a")], attempts=1)) == []


def test_units_of_a_call_may_answer_with_columns_of_nulls() -> None:
    rows, lost = sent(units(200), [pool("a", NullOrText)])
    assert lost == []
    assert {row["number"]: row["note"] for row in rows} == {n: None if n % 2 else "even" for n in range(200)}


def test_units_are_begun_in_the_given_order(tmp_path: Path) -> None:
    log = tmp_path / "log"
    given = units(300).take(list(range(299, -1, -1)))  # more than are sent one by one
    rows, _ = sent(given, [pool("a", log=str(log))])
    assert len(rows) == 300
    begun = [int(line.split()[1]) for line in log.read_text().splitlines() if line.startswith("begin")]
    assert begun == list(range(299, -1, -1))


def test_a_worker_that_cannot_start_ends_the_run_with_its_reason() -> None:
    expected = r"^pool a cannot start: FileNotFoundError: no weights at s3://bucket/weights$"
    with pytest.raises(WorkerError, match=expected):
        list(stream_receipts(units(4), [pool("a", CannotLoad)], attempts=2))


def test_a_run_goes_on_with_half_of_its_actors_and_ends_with_less(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As where another program has taken the GPU of some of them."""
    reason = "pool a cannot start: RuntimeError: the GPU has fallen off the bus"
    with caplog.at_level(logging.WARNING, "vrshq.cluster.ray"):
        rows, _ = sent(units(8), [pool("a", LoadsOnce, actors=2, deadly=[], seconds=0.5, mark=str(tmp_path / "2"))])
    assert len(rows) == 8
    assert f"{reason}; working on with 1 of 2 actors" in said(caplog)
    with pytest.raises(WorkerError, match=f"^{reason}$"):
        sent(units(800), [pool("a", LoadsOnce, actors=3, deadly=[], seconds=0.5, mark=str(tmp_path / "3"))])


def test_a_worker_whose_process_dies_while_it_starts_ends_the_run() -> None:
    with pytest.raises(WorkerError, match=r"^pool a: the worker's process died 3 times while it started"):
        list(stream_receipts(units(4), [pool("a", DiesLoading)], attempts=2))


def test_a_pool_that_has_lost_all_its_actors_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(WorkerError, match=r"^pool a cannot start: RuntimeError: the GPU has fallen off the bus$"):
        list(stream_receipts(units(6), [pool("a", LoadsOnce, deadly=[2], mark=str(tmp_path / "mark"))], attempts=2))


def test_asking_for_more_than_the_cluster_has_is_one_line() -> None:
    assert cluster_resources().cpus == 4
    wanted = {
        "needs 2 GPUs, the cluster has 0": ActorPool(name="a", worker=Step, actors=2, num_gpus=1),
        "needs 5 CPUs, the cluster has 4": ActorPool(name="a", worker=Step, actors=5, num_cpus=1),
    }
    for message, asked in wanted.items():
        with pytest.raises(NotEnoughResources) as caught:
            next(stream_receipts(units(8), [asked], attempts=2))
        assert str(caught.value) == message
    with pytest.raises(NotEnoughResources, match=r"^needs 1024\.0 GiB of memory, the cluster has \d"):
        next(stream_receipts(units(8), [ActorPool(name="a", worker=Step, memory=2**40)], attempts=2))


def test_mistaken_pools_are_refused() -> None:
    class Local:
        pass

    with pytest.raises(ValueError, match="top of an importable module"):
        ActorPool(name="a", worker=Local)
    with pytest.raises(ValueError, match="must be at least 1"):
        ActorPool(name="a", worker=Step, actors=0)
    with pytest.raises(ValueError, match="same name"):
        next(stream_receipts(units(1), [pool("a"), pool("a")], attempts=1))
    with pytest.raises(ValueError, match="no pools"):
        next(stream_receipts(units(1), [], attempts=1))


def test_a_check_that_raises_ends_the_run_while_a_unit_is_worked_on() -> None:
    begun = time.monotonic()

    def check() -> None:
        if time.monotonic() - begun > 1:
            raise WorkerError("another command has taken over")

    hanging = pool("hangs", hangs=[0])
    with pytest.raises(WorkerError, match="has taken over"):
        list(stream_receipts(units(1), [hanging], attempts=1, timing=Timing(look_s=0.2), check=check))

"""What the guard promises a worker whose call is for several units. No Ray: the marks go nowhere."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pytest

from vrshq.cluster.ray import guard, notes
from vrshq.cluster.ray.guard import Guarded, to_stream
from vrshq.cluster.ray.pool import ActorPool


class Alone:
    """Writes each unit at once, unless it is told that `end_call` follows."""

    def __init__(self) -> None:
        self.written: list[str] = []
        self.waiting: list[str] = []

    def __call__(self, table: pa.Table) -> pa.Table:
        (self.waiting if guard.of_several() else self.written).extend(table["unit_id"].to_pylist())
        return table


class Together(Alone):
    """Writes the units of a call at its end."""

    def end_call(self, unit_ids: list[str], results: list[pa.Table]) -> list[pa.Table]:
        assert unit_ids == self.waiting
        self.written, self.waiting = self.waiting, []
        return results


class Around:
    """Passes units on to a worker that could write them together, as `RestWorker` does, and has no `end_call`."""

    def __init__(self) -> None:
        self.inner = Together()

    def __call__(self, table: pa.Table) -> pa.Table:
        return self.inner(table)


def in_an_actor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray's context of an actor. Nothing calls `where`, which with several threads may run after the first units."""
    monkeypatch.setattr("ray.get_runtime_context", lambda: SimpleNamespace(get_actor_id=lambda: "actor"))


@pytest.mark.parametrize("worker", [Alone, Together, Around])
@pytest.mark.parametrize("count", [1, 3])
def test_every_unit_of_a_call_is_written_whatever_the_worker_can_do(
    worker: type, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    in_an_actor(monkeypatch)
    monkeypatch.setattr(notes, "put", lambda *_: None)
    ids = [f"{number:04x}" for number in range(count)]
    actor: Any = Guarded("run", ActorPool(name="last", worker=worker, arguments={}), "unit_id", 10.0, True)
    assert actor.load() is None
    failed, answer = actor.work(0, 0, to_stream(pa.table({"unit_id": ids})))
    inner = getattr(actor._worker, "inner", actor._worker)
    assert (failed, inner.written, inner.waiting) == ({}, ids, [])
    assert pa.ipc.open_stream(answer).read_all()["unit_id"].to_pylist() == ids


def test_no_deadline_is_left_on_the_thread_of_a_call_that_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    marks: list[str] = []
    in_an_actor(monkeypatch)
    monkeypatch.setattr(notes, "put", lambda _, mark: marks.append(mark.unit))
    actor: Any = Guarded("run", ActorPool(name="last", worker=Alone, arguments={}), "unit_id", 10.0, True)
    assert actor.load() is None
    actor.work(0, 0, to_stream(pa.table({"unit_id": ["a"]})))
    guard.allow(1.0)
    assert marks == ["a"]

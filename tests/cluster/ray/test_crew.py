"""Promises of `vrshq.cluster.ray.crew`: bounded starts, shunned machines, and when too few actors are left."""

from __future__ import annotations

import logging

import pytest

from tests.support.engine_workers import Step
from vrshq.cluster.ray.crew import MAX_STARTS, Crew, Machines
from vrshq.cluster.ray.errors import NotEnoughResources, WorkerError
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.resources import Resources
from vrshq.cluster.ray.schedule import Actor

THERE = Resources(cpus=4, gpus=0, memory_bytes=1 << 34, nodes=1)


def crew(actors: int, most: int | None = None) -> Crew:
    pool = ActorPool(name="a", worker=Step, actors=actors, max_actors=most)
    return Crew(pool, 0, Timing(start_s=60), now=0.0)


def hired(of: Crew) -> list[Actor]:
    return list(of.hire())


def begin(*actors: Actor) -> None:
    for actor in actors:
        actor.node = "n"


def test_a_place_is_given_up_after_its_starts_and_the_run_ends_below_half_of_the_actors() -> None:
    of = crew(4)
    working = hired(of)
    for lost in range(3):
        actor = working.pop()
        for number in range(MAX_STARTS):
            assert actor.failures == number
            if lost == 2 and number == MAX_STARTS - 1:
                with pytest.raises(WorkerError, match=r"^no weights$"):
                    of.start_failed(actor, "no weights")
                return
            of.start_failed(actor, "no weights")
            (actor,) = hired(of) or [actor]
        assert of.places == 3 - lost


def test_a_good_start_clears_the_failures() -> None:
    of = crew(1)
    (actor,) = hired(of)
    of.start_failed(actor, "x")
    (actor,) = hired(of)
    assert actor.failures == 1
    of.loaded(actor)
    of.ended(actor)
    (actor,) = hired(of)
    assert actor.failures == 0


def test_a_machine_gets_no_more_actors_after_failed_starts_where_others_could_take_them(
    caplog: pytest.LogCaptureFixture,
) -> None:
    machines = Machines()
    machines.start_failed("alone", "broken", others=False)
    machines.start_failed("alone", "broken", others=False)
    assert machines.shunned == set()
    machines.start_failed("good", "network", others=True)
    machines.loaded("good")
    machines.start_failed("good", "network", others=True)
    assert machines.shunned == set()
    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            machines.start_failed("badbadbad", "no driver", others=True)
    assert machines.shunned == {"badbadbad"}
    assert caplog.messages == ["machine badbadba gets no more actors: no driver"]


def test_a_machine_is_shunned_for_several_units_in_a_row_and_not_for_one_that_breaks_every_process() -> None:
    machines = Machines()
    for _ in range(9):
        machines.unusable("n", 7, "CUDA error", others=True)
    machines.unusable("n", 8, "CUDA error", others=True)
    assert machines.shunned == set()
    machines.worked("n")
    for row in (1, 2, 3):
        machines.unusable("n", row, "CUDA error", others=True)
    assert machines.shunned == {"n"}


def test_actors_that_do_not_begin_end_the_run_or_are_done_without(caplog: pytest.LogCaptureFixture) -> None:
    of = crew(2)
    first, second = hired(of)
    of.check(59, THERE, grows=False, shunned=False)
    with pytest.raises(NotEnoughResources, match=r"^pool a: 0 of 2 actors started within 60 s, each needs 1 CPU; the "):
        of.check(60, THERE, grows=False, shunned=False)
    begin(first)
    with pytest.raises(NotEnoughResources, match=r"^pool a: 1 of 2 actors"):
        of.check(61, THERE, grows=True, shunned=False)
    for now in (62, 63):
        of.check(now, THERE, grows=False, shunned=False)
    assert [line.rpartition("; ")[2] for line in caplog.messages] == ["working on with those"]
    begin(second)
    of.check(64, THERE, grows=True, shunned=False)
    of.ended(first)
    for now in (65, 124, 200):
        of.check(now, THERE, grows=True, shunned=False)
    of.ended(second)
    with pytest.raises(NotEnoughResources, match=r"^pool a: 0 of 2 actors"):
        of.check(201, THERE, grows=False, shunned=False)


def test_with_machines_shunned_a_run_ends_below_half_of_its_actors() -> None:
    of = crew(4)
    actors = hired(of)
    begin(*actors)
    of.check(1, THERE, grows=False, shunned=False)
    of.start_failed(actors[0], "no driver")
    for actor in actors[1:3]:
        of.ended(actor)
    of.check(2, THERE, grows=False, shunned=True)
    of.check(61, THERE, grows=False, shunned=True)
    with pytest.raises(WorkerError, match=r"^no driver$"):
        of.check(62, THERE, grows=False, shunned=True)


def test_a_pool_grows_one_actor_at_a_time_to_its_limit() -> None:
    of = crew(1, most=3)
    for wanted in (1, 2, 3):
        of.grow()
        assert of.places == wanted
        for actor in hired(of):
            of.grow()
            assert of.places == wanted, "the last one has not loaded yet"
            of.loaded(actor)
    of.grow()
    assert of.places == 3

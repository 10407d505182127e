"""Promises of `vrshq.cluster.ray.schedule`: whatever actors do, every unit comes out once or is lost after its tries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from vrshq.cluster.ray.schedule import CALL_S, MOST_UNITS, Actor, Batch, Failed, Schedule


def ready(pool: int = 0, calls: int = 1, node: str = "n") -> Actor:
    return Actor(pool, calls, node=node, ready=True)


def give(schedule: Schedule, actor: Actor, lanes: Sequence[int] = (1,)) -> Batch | None:
    """The batch that the actor gets in its first free lane."""
    lane = actor.free_lane()
    batch = None if lane is None else schedule.take(actor, lane, lanes)
    if batch is not None:
        assert lane is not None
        actor.work[lane] = batch
    return batch


@settings(deadline=None)
@given(data=st.data())
def test_every_unit_comes_out_once_or_is_lost_after_its_tries(data: st.DataObject) -> None:
    """Actors return, raise, die and lose their machines in any order; some units kill at each try."""
    count = data.draw(st.integers(1, 40), "units")
    pools = data.draw(st.integers(1, 3), "pools")
    attempts = data.draw(st.integers(1, 3), "attempts")
    deadly = data.draw(st.sets(st.integers(0, count - 1), max_size=4), "deadly")
    starts = data.draw(st.none() | st.sets(st.integers(1, count), max_size=6), "groups")
    groups = None if starts is None else sorted({0, *starts} - {count})
    schedule = Schedule(count, pools, attempts, groups)
    actors = [
        ready(pool, data.draw(st.integers(1, 3)), data.draw(st.sampled_from("ab")))
        for pool in range(pools)
        for _ in range(data.draw(st.integers(1, 3)))
    ]
    lanes = [sum(actor.calls for actor in actors if actor.pool == pool) for pool in range(pools)]
    out: Counter[int] = Counter()
    lost: list[Failed] = []
    begun: Counter[int] = Counter()
    for _ in range(5000):
        if not schedule.left:
            break
        for actor in data.draw(st.permutations(actors)):
            while give(schedule, actor, lanes):
                pass
        busy = [(actor, lane) for actor in actors for lane in actor.work]
        assert busy, "units are left, and all actors wait"
        actor, lane = data.draw(st.sampled_from(busy))
        batch = actor.work[lane]
        assert not batch.alone or len(actor.work) == len(batch.rows) == 1
        killers = [place for place, row in enumerate(batch.rows) if row in deadly]
        machine = not killers and data.draw(st.sampled_from([False, False, False, True]))
        if killers or machine:
            at = killers[0] if killers else data.draw(st.none() | st.integers(0, len(batch.rows) - 1))
            finished = set(batch.rows[: at or 0]) if batch.pool == pools - 1 else set()
            out.update(finished)
            begun.update([batch.rows[at]] if killers and at is not None else [])
            lost += schedule.died(actor, lane, at, "died", finished, machine=machine)
            schedule.gone(actor)
        else:
            seconds = data.draw(st.sampled_from([0.0, 0.1, 10.0]))
            lost += schedule.returned(actor, lane, {}, "data", seconds)
            out.update(batch.rows if batch.pool == pools - 1 else [])
    assert schedule.left == 0
    assert set(out.values()) <= {1}
    assert not set(out) & {one.row for one in lost}
    assert set(out) | {one.row for one in lost} == set(range(count))
    assert {one.row for one in lost} >= deadly
    assert all(begun[row] == attempts for row in deadly)


def test_units_are_begun_in_order_and_short_ones_together() -> None:
    schedule, actor = Schedule(1000, 1, 2), ready()
    first = give(schedule, actor)
    assert first is not None
    assert first.rows == (0,), "nothing is known about the units yet"
    schedule.returned(actor, 0, {}, None, seconds=CALL_S / 10)
    second = give(schedule, actor)
    assert second is not None
    assert second.rows == tuple(range(1, 11))
    schedule.returned(actor, 0, {}, None, seconds=0)
    assert all(len(batch.rows) <= MOST_UNITS for batch in rest(schedule, actor))


def rest(schedule: Schedule, actor: Actor) -> list[Batch]:
    batches = []
    while batch := give(schedule, actor):
        batches.append(batch)
        schedule.returned(actor, 0, {}, None, seconds=0)
    return batches


def test_the_last_batches_are_small_enough_for_all_actors_to_end_together() -> None:
    schedule, actor = Schedule(100, 1, 1), ready()
    give(schedule, actor)
    schedule.returned(actor, 0, {}, None, seconds=0)
    batch = schedule.take(actor, 0, [10])
    assert batch is not None
    assert len(batch.rows) == 3  # 99 units for four batches of each of ten lanes


def test_a_suspect_waits_for_an_idle_actor_and_the_others_of_its_machine_get_other_units() -> None:
    schedule = Schedule(20, 1, 2)
    busy, other, elsewhere = ready(calls=2), ready(), ready(node="m")
    assert give(schedule, busy)
    assert give(schedule, busy)
    schedule.died(busy, 1, 0, "died", machine=False)
    assert schedule.tries(1) == 1
    assert give(schedule, busy) is None, "it is held until its other lane is free"
    ordinary = give(schedule, other)
    assert ordinary is not None
    assert not ordinary.alone, "a machine has one suspect at a time"
    schedule.returned(busy, 0, {}, None, 9.0)
    alone = give(schedule, busy)
    assert alone is not None
    assert (alone.alone, alone.rows, alone.attempts) == (True, (1,), (2,))
    assert give(schedule, busy) is None, "it is alone"
    assert schedule.suspect_on("n", other)
    assert not schedule.suspect_on("n", busy)
    assert give(schedule, elsewhere) is not None
    assert schedule.died(busy, 0, 0, "died", machine=False) == [Failed(1, 2, "died")]
    assert give(schedule, busy) is not None


def test_an_actor_that_is_held_goes_on_where_another_machine_takes_the_suspect() -> None:
    schedule = Schedule(20, 1, 2)
    busy, elsewhere = ready(calls=2), ready(node="m")
    assert give(schedule, busy)
    assert give(schedule, busy)
    schedule.died(busy, 1, 0, "died", machine=False)
    assert give(schedule, busy) is None
    taken = give(schedule, elsewhere)
    assert taken is not None
    assert taken.alone
    next_one = give(schedule, busy)
    assert next_one is not None
    assert not next_one.alone


def test_a_lost_machine_is_no_failed_try_until_it_happens_again_and_again() -> None:
    schedule, actor = Schedule(1, 1, 2), ready()
    for number in range(6):
        batch = give(schedule, actor)
        assert batch is not None
        assert batch.attempts == (1 if number < 5 else 2,)
        lost = schedule.died(actor, 0, 0, "died", machine=True)
        schedule.gone(actor)
        assert lost == ([Failed(0, 2, "died")] if number == 5 else [])
    assert schedule.left == 0


def test_a_pool_gets_no_more_than_the_next_one_can_take_soon() -> None:
    schedule, first, second = Schedule(100, 2, 1), ready(), ready(1)
    lanes = [1, 1]
    for _ in range(2):
        assert give(schedule, first, lanes) is not None
        schedule.returned(first, 0, {}, "rows", 9.0)
    assert give(schedule, first, lanes) is None
    onward = give(schedule, second, lanes)
    assert onward is not None
    assert (onward.rows, onward.data) == ((0,), "rows")
    assert give(schedule, first, lanes) is not None


def test_one_lane_works_through_a_group_and_others_take_of_it_only_where_nothing_else_is_left() -> None:
    groups = [0, 6, 7]  # rows 0 to 5, row 6, rows 7 to 9
    schedule = Schedule(10, 1, 1, groups)
    first, second = ready(calls=2), ready()
    lanes = [3]

    def rows(actor: Actor, lane: int) -> tuple[tuple[int, ...], tuple[bool, ...]]:
        batch = schedule.take(actor, lane, lanes)
        assert batch is not None
        actor.work[lane] = batch
        schedule.returned(actor, lane, {}, None, seconds=9.0)
        return batch.rows, batch.more

    assert rows(first, 0) == ((0,), (True,))
    assert rows(first, 1) == ((6,), (False,))
    assert rows(second, 0) == ((7,), (True,))
    assert rows(first, 0) == ((1,), (True,)), "its own group"
    assert rows(first, 1) == ((2,), (True,)), "nothing else is left to begin: the group with most left"
    assert rows(second, 0) == ((8,), (True,))
    assert rows(second, 0) == ((9,), (False,))
    assert rows(second, 0) == ((3,), (True,))
    assert rows(first, 0) == ((4,), (True,))
    assert rows(first, 1) == ((5,), (False,))
    assert schedule.take(first, 0, lanes) is None
    assert schedule.left == 0


def test_short_units_of_a_group_share_a_call_and_small_groups_are_joined() -> None:
    schedule, actor = Schedule(40, 1, 1, [0, 10, 11, 12, 13, 14, 15]), ready()
    give(schedule, actor)
    schedule.returned(actor, 0, {}, None, seconds=CALL_S / 6)
    assert [batch.rows for batch in rest_of(schedule, actor)][:3] == [
        tuple(range(1, 7)),
        (7, 8, 9, 10, 11, 12),
        (13, 14, 15, 16, 17, 18),
    ]


def rest_of(schedule: Schedule, actor: Actor) -> list[Batch]:
    batches = []
    while batch := give(schedule, actor):
        batches.append(batch)
        schedule.returned(actor, 0, {}, None, seconds=len(batch.rows) * CALL_S / 6)
    return batches

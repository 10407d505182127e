"""A run far larger than any machine here, in virtual time: the real decisions of the engine, with measured costs.

    python -m tests.benchmarks.simulate [--units 10000000] [--gpus 1000] [--seconds 10] [--spread 1.0] ...

`Schedule`, `Crew` and `Machines` are those of a real run: they decide what each actor gets, what becomes of a unit whose
process ends, and which machines get no more actors. Simulated are the work (log-normal durations), the processes (they load,
and end with units that kill), the machines (they die, and come back), the store (so many requests a second) and the driver,
one server with the times of `bench_engine noop`. The table names what was computed afterwards.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import logging
import resource
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests.benchmarks.no_work import NoWork
from vrshq.cluster.ray.crew import Crew, Machines
from vrshq.cluster.ray.pool import ActorPool, Timing
from vrshq.cluster.ray.schedule import Actor, Batch, Failed, Schedule
from vrshq.cluster.storage.deleting import DELETED_AT_ONCE
from vrshq.cluster.storage.lease import BEAT_SECONDS
from vrshq.cluster.storage.merging import MOST_PARTS, TARGET_BYTES

TABLES = 3  # parts that a unit writes: masks, tracks, tokens


@dataclass(eq=False)
class Machine:
    name: str
    alive: bool = True
    broken: bool = False  # no actor can start there
    actors: set[Actor] = field(default_factory=set)


class Simulation:
    """The loop of `vrshq.cluster.ray.driver` with a heap of events instead of Ray."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.random = np.random.default_rng(options.seed)
        sigma = options.spread
        self.seconds = self.random.lognormal(np.log(options.seconds) - sigma**2 / 2, sigma, options.units)
        self.seconds[::-1].sort()  # the costliest first, as `costliest_first` orders them
        self.deadly = set(
            self.random.choice(options.units, round(options.units * options.deadly), replace=False).tolist()
        )
        self.schedule = Schedule(options.units, 1, 3)
        pool = ActorPool(name="a", worker=NoWork, actors=options.gpus, num_gpus=1)
        self.crew = Crew(pool, 0, Timing(start_s=1e12), 0.0)
        self.shunning = Machines()
        self.machines = {
            f"m{number}": Machine(f"m{number}") for number in range(-(-options.gpus // options.gpus_per_node))
        }
        for machine in list(self.machines.values())[: options.broken]:
            machine.broken = True
        self.events: list[tuple[float, int, str, Any]] = []
        self.order = itertools.count()
        self.homeless: deque[Actor] = deque()  # actors that wait for room
        self.idle: set[Actor] = set()
        self.epoch: Counter[int] = Counter()  # of an actor's process; an event of an earlier one is void
        self.driver_free = self.driver_busy = self.store_free = self.store_wait = self.deciding = 0.0
        self.counts: Counter[str] = Counter()
        self.work = 0.0
        self.last_good = 0.0

    def at(self, when: float, kind: str, what: Any) -> None:
        heapq.heappush(self.events, (when, next(self.order), kind, what))

    def run(self) -> float:
        """Returns the makespan in seconds."""
        options, now = self.options, 0.0
        for machine in self.machines.values():
            self.at(self.random.exponential(options.machine_hours * 3600), "dies", machine)
        self.hire(now)
        while self.schedule.left:
            now, _, kind, what = heapq.heappop(self.events)
            getattr(self, f"on_{kind}")(now, what)
        return now

    def hire(self, now: float) -> None:
        self.homeless.extend(self.crew.hire())
        places = [one for one in self.machines.values() if one.alive and one.name not in self.shunning.shunned]
        for machine in places:
            while self.homeless and len(machine.actors) < self.options.gpus_per_node:
                actor = self.homeless.popleft()
                actor.node = machine.name
                machine.actors.add(actor)
                self.counts["loads"] += 1
                self.at(now + self.options.load, "loaded", (actor, self.epoch[id(actor)]))

    def on_loaded(self, now: float, what: tuple[Actor, int]) -> None:
        actor, epoch = what
        if self.epoch[id(actor)] != epoch:
            return
        machine = self.machines[actor.node]
        if machine.broken:
            machine.actors.discard(actor)
            self.epoch[id(actor)] += 1
            self.shunning.start_failed(actor.node, "broken", others=True)
            self.crew.start_failed(actor, "broken")
            self.hire(now)
            return
        self.crew.loaded(actor)
        self.shunning.loaded(actor.node)
        self.idle.add(actor)
        self.give(now, actor)

    def give(self, now: float, actor: Actor) -> None:
        """The driver hears of a free actor and sends it a batch."""
        begin = time.perf_counter()
        batch = self.schedule.take(actor, 0, [self.options.gpus])
        self.deciding += time.perf_counter() - begin
        if batch is None:
            return
        self.idle.discard(actor)
        actor.work[0] = batch
        service = (self.options.call_ms + self.options.unit_ms * len(batch.rows)) / 1e3
        self.driver_free = max(self.driver_free, now) + service
        self.driver_busy += service
        self.counts["calls"] += 1
        kills = next((place for place, row in enumerate(batch.rows) if row in self.deadly), None)
        rows = batch.rows if kills is None else batch.rows[: kills + 1]
        took = float(sum(self.seconds[row] for row in rows))
        end = self.driver_free + took
        if kills is None:
            requests = TABLES * len(batch.rows)
            self.counts["PUT"] += requests
            self.store_free = max(self.store_free, end - took) + requests / self.options.store_rate
            self.store_wait += max(0.0, self.store_free - end)
            end = max(end, self.store_free)
        self.at(end, "returned" if kills is None else "killed", (actor, self.epoch[id(actor)], batch, took, kills))

    def on_returned(self, now: float, what: tuple[Actor, int, Batch, float, None]) -> None:
        actor, epoch, batch, took, _ = what
        if self.epoch[id(actor)] != epoch:
            return
        begin = time.perf_counter()
        self.schedule.returned(actor, 0, {}, None, took)
        self.deciding += time.perf_counter() - begin
        self.counts["units"] += len(batch.rows)
        self.work += took
        self.last_good = now
        self.idle.add(actor)
        self.give(now, actor)

    def on_killed(self, now: float, what: tuple[Actor, int, Batch, float, int]) -> None:
        actor, epoch, batch, took, place = what
        if self.epoch[id(actor)] != epoch:
            return
        self.work += took
        self.ended(actor, self.schedule.died(actor, 0, place, "killed", batch.rows[:place], machine=False))
        self.machines[actor.node].actors.discard(actor)
        self.counts["PUT"] += TABLES * place
        self.hire(now)
        self.wake(now)

    def on_dies(self, now: float, machine: Machine) -> None:
        machine.alive = False
        self.counts["machines lost"] += 1
        for actor in list(machine.actors):
            lost: list[Failed] = []
            if actor.work:
                lost = self.schedule.died(actor, 0, 0, "machine", machine=True)
                self.counts["units begun again"] += 1
            self.ended(actor, lost)
        machine.actors.clear()
        self.at(now + self.options.back_minutes * 60, "back", machine)
        self.hire(now)
        self.wake(now)

    def on_back(self, now: float, machine: Machine) -> None:
        machine.alive = True
        self.at(now + self.random.exponential(self.options.machine_hours * 3600), "dies", machine)
        self.hire(now)

    def ended(self, actor: Actor, lost: list[Failed]) -> None:
        self.counts["lost units"] += len(lost)
        self.schedule.gone(actor)
        self.crew.ended(actor)
        self.idle.discard(actor)
        self.epoch[id(actor)] += 1

    def wake(self, now: float) -> None:
        """Units have come back, and idle actors may take them."""
        for actor in list(self.idle):
            if not self.schedule.waiting(0):
                return
            self.give(now, actor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--units", type=int, default=10_000_000)
    parser.add_argument("--gpus", type=int, default=1000)
    parser.add_argument("--gpus-per-node", type=int, default=8)
    parser.add_argument("--seconds", type=float, default=10.0, help="mean duration of a unit")
    parser.add_argument("--spread", type=float, default=1.0, help="sigma of the logarithm of the durations")
    parser.add_argument("--deadly", type=float, default=0.001, help="share of units that kill at each try")
    parser.add_argument("--machine-hours", type=float, default=100.0, help="mean life of a machine")
    parser.add_argument("--back-minutes", type=float, default=5.0, help="until a lost machine is replaced")
    parser.add_argument("--broken", type=int, default=1, help="machines on which no actor can start")
    parser.add_argument("--load", type=float, default=90.0, help="seconds to load the model")
    parser.add_argument("--call-ms", type=float, default=0.6, help="the driver's CPU for a call")
    parser.add_argument("--unit-ms", type=float, default=0.08, help="and for each unit in it")
    parser.add_argument(
        "--store-rate", type=float, default=3500.0, help="PUT requests a second (S3: 3,500 for a prefix)"
    )
    parser.add_argument("--part-kib", type=float, default=60.0, help="mean size of a part")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    begin = time.perf_counter()
    simulation = Simulation(options)
    makespan = simulation.run()
    took = time.perf_counter() - begin
    counts = simulation.counts
    bound = max(float(simulation.seconds.sum()) / options.gpus, float(simulation.seconds[0])) + options.load
    parts = TABLES * counts["units"]
    files = max(-(-int(parts * options.part_kib * 1024) // TARGET_BYTES), -(-parts // MOST_PARTS))
    beats = int(makespan / BEAT_SECONDS)
    print(
        f"| {options.units:,} units on {options.gpus:,} GPUs, {options.seconds:g} s each (sigma {options.spread:g}) | |"
    )
    print("| --- | --- |")
    for name, value in (
        ("makespan", f"{makespan / 3600:.2f} h"),
        ("bound: work / GPUs, or the longest unit, and one load", f"{bound / 3600:.2f} h: {makespan / bound:.3f}x"),
        ("last good unit", f"{simulation.last_good / makespan:.4f} of the makespan"),
        ("driver busy", f"{simulation.driver_busy / makespan:.1%}"),
        ("its decisions alone, measured here", f"{simulation.deciding / counts['calls'] * 1e6:.1f} us a call"),
        ("store: requests waited", f"{simulation.store_wait / max(1, counts['calls']):.3f} s a call"),
        ("PUT of parts", f"{counts['PUT']:,}"),
        ("PUT of the lease (computed)", f"{beats:,}"),
        ("compaction (computed)", f"{parts:,} GET, {3 * files:,} PUT, {-(-parts // DELETED_AT_ONCE):,} bulk deletions"),
        ("calls, actor loads", f"{counts['calls']:,}, {counts['loads']:,}"),
        ("machines lost, units begun again", f"{counts['machines lost']:,}, {counts['units begun again']:,}"),
        ("machines shunned", f"{len(simulation.shunning.shunned)}"),
        ("units lost", f"{counts['lost units']:,} of {len(simulation.deadly):,} that kill"),
        ("this process", f"{took:.0f} s, {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10:,} MiB"),
    ):
        print(f"| {name} | {value} |")


if __name__ == "__main__":
    main()

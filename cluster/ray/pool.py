"""What a run consists of: pools of actors, and the intervals at which they are watched."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ActorPool:
    """One stage of a run: a number of actors (processes of Ray), each with one worker.

    Attributes:
        name: its name in messages.
        worker: a class of an importable module: `__init__(**arguments)` loads, `__call__(pa.Table) -> pa.Table` maps
            the row of one unit to its rows. It travels to the actors by reference, so every machine must have its module.
            It should turn failures into rows: an exception costs the unit a try. Where it has a method
            `end_call(unit_ids, results)`, that is called at the end of a call for several units, and returns their results.
        arguments: its arguments; small and picklable.
        actors: the least number of actors. At most as many are started as there are units.
        max_actors: the largest number of actors, if the cluster has room or an autoscaler makes some. Default: `actors`.
        num_cpus: CPUs that one actor reserves. Reservations guide the placement; they do not limit the use.
        num_gpus: GPUs that one actor reserves; a fraction should be 1/k.
        memory: bytes that one actor reserves.
        calls: the number of units that an actor works on at once, each in a thread of its own; all lose a try if one kills
            the process.
        deadline_s: seconds that a unit may take, unless its worker asks for more (`vrshq.cluster.ray.guard.allow`). Its
            process is then ended. None: no limit.
    """

    name: str
    worker: type
    arguments: dict[str, Any] = field(default_factory=dict)
    actors: int = 1
    max_actors: int | None = None
    num_cpus: float = 1.0
    num_gpus: float = 0.0
    memory: int | None = None
    calls: int = 1
    deadline_s: float | None = None

    def __post_init__(self) -> None:
        if self.worker.__module__ == "__main__" or "<locals>" in self.worker.__qualname__:
            raise ValueError(
                f"pool {self.name}: {self.worker.__qualname__} must stand at the top of an importable module, "
                "because workers travel to other processes by name"
            )
        if not self.name or "/" in self.name:
            raise ValueError(f"a pool's name must not be empty and must not hold '/', got {self.name!r}")
        for name in ("actors", "calls"):
            if getattr(self, name) < 1:
                raise ValueError(f"pool {self.name}: {name} must be at least 1, got {getattr(self, name)}")
        if self.max_actors is not None and self.max_actors < self.actors:
            raise ValueError(f"pool {self.name}: max_actors {self.max_actors} is less than actors {self.actors}")

    def fitted(self, units: int) -> ActorPool:
        """The pool with no more actors than there are units."""
        most = None if self.max_actors is None else min(self.max_actors, units)
        return replace(self, actors=min(self.actors, units), max_actors=most)


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Intervals of a run, in seconds.

    Attributes:
        start_s: time in which the `actors` of each pool must begin to load. They begin as soon as there is room.
        look_s: interval at which the driver looks after the actors.
        grace_s: time after its deadline at which a unit is ended that holds Python's lock, so that no thread can end it.
    """

    start_s: float = 600.0
    look_s: float = 2.0
    grace_s: float = 10.0

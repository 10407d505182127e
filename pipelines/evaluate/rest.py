"""Runs the last stages of a run on what another run has: its tokens, or CLIP's probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal

import pyarrow as pa

from vrshq.cluster.ray.engine import Lost, stream_receipts
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.resources import cluster_machines
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.operators.batch import Failure, Operator
from vrshq.operators.keyframe import SelectKeyframe
from vrshq.operators.video.sampling import WITHOUT_CLIP
from vrshq.pipelines.evaluate.truth import TrueMasks
from vrshq.pipelines.label.loop import one_by_one
from vrshq.pipelines.label.planning.placement import choose_pools
from vrshq.pipelines.label.planning.plan import Plan, worker_arguments
from vrshq.pipelines.label.resources import OperatorName, Resources
from vrshq.pipelines.label.tables.schema import ERRORS, TOKENS, TRACKS
from vrshq.pipelines.label.work.wire import WIRE
from vrshq.pipelines.label.work.worker import PATIENCE_S, UnitWorker

# What a run can take of another one: all up to its tokens, or what CLIP thinks of its frames.
Shared = Literal["tokens", "clip"]
# Only the operators of `STAGES["tokens"]` read these groups of settings. Runs that differ in nothing else have the same tokens.
AFTER_TOKENS = ("fusion", "keyframe", "masks", "tracking")
# Settings without which CLIP's probabilities are the same.
_AFTER_CLIP = {"sampler", "max_image_token", "seed"}
# The stages that still run, by what is taken.
STAGES: dict[Shared, tuple[OperatorName, ...]] = {
    "tokens": ("fuse", "keyframe", "propagate"),
    "clip": ("presample", "tokens", "fuse", "keyframe", "propagate"),
}
# Columns of `tracks/` that pre-sampling computes.
_PRESAMPLED = ("clip_probs", "notes")


def same_tokens(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two runs' identities (`run.json`) differ only in settings that no stage up to the tokens reads."""
    return shared_by(one, other) == "tokens"


def shared_by(one: dict[str, Any], other: dict[str, Any]) -> Shared | None:
    """What the runs of two identities (`run.json`) have in common."""

    def compared(identity: dict[str, Any], *, sampling: bool) -> dict[str, Any]:
        settings = {key: value for key, value in identity["settings"].items() if key not in AFTER_TOKENS}
        if not sampling:
            kept = {key: value for key, value in settings["sampling"].items() if key not in _AFTER_CLIP}
            settings = {key: value for key, value in settings.items() if key != "prompt"} | {"sampling": kept}
        return identity | {"settings": settings}

    if compared(one, sampling=True) == compared(other, sampling=True):
        return "tokens"
    samplers = [identity["settings"].get("sampling", {}).get("sampler") for identity in (one, other)]
    if None in samplers or set(samplers) & WITHOUT_CLIP:
        return None
    return "clip" if compared(one, sampling=False) == compared(other, sampling=False) else None


class RestWorker:
    """Runs the remaining stages on units of which another run has the beginning.

    It lists the other run's tables once, reads each unit's rows from there, runs `STAGES`, and writes as `UnitWorker` does.

    In: rows of `MANIFEST`; the other run has finished them.
    Out: rows of `vrshq.pipelines.label.work.wire.RECEIPT`.

    Args:
        base: uri of the other run.
        shared: what is taken of it.
        worker: arguments of `UnitWorker`, without its operators.
        truth: arguments of `TrueMasks`, for a keyframe that is chosen by the ground truth.
    """

    def __init__(self, base: str, shared: Shared, worker: dict[str, Any], truth: dict[str, Any] | None = None) -> None:
        run = RunDirectory(base, patience_s=PATIENCE_S)
        self.tokens, self.tracks = run.reader("tokens", TOKENS), run.reader("tracks", TRACKS)
        self.errors = run.reader("errors", ERRORS)
        self.shared = shared
        arguments = {**worker, "operators": STAGES[shared]}
        self.worker = _InformedWorker(TrueMasks(**truth), **arguments) if truth else UnitWorker(**arguments)

    def __call__(self, units: pa.Table) -> pa.Table:
        """Fills in what is stored and runs the remaining stages on the units."""
        return self.worker(pa.Table.from_pylist([self._filled(unit) for unit in units.to_pylist()], schema=WIRE))

    def _filled(self, unit: dict[str, Any]) -> dict[str, Any]:
        columns = ["instruction_id", "start", "every", *_PRESAMPLED]
        tracks = _by_instruction(self.tracks.read([unit["unit_id"]], columns))
        failed = _by_instruction(self.errors.read([unit["unit_id"]]))
        ids = unit["instruction_ids"]
        filled = {
            **unit,
            "errors": [_failure(failed.get(one)) for one in ids],
            "seconds": {},
            **{name: [tracks[one][name] for one in ids] for name in _PRESAMPLED},
        }
        if self.shared == "clip":
            return filled
        tokens = _by_instruction(self.tokens.read([unit["unit_id"]]))
        first, every = tracks[ids[0]]["start"] or 0, tracks[ids[0]]["every"] or 1
        return {
            **filled,
            # from the numbers of the video to the indices of the span that is opened
            "sampled_frames": [
                [(frame - first) // every for frame in tokens[one]["sampled_frames"]] if one in tokens else None
                for one in ids
            ],
            **{name: [tokens[one][name] if one in tokens else None for one in ids] for name in ("seg", "tak")},
            "d": next((row["d"] for row in tokens.values()), 0),
        }


class _InformedWorker(UnitWorker):
    """A worker whose keyframe stage knows the ground truth."""

    def __init__(self, truth: TrueMasks, **arguments: Any) -> None:
        self.truth = truth
        super().__init__(**arguments)

    def _operators(self, resources: Resources) -> list[Operator]:
        operators = super()._operators(resources)
        for one in operators:
            if isinstance(one, SelectKeyframe):
                one.truth = self.truth
        return operators


def _by_instruction(rows: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["instruction_id"]: row for row in rows.to_pylist()}


def _failure(row: dict[str, Any] | None) -> Failure | None:
    return None if row is None else Failure(stage=row["stage"], error_type=row["error_type"], message=row["message"])


def on_ray(
    plan: Plan, base: str, shared: Shared, todo: pa.Table, truth: dict[str, Any] | None
) -> Iterator[dict[str, Any] | Lost]:
    """Receipts of the units of `todo`, in actors on Ray; arguments as for `RestWorker`."""
    pool = choose_pools(plan.settings, cluster_machines(), todo.num_rows)[-1]  # the pool of propagation
    engine_pool = ActorPool(
        name="+".join(STAGES[shared]),
        worker=RestWorker,
        arguments={
            "base": base,
            "shared": shared,
            "worker": {**worker_arguments(plan, pool), "log_units": True},
            "truth": truth,
        },
        actors=pool.actors,
        max_actors=pool.max_actors,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        deadline_s=plan.settings.resources.opening(),
    )
    attempts = plan.settings.resources.attempts
    yield from stream_receipts(todo, [engine_pool], attempts=attempts, finished=plan.run.finished_among)


def in_process(
    plan: Plan, base: str, shared: Shared, todo: pa.Table, truth: dict[str, Any] | None
) -> Iterator[dict[str, Any] | Lost]:
    """Receipts of the units of `todo`, in this process; arguments as for `RestWorker`."""
    worker = RestWorker(base, shared, worker_arguments(plan, plan.pools[-1]), truth)
    yield from one_by_one([worker], todo)

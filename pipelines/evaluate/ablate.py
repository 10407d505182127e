"""`vrshq ablate`: evaluates one benchmark under several settings and compares each with the base's settings.

evaluate with the base's settings -> for each varied value: reuse the stages that it does not affect, run the others, evaluate
-> compare each with the base, expression by expression -> ablation.json, ablation.md, ablation.html.

    OUT/base/                      a run with its scores
    OUT/keyframe.method=first/     the same, with one setting changed
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.ray.engine import Lost, stream_receipts
from vrshq.cluster.ray.pool import ActorPool
from vrshq.cluster.ray.resources import cluster_machines, local_resources
from vrshq.cluster.ray.session import ray_session
from vrshq.cluster.storage.lease import Lease
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.cluster.storage.uris import join_uri
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.evaluate.ablation import BASE, write_ablation
from vrshq.pipelines.evaluate.compare import LEVEL, compare
from vrshq.pipelines.evaluate.datasets import open_benchmark
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Folders
from vrshq.pipelines.evaluate.instructions import write_instructions
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.label.loop import one_by_one
from vrshq.pipelines.label.placement import choose_pools
from vrshq.pipelines.label.plan import Plan, begun, check_plan, worker_arguments
from vrshq.pipelines.label.resources import OperatorName
from vrshq.pipelines.label.schema import TOKENS, TRACKS
from vrshq.pipelines.label.settings import Settings, load_settings
from vrshq.pipelines.label.worker import PATIENCE_S, WIRE, UnitWorker

# Only the operators of `REST` read these groups of settings. Runs that differ in nothing else have the same tokens.
AFTER_TOKENS = ("fusion", "keyframe", "masks")
REST: tuple[OperatorName, ...] = ("fuse", "keyframe", "propagate")
# Columns of `tracks/` that pre-sampling computes.
_PRESAMPLED = ("clip_probs", "notes")


@dataclass(frozen=True)
class Variant:
    """One run of an ablation; `name` is also the name of its folder."""

    name: str
    settings: Settings


@dataclass(frozen=True)
class Ablation:
    """The result of an ablation.

    Attributes:
        result: the content of `ablation.json`; None where a run is incomplete.
        written: uris of the files.
        incomplete: name of the run that has no scores; None: all have some.
        note: the reason.
        from_nothing: whether it is complete, and no expression has an answer.
    """

    result: dict[str, Any] | None
    written: list[str]
    incomplete: str | None = None
    note: str | None = None
    from_nothing: bool = False


def read_variants(
    vary: Sequence[str], config: str | None, assignments: Sequence[str], **overrides: Any
) -> list[Variant]:
    """The base, and one variant for each value that differs from that of the base.

    Args:
        vary: the values of `--vary`, such as "keyframe.method=first,middle".
        config: YAML file of the base's settings.
        assignments: `key=value` texts of the base's settings.
        overrides: other settings of the base, by name, as for `load_settings`.

    Returns:
        the base first, then the variants in the given order, without repetitions.

    Raises:
        SettingsError: a `--vary` has no key or no value, its key cannot be varied, or a value is not allowed.
    """
    base = load_settings(config, list(assignments), **overrides)
    found = {BASE: Variant(BASE, base)}
    for text in vary:
        key, _, values = text.partition("=")
        if not key or not values:
            raise SettingsError(f"--vary {text}: expected key=value,value, for example keyframe.method=first,middle")
        if key.split(".")[0] in ("model", "resources"):
            raise SettingsError(
                f"--vary {text}: {key} cannot be varied; expected a setting that decides what the tables hold. To compare "
                "models, evaluate each and use `vrshq compare`"
            )
        for value in values.split(","):
            name = f"{key}={value.strip()}"
            if not re.fullmatch(r"[\w.=+-]{1,100}", name):
                raise SettingsError(f"--vary {text}: {value!r} names a folder; expected letters, digits and . + -")
            settings = load_settings(config, [*assignments, name], **overrides)
            if settings.identity() != base.identity():
                found[name] = Variant(name, settings)
    if len(found) == 1:
        raise SettingsError("vrshq ablate: nothing differs from the base; expected --vary key=value,value")
    return list(found.values())


def ablate(
    dataset: str,
    root: str,
    output: str,
    variants: Sequence[Variant],
    *,
    split: str | None = None,
    folders: Folders = Folders(),  # noqa: B008 - frozen
    address: str | None = None,
    use_ray: bool = True,
    on_run: Callable[[str, int], None] = lambda _name, _taken: None,
) -> Ablation:
    """Evaluates each variant and compares it with the first one. The same call again continues an interrupted ablation.

    A run that differs from the first only in `AFTER_TOKENS` reuses the first run's pre-sampling and tokens. Its videos are
    decoded again for SAM2.

    Args:
        dataset: name of the benchmark, as for `evaluate`.
        root: the data set's folder.
        output: folder of the runs and of the page.
        variants: as from `read_variants`, the base first.
        split: default: the data set's own.
        folders: names inside `root` that differ from the layout's.
        address: Ray cluster, as for `label`.
        use_ray: False runs everything in this process.
        on_run: called before a run is evaluated, with its name and the number of units that were just finished from the
            base's tokens.

    Raises:
        DatasetError: the benchmark cannot be read, or its split has no ground truth.
        UserError: any other error of `evaluate` or `compare`, in one line.
    """
    benchmark = open_benchmark(dataset, root, split=split, folders=folders)
    if not benchmark.has_masks:
        raise DatasetError(f"{root}: split {split} of {dataset} has no ground truth, so settings cannot be compared")
    base = variants[0]
    scores: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="vrshq-ablate-"))
        table = write_instructions(benchmark, Path(scratch) / "instructions.parquet")
        if use_ray:  # all runs share one session
            stack.enter_context(ray_session(address, num_cpus=max(2, int(local_resources().cpus))))
        for variant in variants:
            run = join_uri(output, variant.name)
            taken = 0
            if variant is not base:
                taken = take_over(
                    table, join_uri(output, base.name), run, variant.settings, videos=root, use_ray=use_ray
                )
            on_run(variant.name, taken)
            done = evaluate(dataset, root, run, variant.settings, split=split, folders=folders, use_ray=use_ray)
            if done.scores is None:
                return Ablation(None, [], variant.name, done.note, done.from_nothing())
            scores[variant.name] = done.scores
    result = {
        "dataset": dataset,
        "split": split,
        "base": base.settings.identity(),
        "level": LEVEL,
        "runs": [
            _run_result(variant, scores[variant.name], join_uri(output, base.name), join_uri(output, variant.name))
            for variant in variants
        ],
    }
    return Ablation(result, write_ablation(output, result))


def take_over(
    instructions: str, base: str, output: str, settings: Settings, *, videos: str, use_ray: bool = True
) -> int:
    """Finishes units of `output` from the tokens of the run `base`; returns their number.

    The number is 0 if the runs differ in a setting that tokens depend on. A unit stays unfinished if `base` lacks one of its
    tokens, because an instruction failed there, or if it ends its process here. `label` then runs it in full.

    Args:
        instructions: the instruction table, as for `label`.
        base: a complete run of the same instructions.
        output: the run directory to continue.
        settings: of the run `output`.
        videos: folder of the videos, as for `label`.
        use_ray: False runs one unit after the other in this process; True needs a connection to Ray.
    """
    plan = check_plan(instructions, output, settings, videos=videos)
    before = RunDirectory(base)
    if not same_tokens(before.read_json("run.json")["identity"], plan.identity):
        return 0
    plan.run.open(plan.identity, {"version": importlib.metadata.version("vrshq"), "model": settings.model})
    with Lease(plan.run.folder, "ablate") as lease:
        plan = begun(plan, retry_errors=False)
        ready = units_with_tokens(before, plan.manifest) - plan.finished
        todo = plan.manifest.filter(pc.is_in(plan.manifest["unit_id"], pa.array(sorted(ready), pa.string())))
        if not todo.num_rows:
            return 0
        rows = _on_ray(plan, base, todo) if use_ray else _in_process(plan, base, todo)
        done = 0
        for row in rows:
            done += not isinstance(row, Lost)
            lease.check()
        return done


def same_tokens(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Whether two runs' identities (`run.json`) differ only in settings that no stage up to the tokens reads."""

    def compared(identity: dict[str, Any]) -> dict[str, Any]:
        settings = {key: value for key, value in identity["settings"].items() if key not in AFTER_TOKENS}
        return identity | {"settings": settings}

    return compared(one) == compared(other)


def units_with_tokens(run: RunDirectory, manifest: pa.Table) -> set[str]:
    """Ids of the units of a manifest for which the run has the tokens of every instruction."""
    tokens = run.read("tokens", TOKENS, ["video_id", "instruction_id"])
    known = set(zip(tokens["video_id"].to_pylist(), tokens["instruction_id"].to_pylist(), strict=True))
    columns = (manifest[name].to_pylist() for name in ("unit_id", "video_id", "instruction_ids"))
    return {
        unit_id
        for unit_id, video_id, instruction_ids in zip(*columns, strict=True)
        if all((video_id, instruction_id) in known for instruction_id in instruction_ids)
    }


class RestWorker:
    """Runs the stages after the tokens on units whose tokens another run has.

    It lists the other run's tables once, reads each unit's tokens from there, runs `REST`, and writes as `UnitWorker` does.

    In: rows of `MANIFEST`; the other run holds all their tokens.
    Out: rows of `vrshq.pipelines.label.worker.RECEIPT`.

    Args:
        base: uri of the other run.
        worker: arguments of `UnitWorker`.
    """

    def __init__(self, base: str, worker: dict[str, Any]) -> None:
        run = RunDirectory(base, patience_s=PATIENCE_S)
        self.tokens, self.tracks = run.reader("tokens", TOKENS), run.reader("tracks", TRACKS)
        self.worker = UnitWorker(**worker)

    def __call__(self, units: pa.Table) -> pa.Table:
        """Fills in the stored tokens and runs the remaining stages on the units."""
        return self.worker(pa.Table.from_pylist([self._filled(unit) for unit in units.to_pylist()], schema=WIRE))

    def _filled(self, unit: dict[str, Any]) -> dict[str, Any]:
        tokens = _by_instruction(self.tokens.read([unit["unit_id"]]))
        columns = ["instruction_id", "start", "every", *_PRESAMPLED]
        tracks = _by_instruction(self.tracks.read([unit["unit_id"]], columns))
        ids = unit["instruction_ids"]
        first, every = tracks[ids[0]]["start"] or 0, tracks[ids[0]]["every"] or 1
        return {
            **unit,
            "errors": [None] * len(ids),
            "seconds": {},
            # from the numbers of the video to the indices of the span that is opened
            "sampled_frames": [[(frame - first) // every for frame in tokens[one]["sampled_frames"]] for one in ids],
            **{name: [tokens[one][name] for one in ids] for name in ("seg", "tak")},
            **{name: [tracks[one][name] for one in ids] for name in _PRESAMPLED},
            "d": tokens[ids[0]]["d"],
        }


def _by_instruction(rows: pa.Table) -> dict[str, dict[str, Any]]:
    return {row["instruction_id"]: row for row in rows.to_pylist()}


def _run_result(variant: Variant, scores: dict[str, Any], base: str, run: str) -> dict[str, Any]:
    """The entry of one run in `ablation.json`: scores in percent and the result of `compare`, as JSON values."""
    overall, tracking, no_target = scores["fixed"].get("overall", {}), scores["tracking"], scores["no_target"]
    by = "asks" if "asks" in scores["breakdowns"] else "kind"
    keys = tracking["distances"]["0"] if tracking else {}
    far = next(iter(tracking["far"].values())) if tracking else {}
    found = compare(base, run, changes=0)
    return {
        "name": variant.name,
        "folder": run,
        "settings": variant.settings.identity(),
        "scores": {
            **{name: overall.get(name) for name in ("J", "F", "JF")},
            "keyframe_J": keys.get("J"),
            "keyframes_with_object": _percent(tracking["keyframes_with_object"]) if tracking else None,
            "far": far.get("relative"),
            "far_interval": far.get("relative_interval"),
            "false_positive_rate": _percent(no_target["false_positive_rate"]),
            "auroc": _percent(no_target["auroc"]),
        },
        "by": by,
        "JF_by_kind": {kind: means["JF"] for kind, means in scores["breakdowns"].get(by, {}).items()},
        **{name: found[name] for name in ("differences", "intervals", "gained", "lost", "equal")},
    }


def _on_ray(plan: Plan, base: str, todo: pa.Table) -> Iterator[dict[str, Any] | Lost]:
    pool = choose_pools(plan.settings, cluster_machines(), todo.num_rows)[-1]  # the pool of propagation
    engine_pool = ActorPool(
        name="+".join(REST),
        worker=RestWorker,
        arguments={"base": base, "worker": {**worker_arguments(plan, pool), "operators": REST, "log_units": True}},
        actors=pool.actors,
        max_actors=pool.max_actors,
        num_cpus=pool.cpus,
        num_gpus=pool.gpus,
        deadline_s=plan.settings.resources.opening(),
    )
    attempts = plan.settings.resources.attempts
    yield from stream_receipts(todo, [engine_pool], attempts=attempts, finished=plan.run.finished_among)


def _in_process(plan: Plan, base: str, todo: pa.Table) -> Iterator[dict[str, Any] | Lost]:
    worker = RestWorker(base, {**worker_arguments(plan, plan.pools[-1]), "operators": REST})
    yield from one_by_one([worker], todo)


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value

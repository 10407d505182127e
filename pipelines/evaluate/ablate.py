"""`vrshq ablate`: evaluates one benchmark under several settings and compares each with the base's settings.

evaluate with the base's settings -> for each varied value: reuse the stages that it does not affect, run the others, evaluate
-> compare each with the base, expression by expression -> ablation.json, ablation.md, ablation.html.

    OUT/base/                      a run with its scores
    OUT/keyframe.method=first/     the same, with one setting changed; studies with one output share such runs
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import re
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.ray.engine import Lost
from vrshq.cluster.ray.resources import local_resources
from vrshq.cluster.ray.session import ray_session
from vrshq.cluster.storage.lease import Lease
from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.cluster.storage.uris import join_uri
from vrshq.operators.keyframe import ORACLES
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.evaluate.ablation import BASE, write_ablation
from vrshq.pipelines.evaluate.compare import LEVEL, compare, compare_tables, read_scores
from vrshq.pipelines.evaluate.costs import cost_of
from vrshq.pipelines.evaluate.datasets import open_benchmark
from vrshq.pipelines.evaluate.datasets.base import DatasetError, Folders
from vrshq.pipelines.evaluate.evaluation import Evaluation
from vrshq.pipelines.evaluate.instructions import write_instructions
from vrshq.pipelines.evaluate.published import is_published, matching
from vrshq.pipelines.evaluate.rest import in_process, on_ray, same_tokens, shared_by
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.evaluate.studies import STUDIES, Variant, study_of
from vrshq.pipelines.label.planning.plan import begun, check_plan
from vrshq.pipelines.label.settings import Settings, load_settings
from vrshq.pipelines.label.tables.schema import TOKENS

__all__ = ["Ablation", "Variant", "ablate", "read_variants", "same_tokens", "take_over", "units_with_tokens"]

_SCORES = (
    *("J", "F", "JF", "keyframe_J", "keyframes_with_object", "far", "far_interval"),
    *("false_positive_rate", "n_acc", "t_acc", "final", "auroc"),
)
_COMPARED = ("differences", "intervals", "gained", "lost", "equal")


@dataclass(frozen=True)
class Ablation:
    """The result of an ablation.

    Attributes:
        result: the content of `ablation.json`; None where a run is incomplete.
        written: uris of the files.
        incomplete: name of the run that is not complete, or of the base without an answer; None: neither.
        note: the reason.
        from_nothing: whether it is complete, and no expression has an answer.
    """

    result: dict[str, Any] | None
    written: list[str]
    incomplete: str | None = None
    note: str | None = None
    from_nothing: bool = False


def read_variants(
    vary: Sequence[str], config: str | None, assignments: Sequence[str], *, study: str | None = None, **overrides: Any
) -> list[Variant]:
    """The base, and one variant for each trial of the study and each value that differs from that of the base.

    Args:
        vary: the values of `--vary`, such as "keyframe.method=first,middle".
        config: YAML file of the base's settings.
        assignments: `key=value` texts of the base's settings.
        study: a name of `STUDIES`.
        overrides: other settings of the base, by name, as for `load_settings`.

    Returns:
        the base first, then the variants in the given order, without repetitions.

    Raises:
        SettingsError: a `--vary` has no key or no value, its key cannot be varied, a value is not allowed, or there is no
            such study.
    """
    base = load_settings(config, list(assignments), **overrides)
    found = {BASE: Variant(BASE, base, f"{BASE}, as published" if study and is_published(base) else "")}
    for label, chosen in study_of(study).trials if study else ():
        settings = load_settings(config, [*assignments, *chosen], **overrides)
        if settings.identity() == base.identity():
            found[BASE] = Variant(BASE, base, f"base ({label})")
        else:
            # by its settings, so that studies with one output share it
            name = "--".join(chosen)
            found[name] = Variant(name, settings, label)
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
        raise SettingsError(
            "vrshq ablate: nothing differs from the base; expected --study NAME or --vary key=value,value"
        )
    return list(found.values())


def ablate(
    dataset: str,
    root: str,
    output: str,
    variants: Sequence[Variant],
    *,
    study: str | None = None,
    split: str | None = None,
    folders: Folders = Folders(),  # noqa: B008 - frozen
    address: str | None = None,
    use_ray: bool = True,
    on_run: Callable[[str, int], None] = lambda _name, _taken: None,
) -> Ablation:
    """Evaluates each variant and compares it with the first one. The same call again continues an interrupted ablation.

    A run takes over what it has in common with the first one: the tokens, where it differs only in `rest.AFTER_TOKENS`, or
    CLIP's probabilities, where it only samples other frames by them. Its videos are decoded again.

    Args:
        dataset: name of the benchmark, as for `evaluate`.
        root: the data set's folder.
        output: folder of the runs and of the page.
        variants: as from `read_variants`, the base first.
        study: the name of the study that they are of, which decides the published rows beside them.
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
    for one in variants:
        if one.settings.split.frames and (method := one.settings.keyframe.method) in ORACLES:
            raise SettingsError(
                f"setting split.frames {one.settings.split.frames}: {method} chooses the keyframe of a whole video; "
                "leave split.frames out, or vary another keyframe.method"
            )
    base = variants[0]
    finished: dict[str, Evaluation] = {}
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
                    table,
                    join_uri(output, base.name),
                    run,
                    variant.settings,
                    videos=root,
                    use_ray=use_ray,
                    also_clip=True,
                    truth={"dataset": dataset, "root": root, "split": split, "folders": asdict(folders)},
                )
            on_run(variant.name, taken)
            done = evaluate(dataset, root, run, variant.settings, split=split, folders=folders, use_ray=use_ray)
            # a variant alone may be without any answer: one with more frames than the model takes
            if done.scores is None and (variant is base or not done.from_nothing()):
                return Ablation(None, [], variant.name, done.note, done.from_nothing())
            finished[variant.name] = done
    uris = [join_uri(output, variant.name) for variant in variants]
    runs = [
        _run_result(variant, finished[variant.name], uris[0], uri, STUDIES[study].table if study else None)
        for variant, uri in zip(variants, uris, strict=True)
    ]
    result = {
        "dataset": dataset,
        "split": split,
        "study": study,
        "model": base.settings.model,
        "base": base.settings.identity(),
        "level": LEVEL,
        "runs": runs,
        "bound": _bound([run["folder"] for run in runs if run["scores"]["JF"] is not None])
        if study == "keyframe"
        else None,
    }
    return Ablation(result, write_ablation(output, result))


def take_over(
    instructions: str,
    base: str,
    output: str,
    settings: Settings,
    *,
    videos: str,
    use_ray: bool = True,
    also_clip: bool = False,
    truth: dict[str, Any] | None = None,
) -> int:
    """Finishes units of `output` from the tokens of the run `base`; returns their number.

    The number is 0 if the runs have nothing in common. A unit stays unfinished if `base` lacks one of its tokens, because an
    instruction failed there, or if it ends its process here. `label` then runs it in full. Where the keyframe is chosen by the
    ground truth, which `label` does not have, failures of `base` are taken over, too.

    Args:
        instructions: the instruction table, as for `label`.
        base: a complete run of the same instructions.
        output: the run directory to continue.
        settings: of the run `output`.
        videos: folder of the videos, as for `label`.
        use_ray: False runs one unit after the other in this process; True needs a connection to Ray.
        also_clip: where the tokens differ, CLIP's probabilities are taken, if only other frames are sampled by them.
        truth: arguments of `TrueMasks`, for a keyframe that is chosen by the ground truth.
    """
    plan = check_plan(instructions, output, settings, videos=videos)
    before = RunDirectory(base)
    shared = shared_by(before.read_json("run.json")["identity"], plan.identity)
    if settings.split.frames is not None:
        return 0  # the tokens of a video in pieces are those of its pieces
    # from CLIP's probabilities, one actor would hold all other networks: not where the settings place them apart
    if shared is None or (shared == "clip" and (not also_clip or settings.resources.pools is not None)):
        return 0
    informed = settings.keyframe.method in ORACLES
    plan.run.open(plan.identity, {"version": importlib.metadata.version("vrshq"), "model": settings.model})
    with Lease(plan.run.folder, "ablate") as lease:
        plan = begun(plan, retry_errors=False)
        known = before.finished_units() if informed else units_with_tokens(before, plan.manifest)
        ready = known - plan.finished
        todo = plan.manifest.filter(pc.is_in(plan.manifest["unit_id"], pa.array(sorted(ready), pa.string())))
        if not todo.num_rows:
            return 0
        work = on_ray if use_ray else in_process
        rows = work(plan, base, shared, todo, truth if informed else None)
        done = 0
        for row in rows:
            done += not isinstance(row, Lost)
            lease.check()
        return done


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


def _run_result(variant: Variant, done: Evaluation, base: str, run: str, table: str | None) -> dict[str, Any]:
    """The entry of one run in `ablation.json`: scores in percent, the result of `compare`, the published row and the cost."""
    missing = done.unanswered
    known = {
        "name": variant.name,
        "label": variant.shown,
        "folder": run,
        "settings": variant.settings.identity(),
        "unanswered": missing.line() if missing is not None and missing.count else None,
        # with the values of the model's family where the settings have none
        "published": matching(Settings(**RunDirectory(run).read_json("run.json")["identity"]["settings"]), table),
        "cost": cost_of(run, base),
    }
    if done.scores is None:
        nothing = {"scores": dict.fromkeys(_SCORES), "by": "kind", "JF_by_kind": {}, **dict.fromkeys(_COMPARED)}
        return known | nothing
    scores = done.scores
    overall, tracking, no_target = scores["fixed"].get("overall", {}), scores["tracking"], scores["no_target"]
    by = "asks" if "asks" in scores["breakdowns"] else "kind"
    keys = tracking["distances"]["0"] if tracking else {}
    far = next(iter(tracking["far"].values())) if tracking else {}
    found = compare(base, run, changes=0)
    return known | {
        "scores": {
            **{name: overall.get(name) for name in ("J", "F", "JF")},
            "keyframe_J": keys.get("J"),
            "keyframes_with_object": _percent(tracking["keyframes_with_object"]) if tracking else None,
            "far": far.get("relative"),
            "far_interval": far.get("relative_interval"),
            **{
                name: _percent(no_target.get(name))
                for name in ("false_positive_rate", "n_acc", "t_acc", "final", "auroc")
            },
        },
        "by": by,
        "JF_by_kind": {kind: means["JF"] for kind, means in scores["breakdowns"].get(by, {}).items()},
        **{name: found[name] for name in _COMPARED},
    }


def _bound(uris: Sequence[str]) -> dict[str, Any]:
    """For each expression the best of the runs, compared with the first: no choice among these runs has more."""
    tables = [read_scores(uri) for uri in uris]
    both = np.array([table["JF_fixed"].to_numpy(zero_copy_only=False).astype(np.float64) for table in tables])
    best = np.where(np.isnan(both), -1.0, both).argmax(0)
    rows = pa.concat_tables(tables).take(best * tables[0].num_rows + np.arange(len(best)))
    found = compare_tables([tables[0], rows], uris[0], "the best of these runs", changes=0)
    means = compare_tables([_zeros(tables[0]), rows], "0", "the best of these runs", changes=0)["differences"]
    overall = means.get("overall", {})
    return {
        "scores": {name: overall.get(name) for name in ("J", "F", "JF")},
        **{name: found[name] for name in _COMPARED},
    }


def _zeros(table: pa.Table) -> pa.Table:
    """The table with scores of 0 where it has some."""
    for name in table.column_names:
        if name.endswith("_fixed"):
            zero = pc.multiply(table[name], 0.0)
            table = table.set_column(table.schema.get_field_index(name), table.schema.field(name), zero)
    return table


def _percent(value: float | None) -> float | None:
    return None if value is None else 100 * value

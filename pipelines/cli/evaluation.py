"""`vrshq evaluate`, `vrshq ablate`, `vrshq compare`."""

from __future__ import annotations

import shlex
import sys
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vrshq.pipelines.cli.options import (
    Address,
    Config,
    Dataset,
    Folder,
    MaxErrorRate,
    Model,
    Only,
    RetryErrors,
    Root,
    Set,
    Split,
    UseRay,
    Without,
)
from vrshq.pipelines.cli.terminal import DONE, INCOMPLETE, TOO_MANY_ERRORS, USER_ERROR, console, continues, say
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.evaluate.predictions import Objects

if TYPE_CHECKING:
    from vrshq.pipelines.evaluate.datasets.base import Folders
    from vrshq.pipelines.label.settings import Settings


def evaluate(
    dataset: Dataset,
    root: Root,
    output: Annotated[
        str | None,
        typer.Option("--output", metavar="RUN", help="Folder for the scores, and the run directory of --model."),
    ] = None,
    model: Model = None,
    predictions: Annotated[
        str | None,
        typer.Option(metavar="URI", help="Score these masks: a run, a folder of PNG files, or a results.json."),
    ] = None,
    objects: Annotated[
        Objects, typer.Option(metavar="WHICH", help="Of an answer with several objects: first, or union of all.")
    ] = "first",
    only: Only = None,
    without: Without = None,
    split: Split = None,
    folder: Folder = None,
    check: Annotated[
        bool, typer.Option("--check", help="Report inconsistencies of the data set, and do nothing else.")
    ] = False,
    config: Config = None,
    set_: Set = None,
    address: Address = None,
    ray: UseRay = True,
    max_error_rate: MaxErrorRate = 0.05,
    retry_errors: RetryErrors = False,
) -> None:
    """Label a benchmark, or take predictions, and compute the published protocol's numbers."""
    from vrshq.pipelines.cli.run_display import RunDisplay
    from vrshq.pipelines.cli.scores_display import print_evaluation
    from vrshq.pipelines.evaluate.datasets import check_benchmark
    from vrshq.pipelines.evaluate.run import evaluate as run_evaluate
    from vrshq.pipelines.label.error_policy import ErrorPolicy
    from vrshq.pipelines.label.settings import load_settings
    from vrshq.pipelines.label.tables.reviews import ByOutcome

    folders = _folders(folder or [])
    if check:
        found = check_benchmark(dataset, root, split=split, folders=folders)
        console.print(found)
        raise typer.Exit(DONE if found.consistent else USER_ERROR)
    settings = load_settings(config, set_ or [], model=model)
    # a configuration may name the model, too
    neither = predictions is None and "model" not in settings.model_fields_set
    if output is None or neither or (model is not None and predictions is not None):
        raise SettingsError(
            "vrshq evaluate: expected --output RUN and one of --model and --predictions, or --check alone"
        )
    display = RunDisplay()
    with continues(display.so_far), display:
        done = run_evaluate(
            dataset,
            root,
            output,
            settings,
            predictions=predictions,
            objects=objects,
            judged=ByOutcome(only, without),
            split=split,
            folders=folders,
            address=address,
            use_ray=ray,
            errors=ErrorPolicy(max_error_rate, retry_errors),
            watcher=display,
            command=shlex.join(["vrshq", *sys.argv[1:]]),
        )
    print_evaluation(done, output)
    if done.from_nothing():
        raise typer.Exit(TOO_MANY_ERRORS)
    if (done.labelled and done.labelled.stopped) or done.error_rate() > max_error_rate:
        if done.unanswered:
            say(f"{done.unanswered.line()}; more than --max-error-rate {max_error_rate:g} allows")
        raise typer.Exit(TOO_MANY_ERRORS)
    if done.labelled and done.labelled.incomplete:
        raise typer.Exit(INCOMPLETE)


def ablate(
    dataset: Dataset,
    root: Root,
    output: Annotated[str, typer.Option("--output", metavar="URI", help="Folder for the runs and the comparison.")],
    vary: Annotated[
        list[str] | None,
        typer.Option(
            "--vary",
            metavar="KEY=VALUES",
            help="Values of one setting, e.g. keyframe.method=first,middle. Repeatable; `vrshq settings` lists them.",
        ),
    ] = None,
    study: Annotated[
        str | None,
        typer.Option(
            metavar="NAME",
            help="A table of the paper and its relatives: parts, alpha, keyframe, frames, presampling or image; or presence, "
            "what tells expressions without a target.",
        ),
    ] = None,
    model: Model = None,
    split: Split = None,
    folder: Folder = None,
    config: Config = None,
    set_: Set = None,
    address: Address = None,
    ray: UseRay = True,
) -> None:
    """Evaluate a benchmark under several settings and compare each with the base: a study, or one setting at a time."""
    from vrshq.pipelines.cli.scores_display import print_ablation
    from vrshq.pipelines.evaluate.ablate import ablate as run_ablate
    from vrshq.pipelines.evaluate.ablate import read_variants
    from vrshq.pipelines.label.settings import load_settings

    begun: list[str] = []

    def on_run(name: str, taken: int) -> None:
        begun.append(name)
        reused = f", {taken} units from what the base has" if taken else ""
        say(f"run {name}{reused}")

    if study == "presence":
        if vary:
            raise SettingsError("--study presence: it compares thresholds of one run; expected no --vary")
        settings = load_settings(config, set_ or [], model=model)
        how = {"split": split, "folders": _folders(folder or []), "address": address, "use_ray": ray}
        _study_presence(dataset, root, output, settings, **how)
        return
    variants = read_variants(vary or [], config, set_ or [], study=study, model=model)
    with continues(lambda: f"{max(0, len(begun) - 1)} of {len(variants)} runs are finished"):
        done = run_ablate(
            dataset,
            root,
            output,
            variants,
            study=study,
            split=split,
            folders=_folders(folder or []),
            address=address,
            use_ray=ray,
            on_run=on_run,
        )
    if done.result is None:
        say(f"run {done.incomplete} has no scores: {done.note}")
        if done.from_nothing:
            raise typer.Exit(TOO_MANY_ERRORS)
        say("the same command again continues")
        raise typer.Exit(INCOMPLETE)
    print_ablation(done.result, done.written)


def _study_presence(dataset: str, root: str, output: str, settings: Settings, **how: Any) -> None:
    """Prints what tells presence, and what thresholds cost."""
    from vrshq.pipelines.cli.scores_display import print_sections
    from vrshq.pipelines.evaluate.presence_study import presence_study

    with continues(lambda: "finished units are kept"):
        done, parts, written = presence_study(dataset, root, output, settings, **how)
    if not parts:
        say(f"the run has no scores: {done.note}")
        if done.from_nothing():
            raise typer.Exit(TOO_MANY_ERRORS)
        say("the same command again continues")
        raise typer.Exit(INCOMPLETE)
    print_sections(parts, written)


def compare(
    first: Annotated[str, typer.Argument(metavar="URI", help="Folder with the scores of one evaluation.")],
    second: Annotated[
        str, typer.Argument(metavar="URI", help="Folder with the scores of another evaluation of the same data set.")
    ],
    output: Annotated[
        str | None, typer.Option(metavar="URI", help="Folder for comparison.json, .md and .html; default: none.")
    ] = None,
) -> None:
    """Compare two evaluations: paired differences with intervals, and the expressions that changed most."""
    from vrshq.pipelines.cli.scores_display import print_comparison
    from vrshq.pipelines.evaluate.compare import compare as run_compare
    from vrshq.pipelines.evaluate.compare import write_comparison

    result = run_compare(first, second)
    print_comparison(result)
    for uri in write_comparison(output, result) if output is not None else []:
        say(uri)


def _folders(names: list[str]) -> Folders:
    """`Folders` from texts such as "masks=mask_dict_valid.json"."""
    from vrshq.pipelines.evaluate.datasets.base import Folders

    given: dict[str, str] = {}
    for text in names:
        key, _, value = text.partition("=")
        if key not in ("frames", "metadata", "masks") or not value:
            raise SettingsError(f"--folder {text}: expected frames=NAME, metadata=NAME or masks=NAME")
        given[key] = value
    return Folders(**given)

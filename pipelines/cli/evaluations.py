"""What `vrshq evaluate`, `vrshq ablate` and `vrshq compare` print."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from vrshq.pipelines.cli.progress import RunProgress
from vrshq.pipelines.cli.summary import print_plan, print_summary
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.evaluate.ablate import Variant, ablate
from vrshq.pipelines.evaluate.ablate import sections as ablation_sections
from vrshq.pipelines.evaluate.compare import compare, write_comparison
from vrshq.pipelines.evaluate.compare import sections as comparison_sections
from vrshq.pipelines.evaluate.datasets import check_benchmark
from vrshq.pipelines.evaluate.datasets.base import Folders
from vrshq.pipelines.evaluate.report import Section, headline
from vrshq.pipelines.evaluate.run import evaluate
from vrshq.pipelines.label.settings import Settings


def run_check(console: Console, dataset: str, root: str, split: str | None, names: list[str]) -> bool:
    """Prints the validator's report; whether the data set is consistent."""
    report = check_benchmark(dataset, root, split=split, folders=parse_folders(names))
    console.print(report)
    return report.consistent


def run_evaluate(
    console: Console,
    dataset: str,
    root: str,
    output: str,
    settings: Settings,
    *,
    predictions: str | None,
    split: str | None,
    names: list[str],
    address: str | None,
    use_ray: bool,
) -> bool:
    """Evaluates with a plan before, progress meanwhile and one screen of numbers after; False if labelling is incomplete."""
    shown: list[RunProgress] = []

    def on_plan(plan: Any) -> None:
        print_plan(console, plan)
        shown.append(RunProgress(console, plan.todo.num_rows))
        shown[0].__enter__()

    try:
        done = evaluate(
            dataset,
            root,
            output,
            settings,
            predictions=predictions,
            split=split,
            folders=parse_folders(names),
            address=address,
            use_ray=use_ray,
            on_plan=on_plan,
            on_receipt=lambda receipt: shown[0].add(receipt),
            on_labelled=lambda: shown[0].__exit__() if shown else None,
        )
    except BaseException:
        if shown:
            shown[0].__exit__()
        raise
    if done.labelled is not None:
        print_summary(console, done.labelled, output)
    if done.scores is None:
        console.print(f"no scores: {done.note}", markup=False, highlight=False)
        return not (done.labelled and done.labelled.incomplete)
    _print_section(console, headline(done.scores))
    for kind, found in done.scores["problems"].items():
        console.print(f"{found['count']} x {kind}: {found['cost']}", markup=False, highlight=False)
    for uri in done.written:
        console.print(uri, markup=False, highlight=False)
    return True


def run_ablate(
    console: Console,
    dataset: str,
    root: str,
    output: str,
    variants: Sequence[Variant],
    *,
    split: str | None,
    names: list[str],
    address: str | None,
    use_ray: bool,
) -> bool:
    """Ablates with a line for each run before it and one table after all; False if a run is incomplete."""

    def on_run(name: str, taken: int) -> None:
        reused = f", {taken} units from the base's tokens" if taken else ""
        console.print(f"run {name}{reused}", markup=False, highlight=False)

    folders = parse_folders(names)
    done = ablate(
        dataset, root, output, variants, split=split, folders=folders, address=address, use_ray=use_ray, on_run=on_run
    )
    if done.result is None:
        console.print(
            f"run {done.incomplete} is incomplete; the same line again continues", markup=False, highlight=False
        )
        return False
    _print_section(console, ablation_sections(done.result)[0])
    for uri in done.written:
        console.print(uri, markup=False, highlight=False)
    return True


def run_compare(console: Console, first: str, second: str, output: str | None) -> None:
    """Prints the differences, and writes them where an output is given."""
    result = compare(first, second)
    for section in comparison_sections(result):
        _print_section(console, section)
    for uri in write_comparison(output, result) if output is not None else []:
        console.print(uri, markup=False, highlight=False)


def parse_folders(names: list[str]) -> Folders:
    """`Folders` from texts such as "masks=mask_dict_valid.json"."""
    given: dict[str, str] = {}
    for text in names:
        key, _, value = text.partition("=")
        if key not in ("frames", "metadata", "masks") or not value:
            raise SettingsError(f"--folder {text}: expected frames=NAME, metadata=NAME or masks=NAME")
        given[key] = value
    return Folders(**given)


def _print_section(console: Console, section: Section) -> None:
    console.print(section.title, style="bold", highlight=False)
    for line in section.lines:
        console.print(Text(line))
    if section.rows:
        table = Table(*section.head)
        for row in section.rows:
            table.add_row(*(Text(cell) for cell in row))
        console.print(table)

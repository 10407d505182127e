"""The command line `vrshq`."""

from __future__ import annotations

import sys
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from vrshq.cluster.ray.engine import NotEnoughResources, WorkerError
from vrshq.cluster.storage.folder import StorageError
from vrshq.cluster.storage.lease import InUseError
from vrshq.cluster.storage.run_directory import RunDirectoryError
from vrshq.operators.batch import InputError
from vrshq.operators.models.bundle import CheckpointError
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.evaluate.datasets.base import DatasetError
from vrshq.pipelines.export import ExportError
from vrshq.pipelines.label.instructions import InstructionTableError
from vrshq.pipelines.label.settings import load_settings

USER_ERRORS = (
    InstructionTableError,
    DatasetError,
    ExportError,
    SettingsError,
    CheckpointError,
    RunDirectoryError,
    InUseError,
    NotEnoughResources,
    StorageError,
    InputError,
    ConnectionError,
    WorkerError,
)
USAGE_ERROR: type[Exception] = typer.BadParameter.__mro__[
    1
]  # click's UsageError, which typer carries under its own name
DONE, USER_ERROR, INCOMPLETE, TOO_MANY_ERRORS = 0, 1, 2, 3

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False)
console = Console(soft_wrap=True)

Instructions = Annotated[str, typer.Argument(help="Table of video_uri, instruction_id, text: Parquet, JSONL or CSV.")]
Output = Annotated[str, typer.Option("--output", help="Run directory, local or in a bucket.")]
Videos = Annotated[
    str | None, typer.Option("--videos", help="Root of relative video_uris; default: the table's folder.")
]
Model = Annotated[
    str | None, typer.Option("--model", help="A name of `vrshq models`, a folder, a bucket, or a hub id.")
]
Config = Annotated[str | None, typer.Option("--config", help="YAML file of settings.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="One setting, e.g. keyframe.method=first. Repeatable.")]
Address = Annotated[str | None, typer.Option("--address", help="Ray cluster; default: RAY_ADDRESS, else this machine.")]


@app.command()
def label(
    instructions: Instructions,
    output: Output,
    videos: Videos = None,
    model: Model = None,
    config: Config = None,
    set_: Set = None,
    address: Address = None,
    max_error_rate: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Stop with exit code 3 when a larger share of instructions fails.")
    ] = 1.0,
    retry_errors: Annotated[bool, typer.Option(help="Run units with error rows again.")] = False,
) -> None:
    """Answer every instruction with a mask for each frame of its video."""
    from vrshq.pipelines.cli.progress import RunProgress
    from vrshq.pipelines.cli.summary import print_plan, print_summary
    from vrshq.pipelines.label.run import label as run_label

    settings = load_settings(config, set_ or [], model=model)
    shown: list[RunProgress] = []

    def on_plan(plan: Any) -> None:
        print_plan(console, plan)
        shown.append(RunProgress(console, plan.todo.num_rows))
        shown[0].__enter__()

    try:
        summary = run_label(
            instructions,
            output,
            settings,
            videos=videos,
            address=address,
            retry_errors=retry_errors,
            max_error_rate=max_error_rate,
            on_plan=on_plan,
            on_receipt=lambda receipt: shown[0].add(receipt),
        )
    finally:
        if shown:
            shown[0].__exit__()
    print_summary(console, summary, output)
    if summary.stopped or summary.error_rate() > max_error_rate:
        raise typer.Exit(TOO_MANY_ERRORS)
    if summary.incomplete:
        raise typer.Exit(INCOMPLETE)


@app.command()
def plan(
    instructions: Instructions,
    output: Output,
    videos: Videos = None,
    model: Model = None,
    config: Config = None,
    set_: Set = None,
    address: Address = None,
) -> None:
    """Show what `label` would run, what is done already, what it needs, and what is missing; run nothing."""
    from vrshq.pipelines.cli.summary import print_plan
    from vrshq.pipelines.label.run import make_plan, plan_for

    made = make_plan(instructions, output, load_settings(config, set_ or [], model=model), videos=videos)
    made = plan_for(made, address)
    print_plan(console, made)
    if made.missing and not made.grows:
        raise NotEnoughResources("; ".join(made.missing))


@app.command()
def compact(run: Annotated[str, typer.Argument(help="Run directory.")]) -> None:
    """Merge a run's parts into larger files; can be killed and run again at any point."""
    from vrshq.pipelines.label.compact import compact as run_compact

    for table, (parts, files) in run_compact(run).items():
        console.print(f"{table}: {parts} parts into {files} files", markup=False, highlight=False)


@app.command()
def models() -> None:
    """List the models inside the package."""
    from vrshq.operators.models.bundle import bundled_names, open_bundle

    table = Table("name", "frames at", "language model", "fingerprint", "weights")
    for name in bundled_names():
        bundle = open_bundle(name)
        sizes = bundle.model
        weights = f"untrained (seed {bundle.seed})" if bundle.seed is not None else "trained"
        language = f"{sizes.language.num_layers} layers, {sizes.language.hidden_size} wide"
        table.add_row(name, f"{sizes.sam2.image_size} px", language, bundle.fingerprint, weights)
    console.print(table)
    console.print("Also: the folder, bucket uri or hub id of a bundle, or of a checkpoint in the published layout.")


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="Published weights or a bundle: a folder, a bucket uri or a hub id.")],
    output: Annotated[str, typer.Argument(help="New local folder.")],
    clip: Annotated[str | None, typer.Option(help="The pre-sampling CLIP; default: the source's folder clip.")] = None,
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter to merge; default: the source's own.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; default: as stored.")] = None,
    name: Annotated[str | None, typer.Option(help="The bundle's name; default: that of the folder.")] = None,
    date: Annotated[str | None, typer.Option(help="Date to note, YYYY-MM-DD; default: none.")] = None,
) -> None:
    """Write weights as one bundle of safetensors with sizes, checksums and provenance."""
    from vrshq.pipelines.models.convert import convert as run_convert

    done = run_convert(source, output, clip=clip, adapter=adapter, dtype=dtype, name=name, date=date)
    size = f"{done.tensors} tensors, {done.nbytes / 1e9:.2f} GB, fingerprint {done.bundle.fingerprint}"
    console.print(f"{output}: {size}; use it with --model {output}", markup=False, highlight=False)


@app.command()
def publish(
    source: Annotated[str, typer.Argument(help="A bundle or published weights: a folder, a bucket uri or a hub id.")],
    output: Annotated[str, typer.Argument(help="New local folder.")],
    adapter: Annotated[str | None, typer.Option(help="LoRA adapter to merge; default: the source's own.")] = None,
    dtype: Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; default: as stored.")] = None,
) -> None:
    """Write weights in the layout of the published ones."""
    from vrshq.pipelines.models.publish import publish as run_publish

    done = run_publish(source, output, adapter=adapter, dtype=dtype)
    console.print(f"{output}: {done.tensors} tensors, {done.nbytes / 1e9:.2f} GB", markup=False, highlight=False)


@app.command()
def report(
    run: Annotated[str, typer.Argument(help="Run directory.")],
    output: Annotated[str | None, typer.Option(help="Where to write; default: into the run directory.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="At most this many contact sheets.")] = 200,
) -> None:
    """Draw a contact sheet per instruction and one page that shows them all."""
    from vrshq.pipelines.report.run import write_report

    for path in write_report(run, output, limit=limit):
        console.print(path, markup=False, highlight=False)


@app.command()
def export(
    run: Annotated[str, typer.Argument(help="Run directory.")],
    format_: Annotated[str, typer.Option("--format", help="A wrong one lists them.")],
    output: Annotated[str, typer.Option("--output", help="New local folder.")],
) -> None:
    """Write a run's masks in the formats of other tools and of the benchmarks' servers."""
    from vrshq.pipelines.export.run import export as run_export

    summary = run_export(run, format_, output)
    for line in summary.lines():
        console.print(line, markup=False, highlight=False)
    console.print(f"{format_} in {output}; details in its export.json", markup=False, highlight=False)
    if summary.unfinished:
        raise typer.Exit(INCOMPLETE)


@app.command()
def evaluate(
    dataset: Annotated[str, typer.Argument(help="The benchmark's name, such as revos; a wrong one lists them.")],
    root: Annotated[str, typer.Option("--root", help="The data set's folder.")],
    output: Annotated[str | None, typer.Option("--output", help="Where the scores go, and the run of --model.")] = None,
    model: Model = None,
    predictions: Annotated[
        str | None, typer.Option(help="Score these: a run, a folder of PNG files, or a results.json.")
    ] = None,
    split: Annotated[str | None, typer.Option(help="Default: the one that is evaluated.")] = None,
    folder: Annotated[
        list[str] | None, typer.Option(help="A name inside the root: frames=, metadata= or masks=NAME. Repeatable.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Only report what is inconsistent in the data set.")] = False,
    config: Config = None,
    set_: Set = None,
    address: Address = None,
    ray: Annotated[bool, typer.Option(help="Work on Ray, or in this process alone.")] = True,
) -> None:
    """Label a benchmark, or take predictions, and compute the published protocol's numbers."""
    from vrshq.pipelines.cli.evaluations import run_check, run_evaluate

    if check:
        raise typer.Exit(DONE if run_check(console, dataset, root, split, folder or []) else USER_ERROR)
    if output is None or (model is not None and predictions is not None):
        raise SettingsError(
            "vrshq evaluate: expected --output RUN and one of --model and --predictions, or --check alone"
        )
    complete = run_evaluate(
        console,
        dataset,
        root,
        output,
        load_settings(config, set_ or [], model=model),
        predictions=predictions,
        split=split,
        names=folder or [],
        address=address,
        use_ray=ray,
    )
    if not complete:
        raise typer.Exit(INCOMPLETE)


@app.command()
def ablate(
    dataset: Annotated[str, typer.Argument(help="The benchmark's name, such as revos; a wrong one lists them.")],
    root: Annotated[str, typer.Option("--root", help="The data set's folder.")],
    output: Annotated[str, typer.Option("--output", help="Where the runs and the page go.")],
    vary: Annotated[
        list[str], typer.Option("--vary", help="Values of one setting, e.g. keyframe.method=first,middle. Repeatable.")
    ],
    model: Model = None,
    split: Annotated[str | None, typer.Option(help="Default: the one that is evaluated.")] = None,
    folder: Annotated[
        list[str] | None, typer.Option(help="A name inside the root: frames=, metadata= or masks=NAME. Repeatable.")
    ] = None,
    config: Config = None,
    set_: Set = None,
    address: Address = None,
    ray: Annotated[bool, typer.Option(help="Work on Ray, or in this process alone.")] = True,
) -> None:
    """Evaluate a benchmark under several settings, one changed at a time, and compare each with the base."""
    from vrshq.pipelines.cli.evaluations import run_ablate
    from vrshq.pipelines.evaluate.ablate import read_variants

    variants = read_variants(vary, config, set_ or [], model=model)
    complete = run_ablate(
        console, dataset, root, output, variants, split=split, names=folder or [], address=address, use_ray=ray
    )
    if not complete:
        raise typer.Exit(INCOMPLETE)


@app.command()
def compare(
    first: Annotated[str, typer.Argument(help="Folder with the scores of one evaluation.")],
    second: Annotated[str, typer.Argument(help="Folder with the scores of another one of the same data set.")],
    output: Annotated[
        str | None, typer.Option(help="Folder for comparison.json, .md and .html; default: none.")
    ] = None,
) -> None:
    """Compare two evaluations: paired differences with intervals, and the expressions that changed most."""
    from vrshq.pipelines.cli.evaluations import run_compare

    run_compare(console, first, second, output)


@app.command()
def synth(
    output: Annotated[
        str,
        typer.Argument(metavar="OUT", help="New or empty folder, local or in a bucket, or that of the same command."),
    ],
    videos: Annotated[int, typer.Option("--videos", help="How many videos.")],
    seed: Annotated[int, typer.Option("--seed", help="The same seed gives the same bytes.")] = 0,
    split: Annotated[
        str | None, typer.Option(help="All for one of train, valid, test, test_unseen; default: 70, 10, 10, 10 %.")
    ] = None,
    form: Annotated[str, typer.Option("--format", help="jpeg (folders of frames), mp4, or both.")] = "both",
    config: Config = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, e.g. frames=[8, 16].")] = None,
    address: Address = None,
) -> None:
    """Make synthetic videos with instructions and exact masks, in ReVOS's layout."""
    from vrshq.pipelines.synth.run import load_config
    from vrshq.pipelines.synth.run import synth as run_synth

    settings = load_config(config, set_ or [])
    console.print(f"{videos} videos of seed {seed} into {output}", markup=False, highlight=False)
    done = run_synth(output, videos=videos, seed=seed, split=split, form=form, config=settings, address=address)
    made = ", ".join(f"{count} {name}" for name, count in done.videos.items())
    kinds = ", ".join(f"{count} {name}" for name, count in done.kinds.items())
    console.print(f"{made}; instructions: {kinds}; checksum {done.checksum}", markup=False, highlight=False)


@app.command()
def train(
    config: Annotated[str, typer.Option("--config", help="YAML file, such as pipelines/train/configs/tiny.yaml.")],
    output: Annotated[str, typer.Option("--output", help="Folder of the run, local or in a bucket.")],
    set_: Annotated[list[str] | None, typer.Option("--set", help="One setting, e.g. stages.0.steps=100.")] = None,
    address: Address = None,
) -> None:
    """Train a model in stages; the same line again continues where it was stopped."""
    from vrshq.pipelines.train.run import train as run_train
    from vrshq.pipelines.train.settings import load_train_settings

    settings = load_train_settings(config, set_ or [])
    for stage in settings.stages:
        work = f"{stage.steps} steps of {stage.batch} samples of {', '.join(stage.data)}"
        console.print(f"{stage.name}: {work}; trains {', '.join(stage.trained)}", markup=False, highlight=False)

    def on_log(stage: str, step: int, row: dict[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in row.items() if name != "step")
        console.print(f"{stage} {step}: {shown}", markup=False, highlight=False)

    bundle = run_train(settings, output, address=address, on_log=on_log)
    console.print(f"{bundle}: use it with --model {bundle}", markup=False, highlight=False)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def submit(
    context: typer.Context,
    address: Annotated[str, typer.Option("--address", help="The cluster's job server, e.g. http://head:8265.")],
    working_dir: Annotated[
        str | None, typer.Option(help="Folder to ship to the cluster; default: none, vrshq is installed there.")
    ] = None,
    follow: Annotated[bool, typer.Option(help="Follow the job's log and end with its exit code.")] = True,
) -> None:
    """Run the same command line as a Ray job: vrshq submit --address URL -- label ..."""
    from vrshq.cluster.ray.jobs import submit as submit_job

    if not context.args:
        raise SettingsError(
            "vrshq submit: no command given; expected for example: vrshq submit --address URL -- label ..."
        )
    runtime_env = {"working_dir": working_dir} if working_dir else {}
    raise typer.Exit(submit_job(address, ["vrshq", *context.args], runtime_env=runtime_env, follow=follow))


def main() -> None:
    """Entry point: a user's mistake ends in one line and exit code 1, not in a traceback."""
    try:
        code = app(sys.argv[1:] or ["--help"], prog_name="vrshq", standalone_mode=False)
    except USER_ERRORS as error:
        message = str(error)
    except USAGE_ERROR as error:
        message = error.format_message()  # type: ignore[attr-defined]
    except typer.Abort:
        sys.exit(130)
    else:
        sys.exit(code or DONE)
    print(f"error: {message}", file=sys.stderr)
    sys.exit(USER_ERROR)

"""The arguments and options that several commands share."""

from __future__ import annotations

from typing import Annotated

import typer

Instructions = Annotated[
    str,
    typer.Argument(
        help="Table with the columns video_uri, instruction_id, text: Parquet, JSONL, JSON, CSV or TSV, a folder of parts, "
        "or a quoted pattern."
    ),
]
Output = Annotated[str, typer.Option("--output", help="Run directory, local or in a bucket.")]
Run = Annotated[str, typer.Argument(help="Run directory.")]
Videos = Annotated[
    str | None, typer.Option("--videos", help="Root of relative video_uris; default: the table's folder.")
]
Model = Annotated[
    str | None, typer.Option("--model", help="A name of `vrshq models`, a folder, a bucket uri, or a hub id.")
]
Weights = Annotated[str, typer.Argument(help="Published weights or a bundle: a folder, a bucket uri or a hub id.")]
NewFolder = Annotated[str, typer.Argument(help="New local folder.")]
Adapter = Annotated[str | None, typer.Option(help="LoRA adapter to merge; default: the source's own.")]
Dtype = Annotated[str | None, typer.Option(help="float32, float16 or bfloat16; default: the stored type.")]
Dataset = Annotated[
    str, typer.Argument(help="The benchmark's name, such as revos; an unknown name lists the known ones.")
]
Root = Annotated[str, typer.Option("--root", help="The data set's folder.")]
Split = Annotated[str | None, typer.Option(help="Default: the split that the benchmark evaluates.")]
Folder = Annotated[
    list[str] | None,
    typer.Option(help="A name inside the root: frames=NAME, metadata=NAME or masks=NAME. Repeatable."),
]
Config = Annotated[str | None, typer.Option("--config", help="YAML file of settings.")]
Set = Annotated[list[str] | None, typer.Option("--set", help="One setting, e.g. keyframe.method=first. Repeatable.")]
Grow = Annotated[
    bool,
    typer.Option("--grow", help="Add the rows that the table has and the run does not; its own must be unchanged."),
]
Address = Annotated[str | None, typer.Option("--address", help="Ray cluster; default: RAY_ADDRESS, else this machine.")]
MaxErrorRate = Annotated[
    float,
    typer.Option(
        "--max-error-rate", min=0.0, max=1.0, help="Exit code 3 when a larger share of the run's instructions fails."
    ),
]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Run units with error rows again.")]
UseRay = Annotated[bool, typer.Option("--ray/--no-ray", help="Work on Ray, or in this process alone.")]

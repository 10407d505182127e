"""The arguments and options that several commands share.

Placeholders in help: URI is a local path or an address in a bucket, FOLDER is a local one that is new or empty, FILE is a
local file, NAME and TEXT are words.
"""

from __future__ import annotations

from typing import Annotated

import typer

from vrshq.pipelines.label.tables.reviews import Outcome

Instructions = Annotated[
    str,
    typer.Argument(
        metavar="TABLE",
        help="Table with the columns video_uri, instruction_id, text: Parquet, JSONL, JSON, CSV or TSV, a folder of parts, "
        "or a quoted pattern.",
    ),
]
Output = Annotated[str, typer.Option("--output", metavar="RUN", help="Run directory, local or in a bucket.")]
Run = Annotated[str, typer.Argument(metavar="RUN", help="Run directory, local or in a bucket.")]
Videos = Annotated[
    str | None,
    typer.Option("--videos", metavar="URI", help="Root of relative video_uris; default: the table's folder."),
]
MovedVideos = Annotated[
    str | None,
    typer.Option("--videos", metavar="URI", help="Folder where the videos lie now; default: where the run found them."),
]
Model = Annotated[
    str | None,
    typer.Option("--model", metavar="MODEL", help="A name of `vrshq models`, a folder, a bucket uri, or a hub id."),
]
Weights = Annotated[
    str, typer.Argument(metavar="SOURCE", help="Published weights or a bundle: a folder, a bucket uri or a hub id.")
]
NewFolder = Annotated[str, typer.Argument(metavar="FOLDER", help="New local folder.")]
Adapter = Annotated[str | None, typer.Option(metavar="URI", help="LoRA adapter to merge; default: the source's own.")]
Dtype = Annotated[
    str | None, typer.Option(metavar="TYPE", help="float32, float16 or bfloat16; default: the stored type.")
]
Dataset = Annotated[
    str,
    typer.Argument(
        metavar="DATASET",
        help="revos, mevis, mevis-v2, ref-youtube-vos (or refytvos), ref-davis17 (davis), ref-davis17-official, reasonvos, "
        "long-rvos, lvvis or png-tree.",
    ),
]
Root = Annotated[str, typer.Option("--root", metavar="URI", help="The data set's folder, local or in a bucket.")]
Split = Annotated[str | None, typer.Option(metavar="NAME", help="Default: the split that the benchmark evaluates.")]
Folder = Annotated[
    list[str] | None,
    typer.Option(metavar="KIND=NAME", help="A name inside the root: frames=, metadata= or masks=NAME. Repeatable."),
]
Config = Annotated[
    str | None, typer.Option("--config", metavar="URI", help="YAML file of settings; `vrshq settings` explains them.")
]
Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="One setting, e.g. keyframe.method=first. Repeatable."),
]
On = Annotated[
    list[str] | None,
    typer.Option(
        "--on", metavar="GPUS", help="Plan for GPUs that are not here: 1xRTX4090-24GB, 8xH100-80GB, ... Repeatable."
    ),
]
Grow = Annotated[
    bool,
    typer.Option("--grow", help="Add the rows that the table has and the run does not; its own must be unchanged."),
]
Address = Annotated[
    str | None,
    typer.Option(
        "--address", metavar="HOST:PORT", help="Ray cluster, or auto; default: RAY_ADDRESS, else this machine."
    ),
]
MaxErrorRate = Annotated[
    float,
    typer.Option(
        "--max-error-rate",
        metavar="SHARE",
        min=0.0,
        max=1.0,
        help="Exit code 3 when a larger share of the run's instructions fails, 0 to 1.",
    ),
]
RetryErrors = Annotated[bool, typer.Option("--retry-errors", help="Run units with error rows again.")]
Only = Annotated[
    Outcome | None,
    typer.Option(
        "--only", metavar="OUTCOME", help="Those alone that people judged so: accepted, rejected, unsure, unjudged."
    ),
]
Without = Annotated[
    Outcome | None, typer.Option("--not", metavar="OUTCOME", help="All but those that people judged so, e.g. rejected.")
]
UseRay = Annotated[bool, typer.Option("--ray/--no-ray", help="Work on Ray, or in this process alone.")]

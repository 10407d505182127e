"""`vrshq models`, `vrshq convert`, `vrshq publish`."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.table import Table

from vrshq.pipelines.cli.options import Adapter, Dtype, NewFolder, Weights
from vrshq.pipelines.cli.terminal import console, say


def models(
    full: Annotated[bool, typer.Option("--full", help="Print every value whole, a model a block.")] = False,
) -> None:
    """List the models inside the package."""
    from vrshq.operators.models.bundle import bundled_names, open_bundle

    heads = ("name", "frames at", "language model", "fingerprint", "weights")
    table = Table(*heads)
    for name in bundled_names():
        bundle = open_bundle(name)
        sizes = bundle.model
        weights = f"untrained (seed {bundle.seed})" if bundle.seed is not None else "trained"
        language = f"{sizes.language.num_layers} layers, {sizes.language.hidden_size} wide"
        row = (name, f"{sizes.sam2.image_size} px", language, bundle.fingerprint, weights)
        if full:
            for head, value in zip(heads, row, strict=True):
                say(f"{head}: {value}")
            say("")
        table.add_row(*row)
    if not full:
        console.print(table)
    console.print("Also: the folder, bucket uri or hub id of a bundle, or of a checkpoint in the published layout.")


def convert(
    source: Weights,
    output: NewFolder,
    clip: Annotated[
        str | None, typer.Option(metavar="URI", help="The pre-sampling CLIP; default: the source's folder clip.")
    ] = None,
    adapter: Adapter = None,
    dtype: Dtype = None,
    name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The bundle's name; default: that of the folder.")
    ] = None,
    date: Annotated[str | None, typer.Option(metavar="DATE", help="Date to note, YYYY-MM-DD; default: none.")] = None,
) -> None:
    """Write weights as one bundle of safetensors with sizes, checksums and provenance."""
    from vrshq.pipelines.models.convert import convert as run_convert

    done = run_convert(source, output, clip=clip, adapter=adapter, dtype=dtype, name=name, date=date)
    size = f"{done.tensors} tensors, {done.nbytes / 1e9:.2f} GB, fingerprint {done.bundle.fingerprint}"
    say(f"{output}: {size}; use it with --model {output}")


def publish(source: Weights, output: NewFolder, adapter: Adapter = None, dtype: Dtype = None) -> None:
    """Write weights in the layout of the published ones."""
    from vrshq.pipelines.models.publish import publish as run_publish

    done = run_publish(source, output, adapter=adapter, dtype=dtype)
    say(f"{output}: {done.tensors} tensors, {done.nbytes / 1e9:.2f} GB")

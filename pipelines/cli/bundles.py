"""`vrshq models`, `vrshq convert`, `vrshq publish`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from vrshq.pipelines.cli.options import Adapter, Dtype, NewFolder, Weights
from vrshq.pipelines.cli.terminal import console, say

if TYPE_CHECKING:
    from vrshq.pipelines.models.known import KnownModel


def models(
    full: Annotated[bool, typer.Option("--full", help="Print every value whole, a model a block.")] = False,
) -> None:
    """List the models that have a name: what they need, their licence, and what was proven of them."""
    from vrshq.pipelines.models.known import human_bytes, known_models

    narrow = {"box": None, "padding": (0, 2, 0, 0)}
    heads = [Column(head, no_wrap=head != "licence") for head in ("name", "family", "numbers", "licence", "download")]
    table = Table(*heads, Column("bfloat16 (float32)", no_wrap=True), **narrow)  # type: ignore[arg-type]
    for model in known_models().values():
        if full:
            _say_whole(model)
            continue
        half, whole = (human_bytes(model.memory[dtype]) for dtype in ("bfloat16", "float32"))
        download = human_bytes(model.download) if model.hub else "built in"
        parameters = f"{model.parameters / 1e9:.2f} B" if model.parameters >= 1e9 else f"{model.parameters / 1e6:.1f} M"
        table.add_row(model.name, model.family, parameters, model.licences, download, f"{half} ({whole})")
    if not full:
        console.print(table)
        say("\nproven here:")
        for model in known_models().values():
            say(f"  {model.name}: {model.proven}")
        say("")
    console.print("Also: the folder, bucket uri or hub id of a bundle, or of a checkpoint in the published layout.")


def _say_whole(model: KnownModel) -> None:
    """Prints every value of a known model as a block."""
    from vrshq.operators.models.bundle import bundled_names, open_bundle
    from vrshq.pipelines.models.known import human_bytes

    values = {"name": model.name, "family": model.family, "parameters": f"{model.parameters:,}"}
    if model.hub:
        values |= {"hub": model.hub}
    for place, one in model.companions.items():
        needed = f"with {one.optional} alone" if one.optional else "always"
        values |= {f"companion {place}": f"{one.hub}, licence {one.licence}, needed {needed}"}
    values |= {"licence": model.licences}
    if model.hub:
        values |= {"download": f"about {human_bytes(model.download)}: {model.derived}"}
    values |= {f"memory in {dtype}": f"{human_bytes(size)} of weights" for dtype, size in model.memory.items()}
    values |= {"proven here": model.proven}
    if model.name in bundled_names():
        bundle = open_bundle(model.name)
        sizes = bundle.model
        values |= {
            "frames at": f"{sizes.sam2.image_size} px",
            "language model": f"{sizes.language.num_layers} layers, {sizes.language.hidden_size} wide",
            "fingerprint": bundle.fingerprint,
            "weights": f"untrained (seed {bundle.seed})" if bundle.seed is not None else "trained",
        }
    for head, value in values.items():
        say(f"{head}: {value}")
    say("")


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

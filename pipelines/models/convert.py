"""`vrshq convert`: converts published weights into a bundle of safetensors with sizes, checksums and provenance.

open the source -> names and shapes -> sizes -> write files of at most 4 GB, tensor by tensor -> bundle.json -> open the new
bundle as a check -> rename it.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from datetime import date as calendar_date
from importlib.metadata import version
from pathlib import Path

import torch

from vrshq.operators.models.bundle import DESCRIPTION, FORMAT, Bundle, CheckpointError, open_bundle
from vrshq.operators.models.presence import copy_head
from vrshq.operators.models.vrs_hq.checkpoint import DERIVED, Checkpoint, open_checkpoint, split_name
from vrshq.operators.models.weights import SAFETENSORS_TYPES, write_safetensors
from vrshq.pipelines.models.locate import local_model
from vrshq.pipelines.models.writing import (
    WrittenModel,
    appearing_whole,
    checked_dtype,
    new_folder,
    tokenizer_files,
    verified,
)

LICENCE = (
    "Converted from the weights named under provenance, whose licences stay in force: those of VRS-HQ and of what it is built "
    "from (Chat-UniVi and the LLaMA weights below it, CLIP, SAM 2). The conversion adds no terms. Read them before passing "
    "this folder on."
)
SHARD_BYTES = 4 * 10**9
INDEX = "model.safetensors.index.json"


def convert(
    source: str,
    output: str,
    *,
    clip: str | None = None,
    adapter: str | None = None,
    dtype: str | None = None,
    name: str | None = None,
    date: str | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> WrittenModel:
    """Writes a bundle for `--model`. The same arguments give the same bytes.

    One tensor at a time is in memory. An adapter is merged. Tensors that are computed at load (rotary tables) are left out. The
    LM head is kept for training; masks do not need it.

    Args:
        source: local folder, bucket uri or hub id of weights in the published layout, or of a bundle.
        output: local folder that does not exist yet, or is empty.
        clip: folder, uri or hub id of the pre-sampling CLIP; default: the folder `clip` of the source.
        adapter: folder, uri or hub id of a LoRA adapter; default: the source's own, if it has one.
        dtype: type of all tensors: float32, float16 or bfloat16; default: the stored types.
        name: the bundle's name; default: the name of the output folder.
        date: YYYY-MM-DD, noted under provenance; default: none, so that a repetition gives the same bytes.
        shard_bytes: the largest size of a file, unless one tensor is larger.

    Raises:
        CheckpointError: the source is incomplete, its sizes cannot be found, or an argument cannot be used.
        StorageError: a bucket cannot be read.
    """
    target = new_folder(output)
    kind = checked_dtype(dtype)
    opened = open_bundle(
        local_model(source, "SOURCE"),
        clip=Path(local_model(clip, "--clip")) if clip else None,
        adapter=Path(local_model(adapter, "--adapter")) if adapter else None,
    )
    checkpoint, model = verified(opened, source)
    provenance = {
        "source": source,
        **({"clip": clip} if clip else {}),
        **({"adapter": adapter or "the source's own"} if opened.adapter else {}),
        "dtype": dtype or "as stored",
        **({"date": _checked_date(date)} if date else {}),
        "versions": {package: version(package) for package in ("vrshq", "torch", "safetensors", "transformers")},
    }
    with appearing_whole(target) as folder:
        checksums, tensors, nbytes = _write_weights(checkpoint, folder, kind, shard_bytes)
        weights = list(checksums)
        for item, path in tokenizer_files(opened).items():
            (folder / item).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / item)
            checksums[item] = hashlib.sha256((folder / item).read_bytes()).hexdigest()
        checksums |= copy_head(opened, folder)
        description = {
            "format": FORMAT,
            "name": name or target.name,
            "licence": LICENCE,
            "provenance": provenance,
            "weights": weights,
            "sha256": checksums,
            **({"presence": opened.presence} if opened.presence else {}),
            "model": model.to_dict(),
        }
        (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
        _try_out(open_bundle(str(folder)))
    return WrittenModel(open_bundle(str(target)), tensors, nbytes)


def _checked_date(date: str) -> str:
    try:
        return calendar_date.fromisoformat(date).isoformat()
    except ValueError as error:
        raise CheckpointError(f"--date {date}: expected YYYY-MM-DD") from error


def _try_out(bundle: Bundle) -> None:
    """Opens a new bundle and its tokenizers, and checks all tensors' names and shapes, without reading the tensors."""
    open_checkpoint(bundle).check(bundle.model)
    bundle.prompt_tokenizer()
    bundle.clip_tokenizer()


def _write_weights(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None, shard_bytes: int
) -> tuple[dict[str, str], int, int]:
    """Writes the weights; returns the sha256 of each file, the number of tensors, and their size in bytes."""
    contents = {
        name: (dtype or tensor.dtype, tuple(tensor.shape))
        for name, tensor in checkpoint.tensors.items()
        if not name.endswith(tuple(DERIVED))
    }
    for name, (kind, _) in contents.items():
        if kind not in SAFETENSORS_TYPES:
            raise CheckpointError(f"{name}: type {kind}, which a bundle does not hold; give --dtype")

    def read(name: str) -> torch.Tensor:
        tensor = checkpoint.read(name, dtype=dtype)
        if dtype == torch.float16 and tensor.isinf().any():
            raise CheckpointError(f"{name}: it has values beyond float16's range; give --dtype bfloat16")
        return tensor

    groups = _split(contents, shard_bytes)
    checksums = {}
    for number, names in enumerate(groups, start=1):
        file = "model.safetensors" if len(groups) == 1 else f"model-{number:05d}-of-{len(groups):05d}.safetensors"
        checksums[file] = write_safetensors(folder / file, {name: contents[name] for name in names}, read)
    if len(groups) > 1:  # so that an actor fetches only the files of the parts that it uses
        files = {name: file for names, file in zip(groups, checksums, strict=True) for name in names}
        index = {"metadata": {"total_size": sum(map(_nbytes, contents.values()))}, "weight_map": files}
        (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return checksums, len(contents), sum(map(_nbytes, contents.values()))


def _nbytes(content: tuple[torch.dtype, tuple[int, ...]]) -> int:
    dtype, shape = content
    return torch.Size(shape).numel() * dtype.itemsize


def _split(contents: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], shard_bytes: int) -> list[list[str]]:
    """The tensor names of each file: one file if all fit, else files of one part of the model each."""
    if sum(map(_nbytes, contents.values())) <= shard_bytes:
        return [list(contents)]
    groups: list[list[str]] = []
    for wanted in ("language", "segmenter", "clip"):
        room = 0
        for name, content in contents.items():
            target = split_name(name)
            # the LM head belongs to no part; it is stored with the LLaMA
            if ("language" if isinstance(target, str) else target[0]) != wanted:
                continue
            if _nbytes(content) > room:
                groups.append([])
                room = max(shard_bytes, _nbytes(content))
            groups[-1].append(name)
            room -= _nbytes(content)
    return groups

"""The steps that `vrshq convert` and `vrshq publish` share: checks of the source, and a new folder that appears whole."""

from __future__ import annotations

import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

from vrshq.cluster.storage.uris import is_remote, local_path
from vrshq.operators.models.bundle import DESCRIPTION, Bundle, CheckpointError
from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.vrs_hq.checkpoint import Checkpoint, open_checkpoint
from vrshq.pipelines.models.sizes import derive_sizes

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CLIP_TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")


@dataclass(frozen=True)
class WrittenModel:
    """A model that was written to a folder.

    Attributes:
        bundle: the folder, opened.
        tensors: number of tensors.
        nbytes: size of all tensors, in bytes.
    """

    bundle: Bundle
    tensors: int
    nbytes: int


def verified(opened: Bundle, source: str) -> tuple[Checkpoint, ModelConfig]:
    """The mapped tensors and the sizes of a model, after a check of its files and shapes.

    Args:
        opened: the model.
        source: name of the model in error messages.

    Raises:
        CheckpointError: the model has no weights, a file is damaged, or a shape does not fit.
    """
    if opened.seed is not None:
        raise CheckpointError(f"{source}: it has no weights to convert (untrained, seed {opened.seed})")
    opened.verify([*opened.shards, *tokenizer_files(opened).values()])
    checkpoint = open_checkpoint(opened)
    model = opened.model
    if not (opened.folder / DESCRIPTION).exists():
        shapes = {item: tuple(tensor.shape) for item, tensor in checkpoint.tensors.items()}
        model = derive_sizes(opened.folder, opened.clip, shapes)
    checkpoint.check(model)
    return checkpoint, model


def tokenizer_files(bundle: Bundle) -> dict[str, Path]:
    """Maps name in a new bundle -> file, for the tokenizer files that the bundle has."""
    files = {"tokenizer.model": bundle.folder / "tokenizer.model"}
    files |= {f"clip/{name}": bundle.clip / name for name in CLIP_TOKENIZER}
    return {name: path for name, path in files.items() if path.exists()}


def checked_dtype(dtype: str | None) -> torch.dtype | None:
    """The torch dtype of a `--dtype`; None keeps the stored types.

    Raises:
        CheckpointError: the name is unknown.
    """
    if dtype is not None and dtype not in DTYPES:
        raise CheckpointError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    return DTYPES[dtype] if dtype else None


def new_folder(output: str) -> Path:
    """The absolute path of an `OUTPUT`.

    Raises:
        CheckpointError: it is in a bucket, or it exists and is not an empty folder.
    """
    if is_remote(output):
        raise CheckpointError(
            f"OUTPUT {output}: expected a local folder; copy the finished bundle to the bucket from there"
        )
    target = local_path(output)
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CheckpointError(f"OUTPUT {output}: exists already; give a new folder")
    return target


@contextmanager
def appearing_whole(target: Path) -> Iterator[Path]:
    """A folder to write into, beside `target`. It is renamed to `target` if the block succeeds, else removed.

    Raises:
        CheckpointError: the folder cannot be written.
    """
    partial = target.parent / f".{target.name}.{secrets.token_hex(8)}.partial"
    try:
        partial.mkdir(parents=True)
        yield partial
        if target.exists():
            target.rmdir()  # empty, see new_folder
        partial.rename(target)
    except OSError as error:
        raise CheckpointError(f"OUTPUT {target}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)

"""`vrshq convert`: from published weights to one bundle of safetensors, with its sizes, checksums and provenance.

source -> names and shapes -> sizes -> files of at most 4 GB, tensor by tensor -> bundle.json -> opened once, then in place.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from datetime import date as calendar_date
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

import torch
from transformers import CLIPConfig as HfClipConfig

from vrshq.cluster.storage.uris import is_remote
from vrshq.operators.models.bundle import DESCRIPTION, FORMAT, Bundle, CheckpointError, open_bundle, read_json
from vrshq.operators.models.config import (
    ClipConfig,
    ClipTextConfig,
    ClusteringConfig,
    LanguageConfig,
    ModelConfig,
    Sam2Config,
    TowerConfig,
    VisionConfig,
)
from vrshq.operators.models.weights import (
    DERIVED,
    SAFETENSORS_TYPES,
    Checkpoint,
    open_checkpoint,
    place,
    write_safetensors,
)
from vrshq.pipelines.models.locate import local_model

LICENCE = (
    "Converted from the weights named under provenance, whose licences stay in force: those of VRS-HQ and of what it is built "
    "from (Chat-UniVi and the LLaMA weights below it, CLIP, SAM 2). The conversion adds no terms. Read them before passing "
    "this folder on."
)
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CLIP_TOKENIZER = ("vocab.json", "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "tokenizer.json")
SHARD_BYTES = 4 * 10**9
Config = TypeVar("Config", LanguageConfig, TowerConfig, ClipTextConfig, Sam2Config)
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Converted:
    """What was written: the opened bundle, the number of its tensors, and their bytes."""

    bundle: Bundle
    tensors: int
    nbytes: int


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
) -> Converted:
    """Writes a bundle that `--model` takes. The same arguments give the same bytes.

    Holds one tensor at a time. An adapter is merged; what is computed anyway (rotary tables) is left out, and the unused LM
    head kept for training.

    Args:
        source: local folder, bucket uri or hub id of weights in the published layout, or of a bundle.
        output: local folder that does not exist yet, or is empty.
        clip: folder, uri or hub id of the pre-sampling CLIP; default: the folder `clip` of the source.
        adapter: folder, uri or hub id of a LoRA adapter; default: the source's own, if it has one.
        dtype: of all tensors: float32, float16 or bfloat16; default: as stored.
        name: the bundle's name; default: the name of the output folder.
        date: noted under provenance, as YYYY-MM-DD; default: none, so that a repetition gives the same bytes.
        shard_bytes: the largest size of a file, unless one tensor is larger.

    Raises:
        CheckpointError: the source is no whole model, sizes cannot be found, or an argument cannot be used.
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
        for item, path in _tokenizers(opened).items():
            (folder / item).parent.mkdir(exist_ok=True)
            shutil.copyfile(path, folder / item)
            checksums[item] = hashlib.sha256((folder / item).read_bytes()).hexdigest()
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
    return Converted(open_bundle(str(target)), tensors, nbytes)


def verified(opened: Bundle, source: str) -> tuple[Checkpoint, ModelConfig]:
    """The mapped tensors of a model whose files and shapes have been checked, and its sizes."""
    if opened.seed is not None:
        raise CheckpointError(f"{source}: it has no weights to convert (untrained, seed {opened.seed})")
    opened.verify([*opened.shards, *_tokenizers(opened).values()])
    checkpoint = open_checkpoint(opened)
    model = opened.model
    if not (opened.folder / DESCRIPTION).exists():
        shapes = {item: tuple(tensor.shape) for item, tensor in checkpoint.tensors.items()}
        model = derive_sizes(opened.folder, opened.clip, shapes)
    checkpoint.check(model)
    return checkpoint, model


def checked_dtype(dtype: str | None) -> torch.dtype | None:
    if dtype is not None and dtype not in DTYPES:
        raise CheckpointError(f"--dtype {dtype}: expected one of {', '.join(DTYPES)}")
    return DTYPES[dtype] if dtype else None


def new_folder(output: str) -> Path:
    if is_remote(output):
        raise CheckpointError(
            f"OUTPUT {output}: expected a local folder; copy the finished bundle to the bucket from there"
        )
    target = Path(output).absolute()
    if target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise CheckpointError(f"OUTPUT {output}: exists already; give a new folder")
    return target


def _checked_date(date: str) -> str:
    try:
        return calendar_date.fromisoformat(date).isoformat()
    except ValueError as error:
        raise CheckpointError(f"--date {date}: expected YYYY-MM-DD") from error


@contextmanager
def appearing_whole(target: Path) -> Iterator[Path]:
    """A folder to write into, beside `target`; it takes that name only when all went well."""
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


def _tokenizers(bundle: Bundle) -> dict[str, Path]:
    """Name in the new bundle -> file, of the tokenizer files that there are."""
    files = {"tokenizer.model": bundle.folder / "tokenizer.model"}
    files |= {f"clip/{name}": bundle.clip / name for name in CLIP_TOKENIZER}
    return {name: path for name, path in files.items() if path.exists()}


def _try_out(bundle: Bundle) -> None:
    """Opens everything of a new bundle short of reading its tensors."""
    open_checkpoint(bundle).check(bundle.model)
    bundle.prompt_tokenizer()
    bundle.clip_tokenizer()


def _write_weights(
    checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None, shard_bytes: int
) -> tuple[dict[str, str], int, int]:
    """Returns the sha256 of each file, the number of tensors, and their bytes."""
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
    return checksums, len(contents), sum(map(_nbytes, contents.values()))


def _nbytes(content: tuple[torch.dtype, tuple[int, ...]]) -> int:
    dtype, shape = content
    return torch.Size(shape).numel() * dtype.itemsize


def _split(contents: Mapping[str, tuple[torch.dtype, tuple[int, ...]]], shard_bytes: int) -> list[list[str]]:
    """The names of each file: one file if all fit, else none with two parts of the model, so that each reads its own only."""
    if sum(map(_nbytes, contents.values())) <= shard_bytes:
        return [list(contents)]
    groups: list[list[str]] = []
    for wanted in ("language", "segmenter", "clip"):
        room = 0
        for name, content in contents.items():
            target = place(name)
            # the LM head is of no part, and goes with the LLaMA
            if ("language" if isinstance(target, str) else target[0]) != wanted:
                continue
            if _nbytes(content) > room:
                groups.append([])
                room = max(shard_bytes, _nbytes(content))
            groups[-1].append(name)
            room -= _nbytes(content)
    return groups


def derive_sizes(folder: Path, clip: Path, shapes: Shapes) -> ModelConfig:
    """The sizes of a checkpoint in the published layout, from its shapes, config.json, added_tokens.json and the CLIP's config.

    What none of them tells (the tower's heads; SAM2's heads, windows and image size) has its full-size value if everything
    else of that network has.

    Args:
        folder, clip: where the checkpoint and the pre-sampling CLIP lie.
        shapes: name -> shape of all tensors.

    Raises:
        CheckpointError: a file or tensor that sizes come from is absent, or sizes remain open; names them.
    """
    unknown: list[str] = []
    settings = read_json(folder / "config.json")
    model = ModelConfig(
        language=_language_sizes(folder, settings, shapes, unknown),
        tower=_tower_sizes(shapes, unknown),
        clustering=_clustering_sizes(settings),
        clip=_clip_sizes(clip),
        sam2=_sam2_sizes(shapes, unknown),
    )
    if unknown:
        raise CheckpointError(
            f"{folder}: its files do not tell {', '.join(unknown)}; put a {DESCRIPTION} with format {FORMAT} and the whole "
            "model's sizes beside it (see `model` in that of untrained-tiny)"
        )
    return model


def _settle(
    section: str,
    full: Config,
    derived: dict[str, Any],
    given: dict[str, Any],
    needed: tuple[str, ...],
    unknown: list[str],
) -> Config:
    """Sizes from shapes (`derived`) and from files (`given`); adds to `unknown` what is `needed` and cannot be assumed."""
    if any(getattr(full, name) != value for name, value in derived.items()):
        unknown += [f"{section}.{name}" for name in needed if name not in given]
    return replace(full, **derived, **given)


def _shape(shapes: Shapes, name: str, dimensions: int) -> tuple[int, ...]:
    if name not in shapes:
        raise CheckpointError(f"missing tensor {name}: sizes are derived from it")
    if len(shapes[name]) != dimensions:
        raise CheckpointError(f"{name}: shape {shapes[name]}, expected {dimensions} dimensions")
    return shapes[name]


def _count(shapes: Shapes, prefix: str) -> int:
    """How many numbered layers there are under a prefix."""
    numbers = {match[1] for name in shapes if (match := re.match(re.escape(prefix) + r"(\d+)\.", name))}
    return len(numbers)


def _language_sizes(folder: Path, settings: dict[str, Any], shapes: Shapes, unknown: list[str]) -> LanguageConfig:
    if settings.get("rope_scaling"):
        raise CheckpointError(f"{folder / 'config.json'}: rope_scaling is not supported; expected null")
    vocabulary, width = _shape(shapes, "model.embed_tokens.weight", 2)
    derived = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": _shape(shapes, "model.layers.0.mlp.gate_proj.weight", 2)[0],
        "num_layers": _count(shapes, "model.layers."),
    }
    known = {
        "num_attention_heads": "num_heads",
        "num_key_value_heads": "num_key_value_heads",
        "rms_norm_eps": "rms_norm_eps",
        "rope_theta": "rope_theta",
        "max_position_embeddings": "max_positions",
    }
    given = {ours: settings[theirs] for theirs, ours in known.items() if settings.get(theirs) is not None}
    if "num_heads" in given:
        given.setdefault("num_key_value_heads", given["num_heads"])
    if (folder / "added_tokens.json").exists():
        added = read_json(folder / "added_tokens.json")
        tokens = {"[SEG]": "seg_token_id", "[TAK]": "tak_token_id"}
        given |= {ours: added[token] for token, ours in tokens.items() if token in added}
    needed = ("num_heads", "rms_norm_eps", "seg_token_id", "tak_token_id")
    return _settle("language", LanguageConfig(), derived, given, needed, unknown)


def _tower_sizes(shapes: Shapes, unknown: list[str]) -> TowerConfig:
    prefix = "model.vision_tower.vision_tower.vision_model."
    patch = _shape(shapes, f"{prefix}embeddings.patch_embedding.weight", 4)[-1]
    positions = _shape(shapes, f"{prefix}embeddings.position_embedding.weight", 2)[0]
    derived = {
        "hidden_size": _shape(shapes, f"{prefix}embeddings.class_embedding", 1)[0],
        "intermediate_size": _shape(shapes, f"{prefix}encoder.layers.0.mlp.fc1.weight", 2)[0],
        "num_layers": _count(shapes, f"{prefix}encoder.layers."),
        "patch_size": patch,
        "image_size": round((positions - 1) ** 0.5) * patch,
    }
    return _settle("tower", TowerConfig(), derived, {}, ("num_heads",), unknown)


def _clustering_sizes(settings: dict[str, Any]) -> ClusteringConfig:
    given = settings.get("config") or {}
    names = [f"spatial_cluster_rate{level}" for level in range(3)]
    if not all(isinstance(given.get(name), int) for name in names):
        return ClusteringConfig()
    return replace(ClusteringConfig(), clusters=tuple(given[name] for name in names))


def _clip_sizes(clip: Path) -> ClipConfig:
    read_json(clip / "config.json")  # an error that names the file, where it is absent or no JSON
    config = HfClipConfig.from_pretrained(clip, local_files_only=True)
    text, vision = config.text_config, config.vision_config
    for part in (text, vision):
        if part.hidden_act != "quick_gelu":
            raise CheckpointError(
                f"{clip / 'config.json'}: hidden_act {part.hidden_act}, expected quick_gelu (OpenAI's CLIP)"
            )
    names = {
        "num_layers": "num_hidden_layers",
        "num_heads": "num_attention_heads",
        "max_positions": "max_position_embeddings",
    }

    def sizes(kind: type[VisionConfig] | type[ClipTextConfig], values: Any) -> dict[str, Any]:
        return {item.name: getattr(values, names.get(item.name, item.name)) for item in fields(kind)}

    return ClipConfig(
        projection_dim=config.projection_dim,
        text=ClipTextConfig(**sizes(ClipTextConfig, text)),
        vision=VisionConfig(**sizes(VisionConfig, vision)),
    )


def _sam2_sizes(shapes: Shapes, unknown: list[str]) -> Sam2Config:
    prefix = "model.visual_model."
    trunk = f"{prefix}image_encoder.trunk."
    _, embed_dim, *background = _shape(shapes, f"{trunk}pos_embed", 4)
    window = _shape(shapes, f"{trunk}pos_embed_window", 4)[-1]
    widths = [
        _shape(shapes, f"{trunk}blocks.{block}.attn.proj.weight", 2)[0]
        for block in range(_count(shapes, f"{trunk}blocks."))
    ]
    num_maskmem, _, _, memory_dim = _shape(shapes, f"{prefix}maskmem_tpos_enc", 4)
    derived = {
        "d_model": _shape(shapes, f"{prefix}no_mem_embed", 3)[-1],
        "memory_dim": memory_dim,
        "num_maskmem": num_maskmem,
        "embed_dim": embed_dim,
        # blocks double their width at the start of each stage
        "stages": tuple(widths.count(width) for width in sorted(set(widths))),
        "window_pos_embed_bkg_spatial_size": tuple(background),
        "memory_attention_layers": _count(shapes, f"{prefix}memory_attention.layers."),
        "memory_attention_dim_feedforward": _shape(shapes, f"{prefix}memory_attention.layers.0.linear1.weight", 2)[0],
        "decoder_dim_feedforward": _shape(
            shapes, f"{prefix}sam_mask_decoder.transformer.layers.0.mlp.layers.0.weight", 2
        )[0],
    }
    full = Sam2Config()
    needed = ("image_size", "num_heads", "window_spec", "global_attention_blocks")
    sizes = _settle("sam2", full, derived, {}, needed, unknown)
    if window != sizes.window_spec[0] and not unknown:
        unknown.append("sam2.window_spec")
    return sizes

"""Which files of a model's weights an actor needs, by the parts of the model that it uses."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from pathlib import Path

from vrshq.operators.models.bundle import ADAPTER_WEIGHTS, Bundle, read_json
from vrshq.operators.models.presence import WEIGHTS as PRESENCE_HEAD
from vrshq.pipelines.models.sources import is_description

_INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")
# The part, and the folder of a bundle, of SAM2's original decoder beside a fine-tuned one.
_DECODER, _ORIGINAL = "original_decoder", "sam2"


def weights_for(bundle: Bundle, parts: Collection[str], files: Collection[str]) -> list[str]:
    """The names of the weights' files for some parts of a model.

    An index of the weights tells which tensors a file has, and the beginning of a tensor's name its part. The CLIP's own
    folder has nothing else. Where neither tells, and for a model with an adapter, every part needs every file.

    Args:
        bundle: the model, of which descriptions may be all that is there.
        parts: the parts of the model that are used: "language", "segmenter", "clip", "original_decoder".
        files: names of all files that the model's source has.
    """
    parts = set(parts) if bundle.family.clip else set(parts) - {"clip"}
    if not parts:
        return []
    other_decoder = {name for name in files if name.startswith(f"{_ORIGINAL}/")} if _DECODER in parts else set()
    needed = [path for path in bundle.shards if _is_needed(bundle, path, parts)]
    head = {PRESENCE_HEAD} if "segmenter" in parts else set()
    names = {path.relative_to(bundle.folder).as_posix() for path in (*needed, *bundle.adapter_files())}
    names |= other_decoder | head
    return [name for name in files if name in names and not is_description(name)]


def _is_needed(bundle: Bundle, path: Path, parts: Collection[str]) -> bool:
    if bundle.adapter is not None:
        return True
    if path.parent == bundle.clip:
        return "clip" in parts
    if tensors := _tensors_by_file(bundle.folder).get(path.name):
        found = {bundle.family.part_of(tensor) for tensor in tensors}
        return None in found or not found.isdisjoint(parts)
    clip_apart = any(shard.parent == bundle.clip for shard in bundle.shards)
    return not clip_apart or not set(parts) <= {"clip"}


def _tensors_by_file(folder: Path) -> dict[str, list[str]]:
    """The names of the tensors in each file, from an index; {} without one."""
    found: dict[str, list[str]] = {}
    for index in _INDICES:
        if not (folder / index).exists():
            continue
        weight_map = read_json(folder / index).get("weight_map")
        for tensor, file in weight_map.items() if isinstance(weight_map, dict) else ():
            found.setdefault(str(file), []).append(str(tensor))
        break
    return found


def without_doubles(files: Iterable[str]) -> list[str]:
    """The weights of a whole model: of a folder with safetensors not the same weights in torch's format."""
    weights = [name for name in files if not is_description(name)]
    has_safetensors = {
        _folder(name) for name in weights if name.endswith(".safetensors") and _base(name) not in ADAPTER_WEIGHTS
    }

    def is_double(name: str) -> bool:
        return _base(name).startswith("pytorch_model") and _folder(name) in has_safetensors

    return [name for name in weights if not is_double(name)]


def _folder(name: str) -> str:
    return name.rpartition("/")[0]


def _base(name: str) -> str:
    return name.rpartition("/")[2]

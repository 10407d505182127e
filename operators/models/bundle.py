"""Descriptions of model bundles: the files of the weights, the sizes of the networks, and checksums.

A bundle is a local folder in one of two layouts:

* `bundle.json` (format `vrshq-bundle/1`): the model's sizes, tokenizers beside it, and either safetensors files with their
  sha256 or, with `weights: null`, a `seed` for untrained weights. Tensors have the published names; those of the
  pre-sampling CLIP start with `clip.`. `vrshq convert` writes this layout.
* the published layout: `config.json` with sharded `pytorch_model-*.bin` (or safetensors), `tokenizer.model`, and the
  pre-sampling CLIP in a `clip` folder as transformers saves it. The sizes of its language model are those of its own
  `config.json`, all others the full-size ones, unless a `bundle.json` without `weights` lies beside it.

A folder of another family (`families.py`) has that family's published layout: `config.json`, safetensors with or without an
index, and a tokenizer. A `bundle.json` without `weights` beside it names the family and has, as `model`, what `config.json`
lacks.

A bundle of either layout may have a LoRA adapter in peft's format: in the folder that `adapter` of `bundle.json` names, else
in the folder `adapter`, else in files beside the weights. The adapter is merged at loading.

The folder of a fetched model may have descriptions alone, or the files of some parts of the model. What its source states of
the others lies in `.source.json`, so that the description and the fingerprint are the same before and after they are fetched.

Weights are read tensor by tensor, without running pickled code, into networks that are built without memory. The peak is one
copy of the weights and one tensor. Tensors that are missing, unexpected or of another shape are a `CheckpointError` that
names them. A file whose sha256 is listed is checked when something is loaded from it, once per process. All files of a 14 GB
model take about 20 s of one core (several are read at a time); an actor with SAM2 alone checks only SAM2's files.
"""

from __future__ import annotations

import functools
import hashlib
import json
import zipfile
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from vrshq.errors import UserError
from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.families import FAMILIES, VRS_HQ, FamilyInfo, family_of_architectures
from vrshq.operators.models.published import language_sizes

if TYPE_CHECKING:
    from vrshq.operators.models.clip_tokens import ClipTokenizer
    from vrshq.operators.models.vrs_hq.prompt import PromptTokenizer

FORMAT = "vrshq-bundle/1"
DESCRIPTION = "bundle.json"
SOURCE = ".source.json"  # of a fetched model: what its source states of its files
ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = ("adapter_model.safetensors", "adapter_model.bin")
BUNDLED = Path(__file__).parent / "bundles"


class CheckpointError(UserError, ValueError):
    """The weights do not fit the model. The message names the tensor or file, and what was expected."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. Opening reads the description alone and does not import torch.

    Attributes:
        name: name of the model.
        folder: the bundle's folder.
        sizes: sizes of the networks: of VRS-HQ as `ModelConfig`, of another family as the values of its files.
        seed: seed of untrained weights; None for trained weights.
        shards: files of the weights; empty for untrained weights.
        clip: folder of the pre-sampling CLIP.
        adapter: folder of a LoRA adapter; None without one.
        checksums: sha256 of files, by their names in `folder`.
        presence: 0 to 1; instructions whose presence is at most this should get no mask, as chosen on the model's own
            validation data. 0: no instruction is left out.
        family: the family of the model.
        stated: versions of the weights' files that the source of a fetched model states, by their names in `folder`. A file
            that has one may be absent here.
    """

    name: str
    folder: Path
    sizes: ModelConfig | Mapping[str, Any] = field(hash=False)
    seed: int | None
    shards: tuple[Path, ...]
    clip: Path
    adapter: Path | None = None
    checksums: Mapping[str, str] = field(default_factory=dict, hash=False)
    presence: float = 0.0
    family: FamilyInfo = VRS_HQ
    stated: Mapping[str, str] = field(default_factory=dict, hash=False)

    @property
    def fetched(self) -> tuple[Path, ...]:
        """The files of the weights that lie here: all, unless an actor fetched only the parts that it uses."""
        return tuple(path for path in self.shards if path.exists() or self._name_of(path) not in self.stated)

    @property
    def model(self) -> ModelConfig:
        """The sizes of a model of VRS-HQ.

        Raises:
            CheckpointError: the model is of another family.
        """
        if not isinstance(self.sizes, ModelConfig):
            raise CheckpointError(
                f"{self.folder}: a model of the family {self.family.name}; this command takes models of {VRS_HQ.name} alone"
            )
        return self.sizes

    @property
    def changes(self) -> Mapping[str, Any]:
        """What `bundle.json` of a model of another family than VRS-HQ says beyond its `config.json`."""
        found: Mapping[str, Any] = {} if isinstance(self.sizes, ModelConfig) else self.sizes["changes"]
        return found

    @functools.cached_property
    def fingerprint(self) -> str:
        """Hash of sizes and weights for `run.json`, 16 hexadecimal digits.

        Safetensors without a listed sha256 are read whole.
        """
        names = {path: self._name_of(path) for path in (*self.shards, *self.adapter_files())}
        unlisted = {
            name: self.stated.get(name) or _content(path) for path, name in names.items() if name not in self.checksums
        }
        sizes = self.sizes.to_dict() if isinstance(self.sizes, ModelConfig) else dict(self.sizes)
        identity = {"model": sizes, "seed": self.seed, "weights": {**self.checksums, **unlisted}}
        return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]

    def versions_in(self, place: str) -> dict[str, str]:
        """The versions of all files in a folder of the bundle, as their source states them, else by their content."""
        here = {self._name_of(path): path for path in (self.folder / place).glob("*") if path.is_file()}
        stated = {name: version for name, version in self.stated.items() if name.startswith(f"{place}/")}
        return stated or {name: self.checksums.get(name) or _content(path) for name, path in sorted(here.items())}

    def adapter_files(self) -> list[Path]:
        """The files of the adapter, its config first; [] without one."""
        if not self.adapter:
            return []
        files = [self.adapter / name for name in (ADAPTER_CONFIG, *ADAPTER_WEIGHTS)]
        return [path for path in files if path.exists() or self._name_of(path) in self.stated]

    def _name_of(self, path: Path) -> str:
        return path.relative_to(self.folder).as_posix() if path.is_relative_to(self.folder) else path.name

    def adapter_weights(self) -> Path | None:
        """The file of the adapter's tensors; None without an adapter, or if the model's own files hold them."""
        return next((path for path in self.adapter_files() if path.name in ADAPTER_WEIGHTS), None)

    def verify(self, paths: Iterable[Path]) -> None:
        """Compares files with their listed sha256, once per process unless they change.

        Raises:
            CheckpointError: a file has another sha256; the message names the first such file.
        """
        listed = [
            (path, self.checksums[self._name_of(path)]) for path in paths if self._name_of(path) in self.checksums
        ]
        with ThreadPoolExecutor(max_workers=4) as pool:
            for (path, expected), found in zip(listed, pool.map(_checksum, [path for path, _ in listed]), strict=True):
                if found != expected:
                    raise CheckpointError(
                        f"{path}: sha256 {found[:16]}..., expected {expected[:16]}...; damaged or changed, fetch it again"
                    )

    def prompt_tokenizer(self) -> PromptTokenizer:
        """The MLLM's SentencePiece tokenizer with [SEG] and [TAK]. Raises CheckpointError."""
        from vrshq.operators.models.vrs_hq.prompt import PromptTokenizer

        language, path = self.model.language, self.folder / "tokenizer.model"
        if not path.exists():
            raise CheckpointError(f"{path}: no such file; expected the SentencePiece model that came with the weights")
        self.verify([path])
        return PromptTokenizer(
            str(path),
            language.seg_token_id,
            language.tak_token_id,
            self.model.clustering.tokens_per_image,
        )

    def clip_tokenizer(self) -> ClipTokenizer:
        """The byte-pair tokenizer of the pre-sampling CLIP. Raises CheckpointError."""
        from vrshq.operators.models.clip_tokens import ClipTokenizer

        if not self.family.clip:
            raise CheckpointError(
                f"{self.folder}: a model of the family {self.family.name} has no CLIP; set sampling.sampler to first or spread"
            )
        if not any((self.clip / name).exists() for name in ("vocab.json", "tokenizer.json")):
            raise CheckpointError(
                f"{self.clip}: no vocab.json or tokenizer.json; expected the tokenizer files of the CLIP"
            )
        self.verify([*self.clip.glob("*.json"), *self.clip.glob("*.txt")])
        try:
            return ClipTokenizer(self.clip)
        except ValueError as error:
            raise CheckpointError(str(error)) from error


def open_bundle(name: str, *, clip: Path | None = None, adapter: Path | None = None) -> Bundle:
    """Opens a bundle by the name of a built-in one or by its local folder.

    Args:
        name: name of a built-in bundle, or path of a folder.
        clip: folder of the pre-sampling CLIP; default: the bundle's own.
        adapter: folder of a LoRA adapter; default: the bundle's own.

    Raises:
        CheckpointError: no such bundle, or its description cannot be used.
    """
    folder = BUNDLED / name if name in bundled_names() else Path(name)
    if not folder.is_dir():
        known = ", ".join(bundled_names())
        raise CheckpointError(f"--model {name}: no such bundle; give one of {known}, or the folder of a bundle")
    path = folder / DESCRIPTION
    description = read_json(path) if path.exists() else {}
    if path.exists() and description.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {description.get('format')!r}, expected {FORMAT!r}")
    bundle = _opened(folder, description, clip, adapter)
    if not (source := _source(folder)):
        return bundle
    return replace(bundle, name=description.get("name") or source.get("name") or bundle.name, stated=_stated(source))


def _opened(folder: Path, description: Mapping[str, Any], clip: Path | None, adapter: Path | None) -> Bundle:
    path = folder / DESCRIPTION
    family = _family(folder, description)
    if family is not VRS_HQ:
        return _of_another_family(folder, family, description)
    model = _vrs_hq_sizes(folder, description)
    clip, adapter = clip or folder / "clip", adapter or _find_adapter(folder, description.get("adapter"))
    seed = description.get("seed") if description.get("weights", "") is None else None
    shards: tuple[Path, ...] = ()
    if seed is None:
        listed = [_inside(folder, item) for item in description.get("weights") or []]
        shards = tuple(listed) or (*find_shards(folder), *find_shards(clip, folder))
    elif adapter:
        raise CheckpointError(f"{adapter}: an adapter for untrained weights; expected one only beside trained weights")
    presence = description.get("presence", 0.0)
    if isinstance(presence, bool) or not isinstance(presence, int | float) or not 0 <= presence <= 1:
        raise CheckpointError(f"{path}: presence {presence!r}, expected a number from 0 to 1")
    return Bundle(
        description.get("name") or folder.resolve().name,
        folder,
        model,
        seed,
        shards,
        clip,
        adapter,
        _checksums_of(path, description),
        float(presence),
    )


def _family(folder: Path, description: Mapping[str, Any]) -> FamilyInfo:
    if "family" in description:
        named = description["family"]
        if named not in FAMILIES:
            raise CheckpointError(f"{folder / DESCRIPTION}: family {named!r}, expected one of {', '.join(FAMILIES)}")
        return FAMILIES[named]
    if description or not (folder / "config.json").exists():
        return VRS_HQ
    return family_of_architectures(read_json(folder / "config.json").get("architectures"))


def _of_another_family(folder: Path, family: FamilyInfo, description: Mapping[str, Any]) -> Bundle:
    changes = description.get("model") or {}
    if not isinstance(changes, dict):
        raise CheckpointError(f"{folder / DESCRIPTION}: model is a {type(changes).__name__}, expected a mapping")
    sizes = {"family": family.name, "config": read_json(folder / "config.json"), "changes": changes}
    name = description.get("name") or folder.resolve().name
    checksums = _checksums_of(folder / DESCRIPTION, description)
    return Bundle(name, folder, sizes, None, find_shards(folder), folder / "clip", None, checksums, 0.0, family)


def _vrs_hq_sizes(folder: Path, description: Mapping[str, Any]) -> ModelConfig:
    if description:
        try:
            return ModelConfig.from_dict(description["model"])
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{folder / DESCRIPTION}: {error}") from error
    if (folder / "config.json").exists():
        added = folder / "added_tokens.json"
        config, tokens = read_json(folder / "config.json"), read_json(added) if added.exists() else {}
        try:
            full = ModelConfig()
            return replace(full, language=replace(full.language, **language_sizes(config, tokens)))
        except ValueError as error:
            raise CheckpointError(f"{folder / 'config.json'}: {error}") from error
    raise CheckpointError(f"{folder}: neither bundle.json nor config.json; expected the folder of a model")


def _checksums_of(path: Path, description: Mapping[str, Any]) -> dict[str, str]:
    checksums = description.get("sha256") or {}
    if not isinstance(checksums, dict):
        raise CheckpointError(f"{path}: sha256 is a {type(checksums).__name__}, expected a mapping of file to sum")
    return checksums


def read_json(path: Path) -> dict[str, Any]:
    """The JSON object in a file. Raises CheckpointError if the file is missing or holds something else."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path}: not a readable JSON file ({error})") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path}: a {type(values).__name__}, expected a JSON object")
    return values


def _inside(folder: Path, name: object) -> Path:
    """The path of a file that a description names. Descriptions are untrusted, so it must lie in their folder."""
    if not isinstance(name, str) or not name or PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise CheckpointError(f"{folder}: it names the file {name!r}; expected a relative path inside the folder")
    return folder / name


def _find_adapter(folder: Path, named: object) -> Path | None:
    if named is not None:
        return _inside(folder, named)
    return next((place for place in (folder / "adapter", folder) if (place / ADAPTER_CONFIG).exists()), None)


def bundled_names() -> list[str]:
    """Names of the bundles inside the package."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{DESCRIPTION}"))


def _source(folder: Path) -> dict[str, Any]:
    """What the source of a fetched model states; {} for any other folder."""
    return read_json(folder / SOURCE) if (folder / SOURCE).exists() else {}


def _stated(source: Mapping[str, Any]) -> dict[str, str]:
    return {name: file["version"] for name, file in source.get("files", {}).items()}


def find_shards(folder: Path, bundle: Path | None = None) -> tuple[Path, ...]:
    """The files of the weights in a folder in transformers' layout. Safetensors are preferred; an index, if any, lists them.

    Args:
        folder: with the weights.
        bundle: the bundle's folder, if it is another. Files that its source states may be absent.

    Raises:
        CheckpointError: there are none, or a file that the index lists is absent.
    """
    root = bundle or folder
    stated = {root / name for name in _stated(_source(root))}
    for index, pattern in (
        ("model.safetensors.index.json", "*.safetensors"),
        ("pytorch_model.bin.index.json", "pytorch_model*.bin"),
    ):
        if (folder / index).exists():
            weight_map = read_json(folder / index).get("weight_map")
            names = sorted({str(name) for name in weight_map.values()}) if isinstance(weight_map, dict) else []
            shards = [_inside(folder, name) for name in names]
            absent = [shard.name for shard in shards if not shard.exists() and shard not in stated]
            if absent or not shards:
                raise CheckpointError(
                    f"{folder}: {index} lists {', '.join(absent) or 'no files'}; fetch the folder again"
                )
        else:
            found = {*folder.glob(pattern), *(path for path in stated if path.parent == folder)}
            shards = sorted(path for path in found if fnmatch(path.name, pattern) and path.name not in ADAPTER_WEIGHTS)
        if shards:
            return tuple(shards)
    clip_hint = (
        "; the pre-sampling CLIP (published as openai/clip-vit-large-patch14-336) belongs there, or give it to "
        "`vrshq convert` with --clip"
    )
    hint = clip_hint if folder.name == "clip" else ""
    raise CheckpointError(f"{folder}: no weights; expected *.safetensors or pytorch_model*.bin files{hint}")


def _content(path: Path) -> str:
    """A hash of a file's content: of the CRCs that a zip file (torch's format) lists, else the sha256."""
    if path.suffix != ".bin" or not zipfile.is_zipfile(path):
        return _checksum(path)
    with zipfile.ZipFile(path) as archive:
        return hashlib.sha256(repr([(item.filename, item.CRC) for item in archive.infolist()]).encode()).hexdigest()


def _checksum(path: Path) -> str:
    try:
        stat = path.stat()
        return _sha256(path, stat.st_size, stat.st_mtime_ns)
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}); expected a file of the bundle") from error


@functools.cache
def _sha256(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

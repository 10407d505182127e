"""Model bundles: where weights lie, what each tensor is for, and how it gets into its network.

A bundle is a local folder in one of two layouts:

* `bundle.json` (format `vrshq-bundle/1`): the model's sizes, tokenizers beside it, and either safetensors files with their
  sha256 or, with `weights: null`, a `seed` for untrained weights. Tensors have the published names; those of the
  pre-sampling CLIP start with `clip.`.
* the published layout: `config.json` with sharded `pytorch_model-*.bin` (or safetensors), `tokenizer.model`, and the
  pre-sampling CLIP in a `clip` folder as transformers saves it. Its sizes are the full-size ones unless a `bundle.json`
  without `weights` lies beside it.

Weights are read shard by shard, without running pickled code, into networks that hold no memory before (one copy at the
peak). A tensor that is missing, unexpected or of another shape is a `CheckpointError` that names it.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from operators.model_config import ModelConfig

if TYPE_CHECKING:
    import torch
    from transformers import CLIPModel, CLIPTokenizer

    from operators.prompt import PromptTokenizer
    from operators.segmenter import Segmenter
    from operators.tokens import ChatUniVi

FORMAT = "vrshq-bundle/1"
BUNDLED = Path(__file__).parent / "bundles"


class CheckpointError(ValueError):
    """The weights do not fit the model; the message names the tensor or the file, and what was expected."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle: cheap to make, and without torch, until something is loaded.

    `fingerprint` identifies its sizes and weights in `run.json`; `seed` is set for untrained weights, which have no `shards`.
    """

    name: str
    folder: Path
    model: ModelConfig
    seed: int | None
    shards: tuple[Path, ...]
    fingerprint: str

    def prompt_tokenizer(self) -> PromptTokenizer:
        """The MLLM's SentencePiece tokenizer with [SEG] and [TAK]."""
        from operators.prompt import PromptTokenizer

        language = self.model.language
        return PromptTokenizer(
            str(self.folder / "tokenizer.model"),
            language.seg_token_id,
            language.tak_token_id,
            self.model.clustering.tokens_per_image,
        )

    def clip_tokenizer(self) -> CLIPTokenizer:
        """The byte-pair tokenizer of the pre-sampling CLIP."""
        from transformers import CLIPTokenizer

        return CLIPTokenizer.from_pretrained(self.folder / "clip", local_files_only=True)

    def load_language(self, device: str = "cpu", dtype: torch.dtype | None = None) -> ChatUniVi:
        """The MLLM in evaluation mode; `dtype` default float32. Raises CheckpointError."""
        import torch

        from operators import checkpoint

        return checkpoint.load_language(self, device, dtype or torch.float32)

    def load_segmenter(self, device: str = "cpu", dtype: torch.dtype | None = None) -> Segmenter:
        """SAM2 in evaluation mode; `dtype` default float32. Raises CheckpointError."""
        import torch

        from operators import checkpoint

        return checkpoint.load_segmenter(self, device, dtype or torch.float32)

    def load_clip(self, device: str = "cpu", dtype: torch.dtype | None = None) -> CLIPModel:
        """The pre-sampling CLIP in evaluation mode; `dtype` default float32. Raises CheckpointError."""
        import torch

        from operators import checkpoint

        return checkpoint.load_clip(self, device, dtype or torch.float32)


def open_bundle(name: str) -> Bundle:
    """Opens a bundle by the name of a built-in one or by its local folder.

    Raises:
        CheckpointError: no such bundle, or its description cannot be used.
    """
    folder = BUNDLED / name if name in bundled_names() else Path(name)
    description_path = folder / "bundle.json"
    if not folder.is_dir():
        known = ", ".join(bundled_names())
        raise CheckpointError(f"--model {name}: no such bundle; give one of {known}, or the folder of a bundle")
    if description_path.exists():
        description = json.loads(description_path.read_text(encoding="utf-8"))
        if description.get("format") != FORMAT:
            raise CheckpointError(f"{description_path}: format {description.get('format')!r}, expected {FORMAT!r}")
        try:
            model = ModelConfig.from_dict(description["model"])
        except (KeyError, ValueError, TypeError) as error:
            raise CheckpointError(f"{description_path}: {error}") from error
    elif (folder / "config.json").exists():
        description, model = {"name": folder.name}, ModelConfig()
    else:
        raise CheckpointError(f"{folder}: neither bundle.json nor config.json; expected the folder of a model")
    return _describe(folder, description, model)


def _describe(folder: Path, description: dict[str, Any], model: ModelConfig) -> Bundle:
    seed = description.get("seed") if description.get("weights", "") is None else None
    shards: tuple[Path, ...] = ()
    if seed is None:
        shards = tuple(folder / name for name in description.get("weights") or []) or find_shards(folder)
    identity = {
        "model": model.to_dict(),
        "seed": seed,
        "weights": description.get("sha256") or {shard.name: shard.stat().st_size for shard in shards},
    }
    fingerprint = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    return Bundle(description.get("name", folder.name), folder, model, seed, shards, fingerprint)


def bundled_names() -> list[str]:
    """The bundles inside the package."""
    return sorted(path.parent.name for path in BUNDLED.glob("*/bundle.json"))


def find_shards(folder: Path) -> tuple[Path, ...]:
    """The checkpoint files of a published-layout folder, the pre-sampling CLIP's last; safetensors are preferred."""
    found: list[Path] = []
    for place in (folder, folder / "clip"):
        for pattern in ("*.safetensors", "pytorch_model*.bin"):
            shards = sorted(place.glob(pattern))
            if shards:
                found += shards
                break
        else:
            raise CheckpointError(f"{place}: no weights; expected *.safetensors or pytorch_model*.bin files")
    return tuple(found)


@functools.cache
def shared_network(name: str, part: str, device: str, dtype: str) -> Any:
    """One copy of a network for all operators of this process (TKS and propagation hold the same SAM2).

    Args:
        part: "language", "segmenter" or "clip".
        dtype: torch's name of it, e.g. "float32".
    """
    import torch

    bundle = open_bundle(name)
    load = {"language": bundle.load_language, "segmenter": bundle.load_segmenter, "clip": bundle.load_clip}[part]
    return load(device, getattr(torch, dtype))

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
import pickle
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from transformers import CLIPConfig as HfClipConfig
from transformers import CLIPModel, CLIPTokenizer

from operators.model_config import ClipConfig, ModelConfig, VisionConfig
from operators.prompt import PromptTokenizer
from operators.segmenter import Segmenter
from operators.tokens import ChatUniVi

FORMAT = "vrshq-bundle/1"
BUNDLED = Path(__file__).parent / "bundles"
Part = Literal["language", "segmenter", "clip"]
Network = TypeVar("Network", bound=nn.Module)


class CheckpointError(ValueError):
    """The weights do not fit the model; the message names the tensor or the file, and what was expected."""


@dataclass(frozen=True)
class Bundle:
    """An opened bundle. `fingerprint` identifies its sizes and weights in `run.json`."""

    name: str
    folder: Path
    model: ModelConfig
    seed: int | None
    shards: tuple[Path, ...]
    fingerprint: str

    def prompt_tokenizer(self) -> PromptTokenizer:
        language = self.model.language
        return PromptTokenizer(str(self.folder / "tokenizer.model"), language.seg_token_id, language.tak_token_id)

    def clip_tokenizer(self) -> CLIPTokenizer:
        return CLIPTokenizer.from_pretrained(self.folder / "clip", local_files_only=True)

    def load_language(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> ChatUniVi:
        """The MLLM: vision tower, clustering, projector, LLaMA, and the read-out of [SEG] and [TAK]."""
        return self._load("language", lambda: ChatUniVi(self.model), device, dtype)

    def load_segmenter(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Segmenter:
        """SAM 2.0 with an embedding as its prompt."""
        return self._load("segmenter", lambda: Segmenter(self.model.sam2), device, dtype)

    def load_clip(self, device: str = "cpu", dtype: torch.dtype = torch.float32) -> CLIPModel:
        """The CLIP of pre-sampling, in evaluation mode."""
        return self._load("clip", lambda: CLIPModel(clip_config(self.model.clip)), device, dtype)

    def _load(self, part: Part, build: Callable[[], Network], device: str, dtype: torch.dtype) -> Network:
        if self.seed is not None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                network = build()
                if isinstance(network, Segmenter):
                    make_untrained_masks_vary(network)
            return network.to(device=device, dtype=dtype).eval()
        with parameters_on_meta():
            network = build()
        fill(network, part, read_tensors(self.shards), device, dtype)
        return network.to(device).eval()


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
    if seed is None:
        shards = tuple(folder / name for name in description.get("weights") or []) or find_shards(folder)
    else:
        shards = ()
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


def read_tensors(shards: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Yields (name, tensor) shard by shard; tensors of a shard in a `clip` folder get the prefix `clip.`.

    Raises:
        CheckpointError: a file that is truncated, or holds anything but tensors.
    """
    for shard in shards:
        prefix = "clip." if shard.parent.name == "clip" else ""
        try:
            if shard.suffix == ".safetensors":
                with safe_open(shard, framework="pt") as file:
                    for name in file.keys():  # noqa: SIM118 - no mapping, only this method
                        yield prefix + name, file.get_tensor(name)
            else:
                # weights_only: a pickle that names any other code is refused; mmap: tensors are read as they are used,
                # which files from before torch 1.6 do not allow
                mmap = zipfile.is_zipfile(shard)
                state = torch.load(shard, map_location="cpu", weights_only=True, mmap=mmap)
                for name in list(state):
                    yield prefix + name, state.pop(name)
        except pickle.UnpicklingError as error:
            raise CheckpointError(f"{shard}: refused, because it holds more than tensors or is damaged") from error
        except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{shard}: not a readable checkpoint shard ({_one_line(error)})") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


DERIVED = {
    "rotary_emb.inv_freq": "computed from the rotary base",
    "embeddings.position_ids": "counts from 0",
}


def place(name: str) -> tuple[Part, str] | str:
    """Where a checkpoint tensor belongs: (part, parameter name inside it), or why it is not used.

    Raises:
        CheckpointError: a name that no part of the model has.
    """
    for suffix, reason in DERIVED.items():
        if name.endswith(suffix):
            return reason
    if name == "lm_head.weight":
        return "the answer is teacher-forced, so no token is predicted"
    for prefix, part, inside in (
        ("model.visual_model.", "segmenter", ""),
        ("model.vision_tower.vision_tower.vision_model.", "language", "vision_tower."),
        ("model.mm_projector.", "language", "mm_projector."),
        ("model.text_hidden_fcs.0.", "language", "text_hidden_fcs."),
        ("model.embed_tokens.", "language", "llama.embed_tokens."),
        ("model.layers.", "language", "llama.layers."),
        ("model.norm.", "language", "llama.norm."),
        ("clip.", "clip", ""),
    ):
        if name.startswith(prefix):
            return part, inside + name.removeprefix(prefix)  # type: ignore[return-value]
    raise CheckpointError(f"unexpected tensor {name}: no part of the model has it")


def fill(
    network: nn.Module, part: Part, tensors: Iterable[tuple[str, Tensor]], device: str, dtype: torch.dtype
) -> None:
    """Puts a checkpoint's tensors into the parameters and buffers of one part of the model.

    Raises:
        CheckpointError: names the first tensor that is unexpected, of another shape, or missing.
    """
    wanted = network.state_dict()
    for name, tensor in tensors:
        target = place(name)
        if isinstance(target, str) or target[0] != part:
            continue
        inside = target[1]
        if inside not in wanted:
            raise CheckpointError(f"unexpected tensor {name}: the {part} part has no {inside}")
        expected = wanted.pop(inside)
        if tensor.shape != expected.shape:
            raise CheckpointError(f"{name}: shape {tuple(tensor.shape)}, expected {tuple(expected.shape)}")
        owner, _, leaf = inside.rpartition(".")
        module = network.get_submodule(owner)
        # a copy, so that the shard's memory map can go once it is read
        value = tensor.to(device=device, dtype=dtype if tensor.is_floating_point() else tensor.dtype, copy=True)
        if leaf in module._parameters:
            module._parameters[leaf] = nn.Parameter(value, requires_grad=False)
        else:
            module._buffers[leaf] = value
    if wanted:
        first = sorted(wanted)[0]
        raise CheckpointError(f"missing tensor {first} of the {part} part ({len(wanted)} missing in all)")


@contextmanager
def parameters_on_meta() -> Iterator[None]:
    """Networks built inside hold no parameter memory; buffers that are computed (rotary tables) stay real."""
    register = nn.Module.register_parameter

    def on_meta(self: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if parameter is not None:
            parameter = nn.Parameter(parameter.to("meta"), requires_grad=False)
        register(self, name, parameter)

    nn.Module.register_parameter = on_meta  # type: ignore[method-assign]
    try:
        yield
    finally:
        nn.Module.register_parameter = register  # type: ignore[method-assign]


def clip_config(config: ClipConfig) -> HfClipConfig:
    """transformers' configuration of the pre-sampling CLIP."""
    text = config.text
    return HfClipConfig(
        projection_dim=config.projection_dim,
        vision_config=vision_config(config.vision),
        text_config={
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_positions,
            "layer_norm_eps": text.layer_norm_eps,
            "eos_token_id": text.eos_token_id,
            "hidden_act": "quick_gelu",
        },
    )


def vision_config(config: VisionConfig) -> dict[str, Any]:
    """A CLIP vision transformer's settings under transformers' names."""
    return {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "image_size": config.image_size,
        "patch_size": config.patch_size,
        "layer_norm_eps": config.layer_norm_eps,
        "hidden_act": "quick_gelu",
    }


@torch.no_grad()
def make_untrained_masks_vary(network: Segmenter) -> None:
    """Lifts the object score of untrained weights, so that their masks are not all gated away as "no object"."""
    network.sam_mask_decoder.pred_obj_score_head.layers[-1].bias.fill_(1.0)


@functools.cache
def shared_network(name: str, part: Part, device: str, dtype: str) -> nn.Module:
    """One copy of a network for all operators of this process (TKS and propagation hold the same SAM2)."""
    bundle = open_bundle(name)
    load = {"language": bundle.load_language, "segmenter": bundle.load_segmenter, "clip": bundle.load_clip}[part]
    return load(device, getattr(torch, dtype))

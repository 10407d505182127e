"""Start and end of training: the networks of a bundle or fresh ones of given sizes, and the bundle of the result."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from vrshq.operators.models.bundle import (
    ADAPTER_CONFIG,
    ADAPTER_WEIGHTS,
    BUNDLED,
    DESCRIPTION,
    FORMAT,
    CheckpointError,
    open_bundle,
)
from vrshq.operators.models.config import ModelConfig
from vrshq.operators.models.sam2.segmenter import Segmenter
from vrshq.operators.models.vrs_hq.checkpoint import LM_HEAD, open_checkpoint, published_name
from vrshq.operators.models.vrs_hq.load import load_clip, load_language, load_segmenter
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.weights import write_safetensors
from vrshq.operators.training.auxiliary import Auxiliary
from vrshq.operators.training.config import StartConfig
from vrshq.operators.training.forward import TrainingModel
from vrshq.operators.training.schedule import adapter_state, add_lora, lora_layers, merged_state

HEADS = "heads.safetensors"  # of a bundle: the training-only heads
CLIP_TOKENIZERS = BUNDLED / "untrained-tiny" / "clip"


def prepare_start(config: StartConfig, seed: int, folder: Path) -> str:
    """The bundle that training starts from. If the config gives sizes, a bundle without weights is written into `folder`."""
    if config.bundle is not None:
        return config.bundle
    from vrshq.operators.synth.grammar import all_wordings, vocabulary
    from vrshq.operators.training.vocabulary import write_word_pieces

    model = ModelConfig.from_dict(config.sizes)
    words = vocabulary() | {word for text in all_wordings(False) for word in _words(text)}
    folder.mkdir(parents=True, exist_ok=True)
    write_word_pieces(folder / "tokenizer.model", words, min(model.language.seg_token_id, model.language.tak_token_id))
    shutil.copytree(CLIP_TOKENIZERS, folder / "clip", dirs_exist_ok=True)
    description = {"format": FORMAT, "name": "start", "seed": seed, "weights": None, "model": model.to_dict()}
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return str(folder)


def _words(text: str) -> list[str]:
    return [word for word in text.lower().replace("?", " ").replace(",", " ").split() if "{" not in word]


def build(config: StartConfig, bundle_name: str, seed: int, device: str) -> TrainingModel:
    """The networks to train in float32, frozen ones in `frozen_dtype`. The same arguments give the same weights."""
    bundle = open_bundle(bundle_name)
    sizes = bundle.model
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if bundle.seed is None:
            language = load_language(bundle, device, getattr(torch, config.frozen_dtype))
            segmenter = load_segmenter(bundle, device, torch.float32)
        else:
            language, segmenter = ChatUniVi(sizes).to(device).eval(), Segmenter(sizes.sam2).to(device).eval()
            with torch.no_grad():
                # the usual 1e-6 suits deeper networks; with two layers it would stay near zero for too long
                for layer in segmenter.memory_encoder.fuser.layers:
                    layer.gamma.fill_(0.1)
        lm_head = nn.Linear(sizes.language.hidden_size, sizes.language.vocab_size, bias=False)
        auxiliary = None
        if config.auxiliary:
            waves = segmenter.sam_prompt_encoder.pe_layer.positional_encoding_gaussian_matrix
            auxiliary = Auxiliary(
                sizes.out_dim, sizes.tower.hidden_size, sizes.sam2.d_model, sizes.language.hidden_size, waves
            )
            if (heads := bundle.folder / HEADS).is_file():
                _load_heads(auxiliary, heads)
        add_lora(language.llama, config.lora)
    if bundle.seed is None and LM_HEAD in (tensors := open_checkpoint(bundle).tensors):
        with torch.no_grad():
            lm_head.weight.copy_(tensors[LM_HEAD])
    model = TrainingModel(language, segmenter, bundle.prompt_tokenizer(), lm_head, auxiliary).to(device)
    model.train()
    language.vision_tower.eval()
    segmenter.eval()
    language.llama.checkpointing = config.gradient_checkpointing
    return model


def _load_heads(auxiliary: Auxiliary, path: Path) -> None:
    """Loads the heads in a file; heads that an older bundle lacks keep their initial weights."""
    try:
        auxiliary.load_state_dict(auxiliary.state_dict() | load_file(path))
    except (RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not the heads of this model ({' '.join(str(error).split())})") from error


def published_state(model: TrainingModel, bundle_name: str) -> dict[str, Tensor]:
    """All tensors of a bundle under their published names; adapters are merged, CLIP is the start's."""
    clip = load_clip(open_bundle(bundle_name), "cpu", torch.float32)
    parts: tuple[tuple[Any, Mapping[str, Tensor]], ...] = (
        ("language", merged_state(model.language, model.language.llama)),
        ("segmenter", model.segmenter.state_dict()),
        ("clip", clip.state_dict()),
    )
    state = {published_name(part, name): value for part, values in parts for name, value in values.items()}
    if model.lm_head is not None:
        state[LM_HEAD] = model.lm_head.weight
    return {name: value.detach().cpu() for name, value in state.items()}


def write_bundle(
    model: TrainingModel,
    bundle_name: str,
    folder: Path,
    *,
    name: str,
    dtype: torch.dtype = torch.float16,
    extras: tuple[Literal["lm_head", "heads"], ...] = (),
    presence: float = 0.0,
    provenance: Mapping[str, Any] | None = None,
) -> Path:
    """Writes a model as a bundle folder that `--model` takes. The same weights give the same bytes.

    Args:
        model: the trained model.
        bundle_name: the bundle that training started from; it gives tokenizers and the pre-sampling CLIP.
        folder: is created where it does not exist.
        name: of the new bundle.
        dtype: of the weights.
        extras: training-only parts to keep: the LM head, among the weights, and the heads, in a file of their own.
        presence: see `vrshq.operators.models.bundle.Bundle`.
        provenance: recorded in the bundle's description.

    Returns:
        `folder`.
    """
    start = open_bundle(bundle_name)
    state = published_state(model, bundle_name)
    if "lm_head" not in extras:
        state.pop(LM_HEAD, None)
    folder.mkdir(parents=True, exist_ok=True)
    contents = {
        key: (dtype if value.is_floating_point() else value.dtype, tuple(value.shape)) for key, value in state.items()
    }
    checksums = {
        "model.safetensors": write_safetensors(
            folder / "model.safetensors", contents, lambda key: state[key].to(contents[key][0])
        )
    }
    if "heads" in extras and model.auxiliary is not None:
        heads = {name: value.detach().cpu() for name, value in model.auxiliary.state_dict().items()}
        sizes = {name: (value.dtype, tuple(value.shape)) for name, value in heads.items()}
        write_safetensors(folder / HEADS, sizes, heads.__getitem__)
    tokenizers = {"tokenizer.model": start.folder / "tokenizer.model"}
    tokenizers |= {
        f"clip/{path.name}": path for path in sorted(start.clip.iterdir()) if path.suffix in (".json", ".txt")
    }
    for item, path in tokenizers.items():
        (folder / item).parent.mkdir(exist_ok=True)
        shutil.copyfile(path, folder / item)
        checksums[item] = hashlib.sha256(path.read_bytes()).hexdigest()
    description = {
        "format": FORMAT,
        "name": name,
        "provenance": dict(provenance or {}),
        "weights": ["model.safetensors"],
        "sha256": checksums,
        **({"presence": presence} if presence else {}),
        "model": model.language.config.to_dict(),
    }
    (folder / DESCRIPTION).write_text(json.dumps(description, indent=1) + "\n", encoding="utf-8")
    return folder


def write_adapter(model: TrainingModel, folder: Path) -> Path:
    """Writes the LoRA adapters alone, in peft's layout."""
    layers = lora_layers(model.language.llama)
    if not layers:
        raise ValueError("no LoRA adapters to write; expected start.lora.rank of 1 or more")
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: value.float().cpu() for name, value in adapter_state(model.language.llama).items()}
    contents = {name: (value.dtype, tuple(value.shape)) for name, value in state.items()}
    write_safetensors(folder / ADAPTER_WEIGHTS[0], contents, state.__getitem__)
    any_layer = next(iter(layers.values()))
    rank = any_layer.lora_a.shape[0]
    settings = {
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": any_layer.scale * rank,
        "target_modules": sorted({name.rpartition(".")[2] for name in layers}),
        "bias": "none",
    }
    (folder / ADAPTER_CONFIG).write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")
    return folder

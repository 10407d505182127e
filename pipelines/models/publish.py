"""`vrshq publish`: writes a bundle as a folder in the layout of the published weights.

open the bundle -> two shards in torch's format, with their index -> config.json and tokenizer files of the MLLM -> the
pre-sampling CLIP in the format of transformers -> bundle.json, if the sizes cannot be derived from the other files.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from transformers import CLIPConfig as HfClipConfig
from transformers import CLIPModel
from transformers.utils import logging

from vrshq.operators.models.bundle import DESCRIPTION, FORMAT, Bundle, CheckpointError, open_bundle
from vrshq.operators.models.config import ClipConfig, ModelConfig, VisionConfig
from vrshq.operators.models.presence import copy_head
from vrshq.operators.models.vrs_hq.checkpoint import DERIVED, Checkpoint, open_checkpoint
from vrshq.operators.models.vrs_hq.load import load_clip
from vrshq.operators.models.weights import map_file
from vrshq.pipelines.models.locate import local_model
from vrshq.pipelines.models.sizes import derive_sizes
from vrshq.pipelines.models.writing import (
    CLIP_TOKENIZER,
    DTYPES,
    WrittenModel,
    appearing_whole,
    checked_dtype,
    new_folder,
    verified,
)

_LLAMA = ("model.embed_tokens.", "model.layers.", "model.norm.")
_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def publish(source: str, output: str, *, adapter: str | None = None, dtype: str | None = None) -> WrittenModel:
    """Writes weights in the published layout, which `convert` and `--model` read.

    The folder was not tested with the reference's code. One of the two shards at a time is in memory. An adapter is merged.
    A bundle without an LM head gives a folder without it; masks do not need it.

    Args:
        source: local folder, bucket uri or hub id of a bundle, or of weights in the published layout.
        output: local folder that does not exist yet, or is empty.
        adapter: folder, uri or hub id of a LoRA adapter; default: the source's own, if it has one.
        dtype: type of all tensors: float32, float16 or bfloat16; default: the stored types.

    Raises:
        CheckpointError: the source is incomplete, or an argument cannot be used.
        StorageError: a bucket cannot be read.
    """
    target = new_folder(output)
    kind = checked_dtype(dtype)
    opened = open_bundle(
        local_model(source, "SOURCE"), adapter=Path(local_model(adapter, "--adapter")) if adapter else None
    )
    checkpoint, model = verified(opened, source)
    opened = replace(opened, sizes=model)
    stored = str(next(iter(checkpoint.tensors.values())).dtype).removeprefix("torch.")
    with appearing_whole(target) as folder:
        _write_shards(checkpoint, folder, kind)
        _write_json(folder / "config.json", _config(model, dtype or stored))
        _write_tokenizer(opened, model, folder)
        _write_clip(opened, folder / "clip", kind or DTYPES.get(stored, torch.float32))
        presence = {"presence": opened.presence} if opened.presence else {}
        head = copy_head(opened, folder)
        if presence or head or not _derivable(folder, model):
            listed = {"sha256": head} if head else {}
            description = {"format": FORMAT, "name": target.name, **presence, **listed, "model": model.to_dict()}
            _write_json(folder / DESCRIPTION, description)
        open_checkpoint(open_bundle(str(folder))).check(model)
    bundle = open_bundle(str(target))
    tensors = open_checkpoint(bundle).tensors.values()
    return WrittenModel(bundle, len(tensors), sum(tensor.nbytes for tensor in tensors))


def _write_shards(checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None) -> None:
    """Writes the LLaMA to the first file, and the rest without the pre-sampling CLIP to the second."""
    names = [name for name in checkpoint.tensors if not name.startswith("clip.") and not name.endswith(tuple(DERIVED))]
    weight_map: dict[str, str] = {}
    total = 0
    for number, first in ((1, True), (2, False)):
        file = f"pytorch_model-{number:05d}-of-00002.bin"
        shard = {name: checkpoint.read(name, dtype=dtype) for name in names if name.startswith(_LLAMA) == first}
        torch.save(shard, folder / file)
        weight_map |= dict.fromkeys(shard, file)
        total += sum(tensor.nbytes for tensor in shard.values())
    _write_json(folder / "pytorch_model.bin.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def _config(model: ModelConfig, dtype: str) -> dict[str, Any]:
    """config.json of the MLLM, with the names in the code of Chat-UniVi and of the reference."""
    language, clusters = model.language, model.clustering.clusters
    return {
        "architectures": ["VrshqForCausalLM"],
        "model_type": "ChatUniVi",
        "hidden_act": "silu",
        "hidden_size": language.hidden_size,
        "intermediate_size": language.intermediate_size,
        "num_hidden_layers": language.num_layers,
        "num_attention_heads": language.num_heads,
        "num_key_value_heads": language.num_key_value_heads,
        "rms_norm_eps": language.rms_norm_eps,
        "rope_theta": language.rope_theta,
        "rope_scaling": None,
        "max_position_embeddings": language.max_positions,
        "vocab_size": language.vocab_size,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
        "config": {
            "use_cluster": True,
            **{f"spatial_cluster_rate{level}": number for level, number in enumerate(clusters)},
        },
        "mm_hidden_size": model.tower.hidden_size,
        "mm_use_im_start_end": True,
        "mm_use_im_patch_token": False,
        "mm_vision_select_feature": "patch",
        "mm_vision_select_layer": -2,
        "use_mm_proj": True,
        "out_dim": model.out_dim,
        "train_mask_decoder": True,
        "torch_dtype": dtype,
    }


def _write_tokenizer(opened: Bundle, model: ModelConfig, folder: Path) -> None:
    shutil.copyfile(opened.folder / "tokenizer.model", folder / "tokenizer.model")
    language = model.language
    _write_json(folder / "added_tokens.json", {"[SEG]": language.seg_token_id, "[TAK]": language.tak_token_id})
    _write_json(folder / "special_tokens_map.json", {**_TOKENS, "pad_token": "<unk>"})
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": True, "add_bos_token": True, "add_eos_token": False}
    _write_json(folder / "tokenizer_config.json", {**settings, **_TOKENS, "model_max_length": 2048})


def _write_clip(opened: Bundle, folder: Path, dtype: torch.dtype) -> None:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # the command prints its own line
    try:
        network = CLIPModel(clip_config(opened.model.clip)).to(dtype)
        network.load_state_dict(load_clip(opened, "cpu", dtype).state_dict())
        network.save_pretrained(folder)
    finally:
        if shown:
            logging.enable_progress_bar()
    for name in CLIP_TOKENIZER:
        if (opened.clip / name).exists():
            shutil.copyfile(opened.clip / name, folder / name)


def _derivable(folder: Path, model: ModelConfig) -> bool:
    """Whether the sizes follow from names, shapes and config.json alone."""
    shards = [*folder.glob("*.bin"), *(folder / "clip").glob("*.safetensors")]
    shapes = {name: tuple(tensor.shape) for file in shards for name, tensor in map_file(file).items()}
    try:
        return derive_sizes(folder, folder / "clip", shapes) == model
    except CheckpointError:
        return False


def _write_json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=1) + "\n", encoding="utf-8")


def clip_config(config: ClipConfig) -> HfClipConfig:
    """Transformers' configuration of the pre-sampling CLIP."""
    text = config.text
    return HfClipConfig(
        projection_dim=config.projection_dim,
        vision_config=vision_sizes(config.vision),
        text_config={
            "hidden_size": text.hidden_size,
            "intermediate_size": text.intermediate_size,
            "num_hidden_layers": text.num_layers,
            "num_attention_heads": text.num_heads,
            "vocab_size": text.vocab_size,
            "max_position_embeddings": text.max_positions,
            "layer_norm_eps": text.layer_norm_eps,
            "bos_token_id": 0,
            "pad_token_id": 1,
            "eos_token_id": text.eos_token_id,
            "hidden_act": "quick_gelu",
        },
    )


def vision_sizes(config: VisionConfig) -> dict[str, Any]:
    """The sizes of a CLIP vision transformer under transformers' names."""
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

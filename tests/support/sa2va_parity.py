"""The parity kit of Sa2VA for tests: path, configuration, weights, cases and tolerances.

VRSHQ_SA2VA_PARITY_DIR is the folder of the kit (default: `shared/parity-sa2va` beside the repository),
VRSHQ_SA2VA_PARITY_CASES that of its cases (default: `cases` in the kit). Tests run over all cases that exist. Without a case
they skip with a reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.support import parity
from tests.support.paths import SHARED
from vrshq.operators.models.bundle import FORMAT
from vrshq.operators.models.sa2va.config import Sa2vaConfig
from vrshq.operators.models.sa2va.layout import load_language, load_segmenter, read_config
from vrshq.operators.models.sa2va.network import Sa2vaLanguage
from vrshq.operators.models.sa2va.pictures import Picture, picture
from vrshq.operators.models.sa2va.prompt import Conversation
from vrshq.operators.models.sam2.segmenter import Segmenter

KIT = Path(os.environ.get("VRSHQ_SA2VA_PARITY_DIR") or SHARED / "parity-sa2va")
CASES_DIR = Path(os.environ.get("VRSHQ_SA2VA_PARITY_CASES") or KIT / "cases")

# Section 8 of the kit's README: largest allowed |difference| in float32. Arrays not listed are exact.
TOLERANCES = {
    "pixel_values_first": 1e-5,
    "pixel_values_row_mean": 1e-5,
    "vision_tokens": 3e-5,
    "vision_deepstack": 3e-5,
    "step_logits": 5e-5,
    "hidden_last": 2e-4,
    "seg_hidden": 1e-4,
    "seg_embed": 1e-4,
    "sam_pixel_values_sub": 1e-5,
    "sam_pixel_values_mean": 1e-5,
    "sam_feat_s4": 2e-4,
    "sam_feat_s8": 5e-5,
    "sam_feat_s16": 1e-4,
    "memory_pos": 1e-5,
    "sparse_prompt": 1e-4,
    "prompt_low_res_multi": 2e-2,
    "prompt_low_res": 3e-3,
    "prompt_iou": 4e-4,
    "prompt_object_logit": 3e-3,
    "prompt_pointer": 5e-4,
    "prompt_memory": 4e-2,
    "track_conditioned_first": 2e-4,
    "track_iou": 1e-4,
    "track_object_logit": 1e-3,
    "track_pointer": 1e-4,
    "track_low_res": 3e-3,
    "track_memory": 3e-3,
    "track_memory_last": 3e-3,
    "final_logits_sub": 1e-2,
}
MASK_MARGIN, MASK_PIXELS = 0.005, 20  # masks may differ where the own logit is this near to 0, and in so many pixels


class Case(parity.Case):
    """A video and a text of the kit. `case["key"]` is an array, `case.info` the JSON file of the case."""

    def __init__(self, case_id: str) -> None:
        self.id = case_id
        self.info: dict[str, Any] = json.loads((CASES_DIR / f"{case_id}.json").read_text())

    @cached_property
    def _arrays(self) -> Any:
        return np.load(CASES_DIR / f"{self.id}.npz")

    @property
    def pictures(self) -> list[Picture]:
        """The pictures of the frames that the language model sees."""
        return [to_picture(frame) for frame in self["frames"][: prompted_frames()]]

    @property
    def keys(self) -> set[str]:
        """The names of the arrays."""
        return set(self._arrays.files)


@cache
def load_case(case_id: str) -> Case:
    return Case(case_id)


def case_ids() -> list[str]:
    """Ids of the existing cases: every <id>.npz that has an <id>.json."""
    return sorted(path.stem for path in CASES_DIR.glob("*.npz") if path.with_suffix(".json").exists())


def missing() -> str:
    """The reason why parity tests cannot run; "": they can."""
    if not (KIT / "config_tiny.json").exists():
        return f"no parity kit of Sa2VA at {KIT} (set VRSHQ_SA2VA_PARITY_DIR)"
    return "" if case_ids() else f"no parity cases in {CASES_DIR} (set VRSHQ_SA2VA_PARITY_CASES)"


needs_kit = pytest.mark.skipif(bool(missing()), reason=missing() or "the kit is there")


def each_case() -> Callable[..., Any]:
    """Decorator: the test runs once for each case, with the argument `case_id`."""
    reason = missing()
    none = [pytest.param("none", marks=pytest.mark.skip(reason=reason))]
    return pytest.mark.parametrize("case_id", none if reason else case_ids())


def changes() -> dict[str, Any]:
    """What the kit's configuration says beyond `config.json`."""
    kit = json.loads((KIT / "config_tiny.json").read_text())
    sam2, resize = kit["sam2"], kit["inference"]["second_resize"]
    names = [
        *("image_size", "d_model", "memory_dim", "embed_dim", "num_heads", "iou_head_hidden_dim"),
        *("memory_attention_layers", "memory_attention_dim_feedforward", "decoder_dim_feedforward"),
    ]
    lists = ("stages", "window_spec", "global_attention_blocks", "window_pos_embed_bkg_spatial_size")
    flags = sam2["flags"]
    sizes = {name: sam2[name] for name in (*names, *lists)}
    sizes |= {"num_maskmem": flags["num_maskmem"], "max_object_pointers": flags["max_obj_ptrs_in_encoder"]}
    return {"min_pixels": resize["min_pixels"], "max_pixels": resize["max_pixels"], "sam2": sizes}


@cache
def model_config() -> Sa2vaConfig:
    """The kit's tiny configuration."""
    return read_config(KIT / "model", changes())


def prompted_frames() -> int:
    """How many of the first frames the language model sees, at most."""
    kit = json.loads((KIT / "config_tiny.json").read_text())
    return int(kit["inference"]["prompted_frames"])


def write_bundle(folder: Path) -> str:
    """The kit's weights and tokenizer as a bundle of the family."""
    folder.mkdir(parents=True, exist_ok=True)
    for file in (KIT / "model").iterdir():
        (folder / file.name).symlink_to(file)
    description = {"format": FORMAT, "name": "kit", "family": "sa2va", "model": changes()}
    (folder / "bundle.json").write_text(json.dumps(description))
    return str(folder)


@cache
def language(device: str = "cpu") -> Sa2vaLanguage:
    return load_language(KIT / "model", model_config(), device, torch.float32)


@cache
def segmenter(device: str = "cpu") -> Segmenter:
    return load_segmenter(KIT / "model", model_config(), device)


@cache
def conversation() -> Conversation:
    return Conversation(KIT / "model" / "tokenizer.json")


def to_picture(frame: np.ndarray) -> Picture:
    config = model_config()
    return picture(frame, patch=config.vision["patch_size"], least=config.min_pixels, most=config.max_pixels)


def check(case: Case, key: str, got: Any, want: Any = None, *, prefix: str = "", label: str = "") -> None:
    """As `parity.check`, with this kit's tolerance of `key`; `prefix` stands before the array's name."""
    want = case[f"{prefix}{key}"] if want is None else want
    parity.check(case, f"sa2va {key}", got, want, allowed=TOLERANCES.get(key, 0.0), label=label)

"""The parity kit for tests: path, configuration, weights, cases, tolerances, and `check`, which records the differences.

VRSHQ_PARITY_DIR is the folder of the kit (default: `shared/parity` beside the repository), VRSHQ_PARITY_CASES that of its cases
(default: `cases` in the kit). Tests run over all cases that exist. Without a case they skip with a reason.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.support.paths import SHARED
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

KIT = Path(os.environ.get("VRSHQ_PARITY_DIR") or SHARED / "parity")
CASES_DIR = Path(os.environ.get("VRSHQ_PARITY_CASES") or KIT / "cases")
NO_OBJECT = -1024.0

# Section 11 of the kit's README: largest allowed |difference| in float32. Arrays not listed are integers: exact.
TOLERANCES = {
    "clip_pixel_values_first": 1e-5,
    "clip_image_embeds": 1e-5,
    "clip_text_embeds": 1e-5,
    "clip_logits_per_image": 1e-4,
    "clip_probs": 1e-5,
    "vt_pixel_values_first": 1e-5,
    "vt_features": 2e-4,
    "tokens_pre_projector": 2e-4,
    "tokens_post_projector": 2e-4,
    "hidden_last": 1e-3,
    "seg_hidden": 3e-4,
    "tak_hidden": 3e-4,
    "seg_embed": 3e-4,
    "tak_embed": 3e-4,
    "similarity_cos": 3e-5,
    "similarity_softmax": 1e-5,
    "fused_by_alpha": 3e-4,
    "fused": 3e-4,
    "sam_pixel_values_first": 1e-5,
    "sam_feat_s4": 1e-4,
    "sam_feat_s8": 1e-4,
    "sam_feat_s16": 1e-4,
    "tks_object_logit": 5e-4,
    "tks_object_prob": 5e-5,
    "tks_iou": 1e-5,
    "tks_low_res_logits": 1e-3,
    "tks_score": 5e-5,
    "clip_prob_selected": 1e-5,
    "key_mask_logits": 1e-3,
    "cond_low_res_logits": 1e-4,
    "cond_obj_ptr": 1e-4,
    "cond_memory": 2e-4,
    "memory_pos": 1e-5,
    "track_object_logit": 5e-4,
    "track_iou": 1e-5,
    "track_low_res_logits": 1e-3,
    "track_low_res_logits_before_fill": 1e-3,
    "track_obj_ptr": 2e-4,
    "track_memory": 1e-3,
    "final_logits": 2e-3,
}
MASK_MARGIN = 2e-3  # masks may differ only at pixels whose stored |logit| is below this


@dataclass(frozen=True)
class Score:
    """A comparison: the largest |difference|, and the allowed one (0: exact)."""

    key: str
    case: str
    difference: float
    allowed: float


SCORES: list[Score] = []


class Case:
    """A video and an expression of the kit. `case["key"]` is an array, `case.info` the JSON file of the case."""

    def __init__(self, case_id: str) -> None:
        self.id = case_id
        self.info: dict[str, Any] = json.loads((CASES_DIR / f"{case_id}.json").read_text())

    @cached_property
    def _arrays(self) -> Any:
        return np.load(CASES_DIR / f"{self.id}.npz")

    @cached_property
    def holefill(self) -> Any:
        """The arrays of the run with hole filling; None: the case has none."""
        path = CASES_DIR / f"{self.id}_holefill.npz"
        return np.load(path) if path.exists() else None

    def __getitem__(self, key: str) -> np.ndarray:
        array: np.ndarray = self._arrays[key]
        return array


class CaseVideo:
    """A case's frames with the interface of a video."""

    def __init__(self, case: Case) -> None:
        self.array = case["frames"]
        self.num_frames, self.height, self.width = self.array.shape[:3]

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        found: np.ndarray = self.array[list(indices)]
        return found


@cache
def load_case(case_id: str) -> Case:
    return Case(case_id)


def case_ids() -> list[str]:
    """Ids of the existing cases: every <id>.npz that has an <id>.json."""
    return sorted(path.stem for path in CASES_DIR.glob("*.npz") if path.with_suffix(".json").exists())


def missing() -> str:
    """The reason why parity tests cannot run; "": they can."""
    if not (KIT / "config_tiny.json").exists():
        return f"no parity kit at {KIT} (set VRSHQ_PARITY_DIR)"
    return "" if case_ids() else f"no parity cases in {CASES_DIR} (set VRSHQ_PARITY_CASES)"


needs_kit = pytest.mark.skipif(bool(missing()), reason=missing() or "the kit is there")


def _case_parameters() -> list[Any]:
    if reason := missing():
        return [pytest.param("none", marks=pytest.mark.skip(reason=reason))]
    return list(case_ids())


# Decorator: the test runs once for each case, with the argument `case_id`.
each_case = pytest.mark.parametrize("case_id", _case_parameters())


@cache
def model_config() -> ModelConfig:
    """The kit's tiny configuration as a ModelConfig."""
    kit = json.loads((KIT / "config_tiny.json").read_text())
    language, sam2, clip = kit["language_model"], kit["sam2"], kit["presampling_clip"]
    trunk, flags = sam2["trunk"], sam2["flags"]
    return ModelConfig(
        language=LanguageConfig(
            hidden_size=language["hidden_size"],
            intermediate_size=language["intermediate_size"],
            num_layers=language["num_hidden_layers"],
            num_heads=language["num_attention_heads"],
            num_key_value_heads=language["num_key_value_heads"],
            rms_norm_eps=language["rms_norm_eps"],
            rope_theta=language["rope_theta"],
            max_positions=language["max_position_embeddings"],
            vocab_size=language["vocab_size"],
            seg_token_id=language["seg_token_id"],
            tak_token_id=language["tak_token_id"],
        ),
        tower=TowerConfig(**_vision_sizes(kit["vision_tower"])),
        clustering=ClusteringConfig(
            clusters=tuple(kit["token_clustering"]["clusters_per_level"]),
            neighbours=tuple(kit["token_clustering"]["k_nearest_per_level"]),
        ),
        clip=ClipConfig(
            projection_dim=clip["projection_dim"],
            vision=VisionConfig(**_vision_sizes(clip["vision"])),
            text=ClipTextConfig(
                hidden_size=clip["text"]["hidden_size"],
                intermediate_size=clip["text"]["intermediate_size"],
                num_layers=clip["text"]["num_hidden_layers"],
                num_heads=clip["text"]["num_attention_heads"],
                vocab_size=clip["text"]["vocab_size"],
                max_positions=clip["text"]["max_positions"],
                layer_norm_eps=clip["text"]["layer_norm_eps"],
                eos_token_id=clip["text"]["eos_token_id_in_config"],
            ),
        ),
        sam2=Sam2Config(
            image_size=sam2["image_size"],
            d_model=sam2["d_model"],
            memory_dim=sam2["memory_dim"],
            embed_dim=trunk["embed_dim"],
            num_heads=trunk["num_heads_first_stage"],
            stages=tuple(trunk["stages"]),
            window_spec=tuple(trunk["window_spec"]),
            global_attention_blocks=tuple(trunk["global_attention_blocks"]),
            window_pos_embed_bkg_spatial_size=tuple(trunk["window_pos_embed_bkg_spatial_size"]),
            memory_attention_layers=sam2["memory_attention"]["layers"],
            memory_attention_dim_feedforward=sam2["memory_attention"]["dim_feedforward"],
            num_maskmem=flags["num_maskmem"],
            max_object_pointers=flags["max_obj_ptrs_in_encoder"],
        ),
    )


def _vision_sizes(kit: dict[str, Any]) -> dict[str, Any]:
    return {
        "hidden_size": kit["hidden_size"],
        "intermediate_size": kit["intermediate_size"],
        "num_layers": kit["num_hidden_layers"],
        "num_heads": kit["num_attention_heads"],
        "image_size": kit["image_size"],
        "patch_size": kit["patch_size"],
        "layer_norm_eps": kit["layer_norm_eps"],
    }


@cache
def main_weights() -> dict[str, torch.Tensor]:
    """The main checkpoint by published parameter names."""
    return load_file(KIT / "model_safetensors" / "model.safetensors")


@cache
def clip_weights() -> dict[str, torch.Tensor]:
    """The pre-sampling CLIP by the parameter names of transformers."""
    return load_file(KIT / "clip" / "model.safetensors")


def weights_under(prefix: str) -> dict[str, torch.Tensor]:
    """The weights of the main checkpoint whose names begin with `prefix`, by their names without it."""
    return {name.removeprefix(prefix): value for name, value in main_weights().items() if name.startswith(prefix)}


def language_weights() -> dict[str, torch.Tensor]:
    """The weights of the language part by their names in `ChatUniVi`, without those that it computes."""
    published = {
        "model.vision_tower.vision_tower.vision_model.": "vision_tower.",
        "model.mm_projector.": "mm_projector.",
        "model.text_hidden_fcs.0.": "text_hidden_fcs.",
        "model.embed_tokens.": "llama.embed_tokens.",
        "model.layers.": "llama.layers.",
        "model.norm.": "llama.norm.",
    }
    state = {ours + name: value for theirs, ours in published.items() for name, value in weights_under(theirs).items()}
    derived = ("rotary_emb.inv_freq", "embeddings.position_ids")
    return {name: value for name, value in state.items() if not name.endswith(derived)}


def check(case: Case, key: str, got: Any, want: Any = None, *, allowed: float | None = None, label: str = "") -> None:
    """Compares `got` with the case's array `key` (or `want`), records the largest |difference|, asserts the tolerance.

    Args:
        case: the case whose arrays are the reference.
        key: name of the reference array; it also selects the tolerance.
        got: the tensor or array to compare, of the same shape as the reference.
        want: the reference; default: the case's array `key`.
        allowed: the largest |difference|; default: the kit's tolerance for `key`, exact for keys without one.
        label: text beside the key in the table, for example the schedule that gave `got`.

    `got` must be -1024 (no object) exactly where the reference is.
    """
    want = np.asarray(case[key] if want is None else want)
    got = got.detach().cpu().numpy() if isinstance(got, torch.Tensor) else np.asarray(got)
    name = f"{key} ({label})" if label else key
    allowed = TOLERANCES.get(key, 0.0) if allowed is None else allowed
    assert got.shape == want.shape, f"{case.id} {name}: shape {got.shape}, expected {want.shape}"
    if want.dtype.kind == "f":
        assert np.array_equal(got == NO_OBJECT, want == NO_OBJECT), f"{case.id} {name}: -1024 at other places"
    distance = np.abs(got.astype(np.float64) - want.astype(np.float64))
    difference = float(distance.max()) if distance.size else 0.0
    SCORES.append(Score(name, case.id, difference, allowed))
    assert difference <= allowed, f"{case.id} {name}: max |difference| {difference:.3g}, allowed {allowed:.3g}"


def check_mask(case: Case, key: str, got: Any, logits: np.ndarray, want: Any = None, *, label: str = "") -> None:
    """Compares a 0/1 mask with the stored one. Only pixels whose stored |logit| is below `MASK_MARGIN` may differ.

    The recorded difference is the largest |logit| of a differing pixel.
    """
    want = np.asarray(case[key] if want is None else want) > 0
    got = (got.detach().cpu().numpy() if isinstance(got, torch.Tensor) else np.asarray(got)) > 0
    name = f"{key} ({label})" if label else key
    assert got.shape == want.shape == logits.shape, f"{case.id} {name}: shape {got.shape}, expected {want.shape}"
    differing = np.abs(logits[got != want])
    difference = float(differing.max()) if differing.size else 0.0
    SCORES.append(Score(name, case.id, difference, MASK_MARGIN))
    assert difference < MASK_MARGIN, f"{case.id} {name}: {differing.size} pixels differ, up to |logit| {difference:.3g}"


def score_table() -> list[str]:
    """One line per key: largest |difference| over the cases, the allowed one, the case with the largest one, all cases."""
    worst: dict[str, Score] = {}
    cases: dict[str, set[str]] = {}
    for score in SCORES:
        cases.setdefault(score.key, set()).add(score.case)
        if score.key not in worst or score.difference > worst[score.key].difference:
            worst[score.key] = score
    lines = [f"{'array':<48} {'max |diff|':>10} {'allowed':>8}  worst  cases"] if worst else []
    for key, score in worst.items():
        verdict = "" if score.difference <= score.allowed else "  FAILED"
        allowed = f"{score.allowed:.0e}" if score.allowed else "exact"
        found_in = ",".join(sorted(cases[key]))
        lines.append(f"{key:<48} {score.difference:>10.1e} {allowed:>8}  {score.case:<5}  {found_in}{verdict}")
    return lines

"""A case of the parity kit on any device: how far each tensor is from the reference's, and whether the decisions are equal."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from tests.support import parity as kit
from vrshq.operators.fuse import fuse, similarities
from vrshq.operators.models.keyframe_scores import tks_scores
from vrshq.operators.models.preprocess import clip_input
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.prompting import decode_candidates
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.tracking import condition_all, propagate_all
from vrshq.operators.models.vrs_hq.network import ChatUniVi
from vrshq.operators.models.vrs_hq.prompt import PromptTokenizer, normalize


@dataclass
class Found:
    """What a case gave.

    Attributes:
        shares: (array, largest difference over the tolerance).
        decided: whether keyframe and masks are the reference's.
        bfloat16_iou: of all masks of the video, SAM2 in bfloat16 against float32.
    """

    shares: list[tuple[str, float]] = field(default_factory=list)
    decided: bool = True
    bfloat16_iou: float = 1.0


@torch.inference_mode()
def parity_of(case: kit.Case, device: str) -> Found:
    """Runs a case from its frames to its masks, each network from the reference's inputs, without TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    found = Found()
    _language(case, device, found)
    seg, tak = torch.from_numpy(case["seg_embed"]), torch.from_numpy(case["tak_embed"][0])
    cosines = similarities(seg.to(device), tak.to(device))
    _compare(case, "similarity_cos", cosines, found)
    _compare(case, "fused", fuse(seg, tak, 0.1)[None], found)
    exact = _masks(case, device, torch.float32, found)
    rounded = _masks(case, device, torch.bfloat16, None)
    union = float((exact | rounded).sum())
    found.bfloat16_iou = float((exact & rounded).sum()) / union if union else 1.0
    return found


def _compare(case: kit.Case, key: str, got: Tensor, found: Found) -> None:
    difference = np.abs(got.float().cpu().numpy().astype(np.float64) - case[key])
    found.shares.append((f"{case.id} {key}", float(difference.max()) / kit.TOLERANCES[key]))


def _language(case: kit.Case, device: str, found: Found) -> None:
    network = ChatUniVi(kit.model_config()).eval()
    network.load_state_dict(kit.language_weights())
    network.to(device)
    sizes = kit.model_config().language
    tokenizer = PromptTokenizer(str(kit.KIT / "model" / "tokenizer.model"), sizes.seg_token_id, sizes.tak_token_id)
    frames = case["frame_ids"]
    prompt = tokenizer.encode(normalize(case.info["expression_raw"]), len(frames))
    tokens = network.image_tokens(clip_input(case["frames"][frames], kit.model_config().tower.image_size).to(device))
    _compare(case, "tokens_post_projector", tokens, found)
    _compare(case, "hidden_last", network.hidden_states(prompt, tokens), found)
    read = network.read_out([prompt], tokens)[0]
    _compare(case, "seg_embed", read.seg, found)
    _compare(case, "tak_embed", read.tak[None], found)


def _masks(case: kit.Case, device: str, dtype: torch.dtype, found: Found | None) -> Tensor:
    """The final masks (T, H, W) bool on the CPU; in float32 compared with the reference's."""
    network: Segmenter = Segmenter(kit.model_config().sam2).eval()
    network.load_state_dict(kit.weights_under("model.visual_model."))
    network.to(device).compute_in(dtype)
    opened = VideoFeatures(network, kit.CaseVideo(case), budget_bytes=1 << 30, batch_size=4)
    frames, prompt = case["frame_ids"].tolist(), torch.from_numpy(case["fused"][0])
    candidates = decode_candidates(network, opened, [(frame, 0) for frame in frames], [prompt], 16, 0)
    scores = torch.tensor([candidates[frame, 0][0] for frame in frames])
    chosen = frames[int(tks_scores(scores, torch.from_numpy(case["similarity_cos"])).argmax())]
    key, total = int(case["key_frame"]), len(case["frames"])
    conditioned = condition_all(network, opened, {0: key}, {0: candidates[key, 0][1]}, 0)
    low_res = {key: conditioned[0][0]}
    for step in propagate_all(network, opened, {0: {key: conditioned[0][1]}}, total, 16):
        low_res |= {one.frame: one.low_res for one in step}
    stacked = torch.stack([low_res[frame] for frame in range(total)])
    size: Any = tuple(int(side) for side in case["orig_hw"])
    final = to_frame_size(stacked, network.image_size, opened.resized_hw, size).cpu()
    if found is not None:
        _compare(case, "tks_object_logit", scores, found)
        _compare(case, "final_logits", final, found)
        clear = np.abs(case["final_logits"]) >= kit.MASK_MARGIN
        equal = ((final.numpy() > 0) == (case["final_masks"] > 0))[clear].all()
        found.decided = chosen == key and bool(equal)
    return final > 0

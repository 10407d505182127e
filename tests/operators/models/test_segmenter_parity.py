"""The SAM2 side against the kit: features, TDA, TKS, keyframe mask, memory, tracking, final masks."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.parity import (
    Case,
    CaseVideo,
    check,
    check_mask,
    each_case,
    load_case,
    model_config,
    needs_kit,
    weights_under,
)
from vrshq.operators.fuse import fuse, similarities
from vrshq.operators.keyframe import choose
from vrshq.operators.masks.holes import fill_holes
from vrshq.operators.models.keyframe_scores import tks_scores
from vrshq.operators.models.preprocess import sam2_input
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.prompting import decode_candidates
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.tracking import TrackedFrame, condition_all, propagate_all
from vrshq.operators.models.sam2.values import Features, Memory


@cache
def segmenter(device: str) -> Segmenter:
    network: Segmenter = Segmenter(model_config().sam2).eval()
    network.load_state_dict(weights_under("model.visual_model."))
    network.to(device)
    return network


def features_of(case: Case, device: str, budget_bytes: int = 1 << 30, batch_size: int = 1) -> VideoFeatures:
    return VideoFeatures(segmenter(device), CaseVideo(case), budget_bytes=budget_bytes, batch_size=batch_size)


@needs_kit
@each_case
def test_image_features_parity(case_id: str, device: str) -> None:
    case = load_case(case_id)
    pixels, _ = sam2_input(case["frames"][case["frame_ids"][:1]], segmenter(device).image_size)
    with torch.inference_mode():
        features: Features = segmenter(device).encode(pixels.to(device))
    check(case, "sam_feat_s4", features.s4[0])
    check(case, "sam_feat_s8", features.s8[0])
    check(case, "sam_feat_s16", features.s16[0])


@needs_kit
@each_case
def test_tda_parity(case_id: str) -> None:
    case = load_case(case_id)
    seg, tak = torch.from_numpy(case["seg_embed"]), torch.from_numpy(case["tak_embed"][0])
    cosines = similarities(seg, tak)
    check(case, "similarity_cos", cosines)
    check(case, "similarity_softmax", cosines.softmax(0))
    check(case, "fused_by_alpha", torch.stack([fuse(seg, tak, float(alpha)) for alpha in case["alphas"]]))
    check(case, "fused", fuse(seg, tak, 0.1)[None])


@needs_kit
@each_case
def test_tks_parity(case_id: str, device: str) -> None:
    case = load_case(case_id)
    frames = case["frame_ids"].tolist()
    features = features_of(case, device).get(frames)
    prompts = torch.from_numpy(case["fused"]).expand(len(frames), -1).to(device)
    with torch.inference_mode():
        decoded = segmenter(device).decode_prompt(features, prompts)
    check(case, "tks_object_logit", decoded.object_logit)
    check(case, "tks_iou", decoded.iou)
    check(case, "tks_low_res_logits", decoded.low_res)
    check(case, "tks_object_prob", decoded.object_logit.softmax(0))
    cosines = torch.from_numpy(case["similarity_cos"])
    check(case, "tks_score", tks_scores(decoded.object_logit.cpu(), cosines))
    chosen = choose(
        "tks",
        object_scores=decoded.object_logit.cpu(),
        similarities=cosines,
        clip_probs=torch.from_numpy(case["clip_probs"])[frames],
        random=np.random.default_rng(0),
    )
    check(case, "key_index", chosen)
    check(case, "key_frame", frames[chosen])


@needs_kit
@each_case
@pytest.mark.parametrize("holes", [False, True], ids=["unfilled", "filled"])
@pytest.mark.parametrize("schedule", ["alone", "batched"])
def test_keyframe_and_propagation_parity(case_id: str, device: str, holes: bool, schedule: str) -> None:
    case = load_case(case_id)
    if holes and case.holefill is None:
        pytest.skip(f"case {case_id} has no hole-filling arrays")
    want: Any = case.holefill if holes else case
    area = 8 if holes else 0
    label = f"{schedule}, filled" if holes else schedule
    # "batched": three instructions at once, one of them this case's, on another keyframe or on the same
    key_frame, total = int(case["key_frame"]), len(case["frames"])
    fused = [torch.from_numpy(case["fused"][0])]
    keyframes = {0: key_frame}
    if schedule == "batched":
        rolled = torch.from_numpy(np.roll(case["fused"][0], 7))
        fused, keyframes = [*fused, rolled, rolled], {0: key_frame, 1: key_frame, 2: total // 3}
    features = features_of(case, device, batch_size=4 if schedule == "batched" else 1)
    decoded = decode_candidates(
        segmenter(device), features, [(frame, position) for position, frame in keyframes.items()], fused, 16, area
    )
    masks = {position: decoded[frame, position][1] for position, frame in keyframes.items()}
    key_logits = segmenter(device).to_image_size(masks[0][None])[0]
    check(case, "key_mask_logits", key_logits, want["key_mask_logits"], label=label)
    check_mask(case, "key_mask", key_logits > 0, want["key_mask_logits"], want["key_mask"], label=label)

    conditioned = condition_all(segmenter(device), features, keyframes, masks, area)
    low_res, memory = conditioned[0]
    if not holes:
        check(case, "cond_low_res_logits", low_res, label=label)
        check(case, "cond_obj_ptr", memory.pointer[0], label=label)
        check(case, "cond_memory", memory.features[0], label=label)
        position = segmenter(device).memory_encoder.position_encoding(memory.features)[0]
        check(case, "memory_pos", position, label=label)
        binarized = segmenter(device).to_image_size(low_res[None])[0] > 0
        check_mask(case, "cond_binarized_for_memory", binarized, case["key_mask_logits"], label=label)

    memories = {position: {keyframes[position]: entry} for position, (_, entry) in conditioned.items()}
    tracked: list[TrackedFrame] = [
        item
        for step in propagate_all(segmenter(device), features, memories, total, 16)
        for item in step
        if item.position == 0
    ]
    order = [item.frame for item in tracked]
    assert order == case["track_frame"].tolist()
    assert [item.frame < key_frame for item in tracked] == (case["track_reverse"] > 0).tolist()
    if tracked:
        before = "track_low_res_logits_before_fill" if holes else "track_low_res_logits"
        raw = torch.stack([item.low_res for item in tracked])
        check(case, before, raw, want[before], label=label)
        if not holes:
            check(case, "track_object_logit", [item.object_logit for item in tracked], label=label)
            check(case, "track_iou", [item.iou for item in tracked], label=label)
            check(case, "track_obj_ptr", torch.cat([item.memory.pointer for item in tracked]), label=label)
            check(case, "track_memory", torch.cat([item.memory.features for item in tracked]), label=label)

    rows = {key_frame: low_res} | {item.frame: fill_holes(item.low_res[None], area)[0] for item in tracked}
    stacked = torch.stack([rows[frame] for frame in range(total)])
    size = (int(case["orig_hw"][0]), int(case["orig_hw"][1]))
    final = to_frame_size(stacked, segmenter(device).image_size, features.resized_hw, size)
    check(case, "final_logits", final, want["final_logits"], label=label)
    check_mask(case, "final_masks", final > 0, want["final_logits"], want["final_masks"], label=label)
    assert features.encoder_calls <= total


@needs_kit
@each_case
def test_tight_feature_budget_changes_no_mask_parity(case_id: str, device: str) -> None:
    case = load_case(case_id)
    key_frame, total = int(case["key_frame"]), len(case["frames"])
    low_res: list[list[torch.Tensor]] = []
    calls = []
    for budget in (1, 1 << 30):
        features = features_of(case, device, budget_bytes=budget)
        prompt = torch.from_numpy(case["fused"])
        mask = {0: decode_candidates(segmenter(device), features, [(key_frame, 0)], [*prompt], 16, 0)[key_frame, 0][1]}
        memory: dict[int, dict[int, Memory]] = {
            position: {key_frame: entry}
            for position, (_, entry) in condition_all(segmenter(device), features, {0: key_frame}, mask, 0).items()
        }
        steps = propagate_all(segmenter(device), features, memory, total, 16)
        low_res.append([item.low_res for step in steps for item in step])
        calls.append(features.encoder_calls)
    assert calls[0] >= calls[1] == total
    for tight, roomy in zip(*low_res, strict=True):
        assert torch.equal(tight, roomy)

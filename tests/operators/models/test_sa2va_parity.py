"""Parity of Sa2VA with its reference: pictures, prompts, answers, [SEG] states, prompted and tracked masks."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np
import pytest
import torch

from tests.support.parity import CaseVideo
from tests.support.sa2va_parity import (
    KIT,
    MASK_MARGIN,
    MASK_PIXELS,
    case_ids,
    check,
    conversation,
    each_case,
    language,
    load_case,
    model_config,
    needs_kit,
    prompted_frames,
    segmenter,
    to_picture,
)
from vrshq.operators.models.preprocess import square_input
from vrshq.operators.models.sa2va.network import Answer, Seen
from vrshq.operators.models.sa2va.pictures import first_resize, fitted, picture
from vrshq.operators.models.sam2.features import VideoFeatures
from vrshq.operators.models.sam2.heads import Masks, decode_masks
from vrshq.operators.models.sam2.segmenter import Segmenter, to_frame_size
from vrshq.operators.models.sam2.tracking import TrackedFrame, prompt_all, propagate_all
from vrshq.operators.models.sam2.values import Memory

MOST_TOKENS = 40  # the longest answer of the kit has 20


@contextmanager
def outputs_of(module: torch.nn.Module, *, inputs: bool = False) -> Iterator[list[Any]]:
    """The outputs (or first inputs) of every call of a module."""
    kept: list[Any] = []
    handle = (
        module.register_forward_pre_hook(lambda _, given: kept.append(given[0]))
        if inputs
        else module.register_forward_hook(lambda *call: kept.append(call[2]))
    )
    try:
        yield kept
    finally:
        handle.remove()


@contextmanager
def arguments_of(module: torch.nn.Module) -> Iterator[list[dict[str, Any]]]:
    """The named arguments of every call of a module."""
    kept: list[dict[str, Any]] = []
    handle = module.register_forward_pre_hook(lambda _, __, named: kept.append(named), with_kwargs=True)
    try:
        yield kept
    finally:
        handle.remove()


def answer_of(case_id: str, device: str = "cpu") -> Answer:
    """The answer of a case, alone in its batch."""
    case, network = load_case(case_id), language(device)
    pictures = case.pictures
    prefix = conversation().prefix(pictures)
    cache = network.run_prefix(prefix, Seen.concatenate(network.see(pictures)))
    suffix = conversation().suffix(case.info["text"])
    seg = conversation().seg_id
    (answer,) = network.answers(prefix, cache, [suffix], seg_id=seg, max_new_tokens=MOST_TOKENS)
    return answer


def codes_of(pixels: torch.Tensor) -> np.ndarray:
    """The 8-bit picture behind normalised pixels (3, h, w): (h, w, 3)."""
    mean, std = np.array([0.485, 0.456, 0.406]), np.array([0.229, 0.224, 0.225])
    codes: np.ndarray = np.rint((pixels.permute(1, 2, 0).numpy() * std + mean) * 255)
    return codes


@each_case()
def test_sa2va_pictures_parity(case_id: str) -> None:
    case = load_case(case_id)
    pictures = case.pictures
    check(case, "qwen_image_first", first_resize(case["frames"][0]))
    check(case, "image_grid_thw", np.array([one.grid for one in pictures]))
    check(case, "pixel_values_first", pictures[0].patches)
    check(case, "pixel_values_row_mean", torch.cat([one.patches.double().mean(1) for one in pictures]))
    firsts = [fitted(frame.shape[0], frame.shape[1], 28, 3136, 12845056) for frame in case["frames"][: len(pictures)]]
    assert [list(size) for size in firsts] == case.info["image_sizes_after_first_resize_hw"]
    seconds = [[side * 16 for side in one.grid[1:]] for one in pictures]
    assert seconds == case.info["image_sizes_after_second_resize_hw"]


@each_case()
def test_sa2va_prompt_parity(case_id: str) -> None:
    case = load_case(case_id)
    prefix, suffix = conversation().prefix(case.pictures), conversation().suffix(case.info["text"])
    check(case, "input_ids", np.array([*prefix.ids, *suffix]))
    after = range(prefix.next_position, prefix.next_position + len(suffix))
    check(case, "position_ids", np.array([[*row, *after] for row in prefix.positions]))
    assert len(prefix.ids) + len(suffix) == case.info["prompt_length"]


@each_case()
def test_sa2va_answer_parity(case_id: str, device: str) -> None:
    case, network = load_case(case_id), language(device)
    with (
        outputs_of(network.model.model.language_model.norm, inputs=True) as states,
        outputs_of(network.model.lm_head) as logits,
        arguments_of(network.model.model.language_model) as calls,
    ):
        seen = Seen.concatenate(network.see(case.pictures))
        answer = answer_of(case_id, device)
    check(case, "vision_tokens", seen.tokens)
    check(case, "vision_deepstack", torch.stack(seen.deepstack))
    check(case, "generated_ids", np.array(answer.ids))
    assert conversation().answer(answer.ids) == case.info["prediction"]
    check(case, "step_logits", torch.cat(logits))
    if len(answer.ids) > 1:
        check(case, "position_ids_steps", torch.cat([call["position_ids"][:, 0] for call in calls[2:]], dim=1))
    hidden = torch.cat([one[0] for one in states])
    check(case, "hidden_last", hidden)
    assert len(answer.embeddings) == case.info["num_seg"]
    check(case, "seg_embed", answer.embeddings)
    ids = np.array([*case["input_ids"], *answer.ids[:-1]])
    rows = np.flatnonzero(ids == conversation().seg_id)
    check(case, "seg_rows", rows)
    check(case, "seg_hidden", hidden[rows])


@needs_kit
def test_sa2va_answers_in_one_batch_parity() -> None:
    """All texts of the kit, asked on the frames of one case, are answered as each is alone; the prefix is run once."""
    case, network = load_case(case_ids()[0]), language()
    pictures, seg = case.pictures, conversation().seg_id
    prefix = conversation().prefix(pictures)
    cache = network.run_prefix(prefix, Seen.concatenate(network.see(pictures)))
    suffixes = [conversation().suffix(load_case(other).info["text"]) for other in case_ids()]
    together = network.answers(prefix, cache, suffixes, seg_id=seg, max_new_tokens=MOST_TOKENS)
    alone = [network.answers(prefix, cache, [suffix], seg_id=seg, max_new_tokens=MOST_TOKENS)[0] for suffix in suffixes]
    assert len({len(suffix) for suffix in suffixes}) > 1
    for one, other in zip(together, alone, strict=True):
        assert one.ids == other.ids
        assert torch.allclose(one.embeddings, other.embeddings, atol=1e-4)
    check(case, "generated_ids", np.array(together[0].ids), label="in a batch")
    check(case, "seg_embed", together[0].embeddings, label="in a batch")


@needs_kit
def test_sa2va_state_after_the_norm_is_another_one() -> None:
    """The switch changes the embeddings and nothing else."""
    case_id = next(one for one in case_ids() if load_case(one).info["num_seg"])
    published, network = answer_of(case_id), language()
    config = network.config
    try:
        object.__setattr__(config, "state", "after_norm")
        other = answer_of(case_id)
    finally:
        object.__setattr__(config, "state", "before_norm")
    assert other.ids == published.ids
    assert (other.embeddings - published.embeddings).abs().max() > 0.05


@cache
def segmented(case_id: str, device: str) -> tuple[dict[tuple[int, int], TrackedFrame], VideoFeatures]:
    """The masks of a case's objects from the kit's own embeddings, by (object, frame), and the video's features."""
    case, network = load_case(case_id), segmenter(device)
    video = CaseVideo(case)
    features = VideoFeatures(network, video, budget_bytes=1 << 30, batch_size=4)
    embeddings = {number: torch.from_numpy(row) for number, row in enumerate(case["seg_embed"])}
    found = segmented_in_steps(network, features, embeddings, prompted_frames(), 16)
    return {(item.position, item.frame): item for item in found}, features


def segmented_in_steps(
    network: Segmenter, features: VideoFeatures, embeddings: dict[int, torch.Tensor], count: int, batch: int
) -> list[TrackedFrame]:
    """Objects prompted on the first frames, then tracked."""
    total = features.video.num_frames
    pairs = [(frame, number) for frame in range(min(count, total)) for number in embeddings]
    outputs = [
        item for step in prompt_all(network, features, pairs, list(embeddings.values()), batch, 0) for item in step
    ]
    memories: dict[int, dict[int, Memory]] = {number: {} for number in embeddings}
    for item in outputs:
        memories[item.position][item.frame] = item.memory
    for step in propagate_all(network, features, memories, total, batch, backward=False):
        outputs += step
    return outputs


@each_case()
def test_sa2va_sam2_input_and_features_parity(case_id: str, device: str) -> None:
    case = load_case(case_id)
    if not case.info["num_seg"]:
        pytest.skip(f"case {case_id} has no [SEG], so the reference did not run SAM2")
    size = model_config().sam2.image_size
    pixels, covered = square_input(case["frames"], size)
    assert covered == (size, size)
    check(case, "sam_pixel_values_sub", pixels[0, :, ::8, ::8])
    check(case, "sam_image_first", codes_of(pixels[0]))
    check(case, "sam_pixel_values_mean", pixels.double().mean((2, 3)))
    _, features = segmented(case_id, device)
    first = features.get([0])
    for name in ("s4", "s8", "s16"):
        check(case, f"sam_feat_{name}", getattr(first, name)[0])
    memory = torch.zeros(1, model_config().sam2.memory_dim, size // 16, size // 16)
    check(case, "memory_pos", segmenter().memory_encoder.position_encoding(memory)[0])


@each_case()
def test_sa2va_masks_parity(case_id: str, device: str) -> None:
    case, config = load_case(case_id), model_config()
    total = len(case["frames"])
    count = min(prompted_frames(), total)
    found, features = segmented(case_id, device)
    for number in range(case.info["num_seg"]):
        prefix = f"seg{number}/"
        prompted = [found[number, frame] for frame in range(count)]
        if f"{prefix}prompt_low_res" in case.keys:
            check(case, "prompt_low_res", torch.stack([item.low_res for item in prompted]), prefix=prefix)
        else:
            best = case[f"{prefix}prompt_best"]
            want = case[f"{prefix}prompt_low_res_multi"][np.arange(count), best]
            check(case, "prompt_low_res_multi", torch.stack([item.low_res for item in prompted]), want)
        chosen_iou = case[f"{prefix}prompt_iou"].max(1)
        check(case, "prompt_iou", np.array([item.iou for item in prompted]), chosen_iou)
        check(case, "prompt_object_logit", np.array([item.object_logit for item in prompted]), prefix=prefix)
        check(case, "prompt_pointer", torch.cat([item.memory.pointer for item in prompted]), prefix=prefix)
        check(case, "prompt_memory", torch.cat([item.memory.features for item in prompted]), prefix=prefix)
        tracked = [found[number, frame] for frame in range(count, total)]
        if tracked:
            check(case, "track_frame", np.array([item.frame for item in tracked]), prefix=prefix)
            check(case, "track_iou", np.array([item.iou for item in tracked]), case[f"{prefix}track_iou"].max(1))
            check(case, "track_object_logit", np.array([item.object_logit for item in tracked]), prefix=prefix)
            check(case, "track_pointer", torch.cat([item.memory.pointer for item in tracked]), prefix=prefix)
            check(case, "track_low_res", torch.stack([item.low_res for item in tracked]), prefix=prefix)
            if f"{prefix}track_memory" in case.keys:
                check(case, "track_memory", torch.cat([item.memory.features for item in tracked]), prefix=prefix)
            else:
                check(case, "track_memory_last", tracked[-1].memory.features[0], prefix=prefix)
        size = tuple(case["orig_hw"].tolist())
        low_res = torch.stack([found[number, frame].low_res for frame in range(total)])
        logits = to_frame_size(low_res, config.sam2.image_size, features.resized_hw, size).cpu().numpy()
        check(case, "final_logits_sub", logits[:, ::3, ::3], prefix=prefix)
        bits = np.unpackbits(case[f"{prefix}final_masks_packed"], axis=1)[:, : size[0] * size[1]]
        differs = (logits > 0) != bits.reshape(logits.shape).astype(bool)
        assert differs.sum() <= MASK_PIXELS
        assert np.all(np.abs(logits[differs]) <= MASK_MARGIN)
    if case.info["num_seg"]:
        assert features.encoder_calls == total < case.info["sam2_image_encoder_calls"] + (total == 1)


@each_case()
def test_sa2va_parts_of_sam2_parity(case_id: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every mask and IoU, the choice among them, the prompt tokens, and memory attention, object by object."""
    case, network, config = load_case(case_id), segmenter(), model_config()
    total = len(case["frames"])
    count = min(prompted_frames(), total)
    video = CaseVideo(case)
    given: list[torch.Tensor] = []
    decoded: list[Masks] = []

    def recorded(decoder: Any, image: Any, code: Any, prompt: list[torch.Tensor], fine: Any) -> Masks:
        given.append(torch.cat(prompt, dim=1))
        decoded.append(decode_masks(decoder, image, code, prompt, fine))
        return decoded[-1]

    monkeypatch.setattr("vrshq.operators.models.sam2.segmenter.decode_masks", recorded)
    for number in range(case.info["num_seg"]):
        prefix = f"seg{number}/"
        features = VideoFeatures(network, video, budget_bytes=1 << 30, batch_size=4)
        given.clear()
        decoded.clear()
        with outputs_of(network.memory_attention.norm) as attended:
            embedding = {0: torch.from_numpy(case["seg_embed"][number])}
            segmented_in_steps(network, features, embedding, count, batch=count)
        check(case, "sparse_prompt", given[0][0], prefix=prefix)
        masks, iou, _, _ = decoded[0]
        if f"{prefix}prompt_low_res_multi" in case.keys:
            check(case, "prompt_low_res_multi", masks, prefix=prefix)
        check(case, "prompt_iou", iou, prefix=prefix)
        check(case, "prompt_best", iou.argmax(1), prefix=prefix)
        if total > count:
            tracked = torch.cat([one[1] for one in decoded[1:]])
            check(case, "track_iou", tracked, prefix=prefix)
            check(case, "track_best", tracked.argmax(1), prefix=prefix)
            side = config.sam2.image_size // 16
            first = attended[0].transpose(1, 2).reshape(-1, side, side)
            check(case, "track_conditioned_first", first, prefix=prefix)


@needs_kit
def test_sa2va_preprocess_full_size_parity() -> None:
    kit = json.loads((KIT / "preprocess_full_size.json").read_text())
    arrays = np.load(KIT / "preprocess_full_size.npz")
    for one in kit["sizes"]:
        first = fitted(one["height"], one["width"], 28, 3136, 12845056)
        assert list(first) == one["after_first_resize_hw"]
        second = fitted(*first, 32, kit["min_pixels"], kit["max_pixels"])
        assert list(second) == one["after_second_resize_hw"]
    for name in sorted({key.partition("/")[0] for key in arrays}):
        height, width = map(int, name.split("x"))
        y, x = np.mgrid[:height, :width]
        frame = np.stack([(3 * x + 5 * y) % 256, (x * y // 7 + 40) % 256, (x * x // 50 + 2 * y) % 256], -1).astype(
            np.uint8
        )
        made = picture(frame, patch=16, least=kit["min_pixels"], most=kit["max_pixels"])
        size = next(one for one in kit["sizes"] if (one["height"], one["width"]) == (height, width))
        assert (list(made.grid), made.tokens) == (size["image_grid_thw"], size["image_tokens"])
        patches = made.patches.numpy()
        assert np.abs(patches[arrays[f"{name}/patch_index"]] - arrays[f"{name}/patches"]).max() <= 1e-5
        assert np.abs(patches.astype(np.float64).mean(1) - arrays[f"{name}/row_mean"]).max() <= 1e-5
        resized = first_resize(frame).astype(np.float64).mean((1, 2))
        assert np.abs(resized - arrays[f"{name}/first_resize_row_mean"]).max() <= 1e-9
        pixels, _ = square_input(frame[None], 1024)
        assert np.abs(pixels[0, :, ::16, ::16].numpy() - arrays[f"{name}/sam_pixel_sub"]).max() <= 1e-5
        assert np.array_equal(codes_of(pixels[0, :, ::16, ::16]), arrays[f"{name}/sam_u8_sub"])


@needs_kit
def test_sa2va_frame_sizes_of_one_video_parity() -> None:
    """A frame's picture does not depend on the frames beside it."""
    case = load_case(case_ids()[-1])
    alone = to_picture(case["frames"][0])
    assert torch.equal(alone.patches, case.pictures[0].patches)

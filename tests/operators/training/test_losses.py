"""Losses against hand-computed values."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.operators.training.helpers import (
    clip_of,
    model_of,
)
from vrshq.operators.training.config import ForwardConfig, LoraConfig, LossWeights, SegmentConfig
from vrshq.operators.training.losses import IGNORED, answer_loss, bce_loss, dice_loss, presence_loss


def test_cross_entropy_is_the_mean_over_labels_that_are_not_ignored() -> None:
    logits = torch.tensor([[0.0, 0.0], [math.log(3), 0.0], [5.0, 1.0]])
    labels = torch.tensor([1, 0, IGNORED])
    # -log(1/2) and -log(3/4)
    assert answer_loss(logits, labels).item() == pytest.approx((math.log(2) + math.log(4 / 3)) / 2, abs=1e-6)


def test_cross_entropy_of_no_label_is_zero() -> None:
    assert answer_loss(torch.zeros(2, 3), torch.tensor([IGNORED, IGNORED])).item() == 0


def test_bce_averages_each_mask_and_then_the_masks() -> None:
    # mask 1: p = 1/2 everywhere: log 2. mask 2: p = 3/4, half right, half wrong: (log 4/3 + log 4) / 2
    logits = torch.tensor([[[0.0, 0.0]], [[math.log(3), math.log(3)]]])
    truth = torch.tensor([[[1.0, 0.0]], [[1.0, 0.0]]])
    expected = (math.log(2) + (math.log(4 / 3) + math.log(4)) / 2) / 2
    assert bce_loss(logits, truth).item() == pytest.approx(expected, abs=1e-6)
    assert bce_loss(logits, truth, num_masks=4).item() == pytest.approx(expected / 2, abs=1e-6)


def test_dice_of_a_hand_computed_mask() -> None:
    # p = 3/4, 3/4, 1/4, 1/4; t = 1, 0, 1, 0: overlap 2 * 1, total 2 + 2
    x = math.log(3)
    logits, truth = torch.tensor([[[x, x], [-x, -x]]]), torch.tensor([[[1.0, 0.0], [1.0, 0.0]]])
    expected = 1 - (2 * 1.0 / 1000 + 1e-6) / (4 / 1000 + 1e-6)
    assert dice_loss(logits, truth).item() == pytest.approx(expected, abs=1e-6)


def test_dice_of_an_empty_truth_is_near_one_unless_nothing_is_predicted() -> None:
    truth = torch.zeros(1, 2, 2)
    assert dice_loss(torch.zeros(1, 2, 2), truth).item() == pytest.approx(1 - 1e-6 / (2 / 1000 + 1e-6), abs=1e-6)
    assert dice_loss(torch.full((1, 2, 2), -60.0), truth).item() == pytest.approx(0, abs=1e-6)


def test_mask_losses_of_no_mask_are_zero_and_have_a_graph() -> None:
    logits = torch.zeros(0, 4, 4, requires_grad=True)
    total = bce_loss(logits, torch.zeros(0, 4, 4)) + dice_loss(logits, torch.zeros(0, 4, 4))
    torch.autograd.backward(total)
    assert total.item() == 0


def test_presence_is_the_binary_cross_entropy_of_the_object_score() -> None:
    loss = presence_loss(torch.tensor([0.0, math.log(3)]), torch.tensor([True, False]))
    assert loss.item() == pytest.approx((math.log(2) + math.log(4)) / 2, abs=1e-6)


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 4), st.integers(1, 9), st.integers(0, 2**32 - 1))
def test_mask_losses_do_not_depend_on_the_order_of_masks_or_pixels(masks: int, pixels: int, seed: int) -> None:
    random = torch.Generator().manual_seed(seed)
    logits, truth = (
        torch.randn(masks, 1, pixels, generator=random),
        torch.rand(masks, 1, pixels, generator=random).round(),
    )
    rows, places = torch.randperm(masks, generator=random), torch.randperm(pixels, generator=random)
    for loss in (bce_loss, dice_loss):
        moved = loss(logits[rows][..., places], truth[rows][..., places])
        assert moved.item() == pytest.approx(loss(logits, truth).item(), abs=1e-5)


@pytest.mark.parametrize("name", ["ce", "presence"])
def test_a_negative_or_unknown_weight_is_refused(name: str) -> None:
    for wrong in (-1.0, float("nan")):
        with pytest.raises(ValueError, match=f"losses.{name}"):
            LossWeights(**{name: wrong})


def test_places_without_the_auxiliary_heads_are_refused() -> None:
    with pytest.raises(ValueError, match=r"losses\.auxiliary above 0"):
        LossWeights(place=1)


def test_words_after_the_masks_enter_the_cross_entropy_alone() -> None:
    model = model_of(lora=LoraConfig(rank=0)).eval()
    clip = clip_of()
    plain = model(clip, 0, ForwardConfig(), LossWeights())
    texts = [model.tokenizer.encode(text, len(clip.frames)) for text in clip.texts]
    explained = replace(clip, words=("it is round", ""))
    for share in (True, False):
        losses = model(explained, 0, ForwardConfig(share_prefix=share), LossWeights())
        assert losses["ce"].item() != pytest.approx(plain["ce"].item(), abs=1e-4)
    with_words = model.tokenizer.encode(clip.texts[0], len(clip.frames), "it is round")
    assert with_words.prefix_length == texts[0].prefix_length
    # text after [TAK] has no influence on the masks
    other = model(replace(clip, words=("it is square", "")), 0, ForwardConfig(), LossWeights())
    assert other["ce"].item() != losses["ce"].item()
    assert other["bce"].item() == pytest.approx(losses["bce"].item(), abs=1e-6)


@pytest.mark.parametrize(("empty", "bce", "dice"), [("all", True, True), ("bce", True, False), ("none", False, False)])
def test_empty_masks_enter_the_losses_that_the_setting_names(empty: Any, bce: bool, dice: bool) -> None:
    model, clip = model_of(), clip_of(expressions=2)
    nothing = replace(clip, masks=np.zeros_like(clip.masks))
    config = ForwardConfig(segment=SegmentConfig(window=1, mask_size="low", empty_masks=empty))
    losses = model(nothing, 1, config, LossWeights(ce=0, presence=1))
    assert (losses["bce"] > 0) == bce
    assert (losses["dice"] > 0) == dice
    assert losses["presence"] > 0
    losses["loss"].backward()
    assert model.segmenter.sam_mask_decoder.pred_obj_score_head.layers[0].weight.grad.any()

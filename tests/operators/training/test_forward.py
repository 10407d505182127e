"""Different schedules of the forward pass give equal losses and gradients."""

from __future__ import annotations

import pytest
import torch

from tests.operators.training.helpers import (
    clip_of,
    model_of,
)
from vrshq.operators.training.config import ForwardConfig, LoraConfig, LossWeights, StageConfig
from vrshq.operators.training.schedule import PAPER_PARTS, choose_trained
from vrshq.operators.training.step import StageTrainer


def test_sharing_the_prefix_changes_no_loss() -> None:
    model = model_of().eval()
    choose_trained(model, PAPER_PARTS)
    clip = clip_of()
    shared, whole = (model(clip, 0, ForwardConfig(share_prefix=share), LossWeights()) for share in (True, False))
    for name in ("ce", "bce", "dice"):
        assert shared[name].item() == pytest.approx(whole[name].item(), abs=1e-5)


def test_gradient_checkpointing_changes_no_gradient() -> None:
    clip, gradients = clip_of(), []
    for checkpointing in (False, True):
        model = model_of(gradient_checkpointing=checkpointing, lora=LoraConfig(dropout=0.0))
        trained = choose_trained(model, PAPER_PARTS)
        model(clip, 0, ForwardConfig(share_prefix=False), LossWeights())["loss"].backward()
        gradients.append({name: value.grad for name, value in trained.items() if value.grad is not None})
    assert gradients[0].keys() == gradients[1].keys()
    for name, value in gradients[0].items():
        assert torch.allclose(value, gradients[1][name], atol=1e-6), name


def test_bf16_gives_nearly_the_same_losses_and_float32_weights() -> None:
    losses = []
    for bf16 in (False, True):
        model = model_of(lora=LoraConfig(dropout=0.0))
        trainer = StageTrainer(model, StageConfig(steps=1, trained=PAPER_PARTS, bf16=bf16), 0)
        losses.append(trainer.run_step([clip_of()]))
        assert {value.dtype for value in trainer.trained.values()} == {torch.float32}
    assert losses[1]["ce"] != losses[0]["ce"]
    assert losses[1]["ce"] == pytest.approx(losses[0]["ce"], rel=0.02)

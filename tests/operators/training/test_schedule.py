"""Learning rate, optimisers, moving averages and resuming."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.operators.training.helpers import (
    clip_of,
    model_of,
)
from vrshq.operators.training.config import LoraConfig, OptimiserConfig, StageConfig
from vrshq.operators.training.schedule import PAPER_PARTS, choose_trained, rate_factor
from vrshq.operators.training.step import StageTrainer


def test_muon_orthogonalises_the_updates_of_matrices_and_leaves_the_rest_to_adamw() -> None:
    after, before = {}, {}
    for muon in (0.0, 2e-3):
        model = model_of(lora=LoraConfig(rank=0))
        before = {name: value.detach().clone() for name, value in model.named_parameters()}
        parts = ("language.llama", "lm_head", "segmenter.sam_mask_decoder")
        config = StageConfig(steps=1, trained=parts, optimiser=OptimiserConfig(muon=muon, warmup=0))
        StageTrainer(model, config, 0).run_step([clip_of()])
        after[muon] = {name: value.detach() for name, value in model.named_parameters()}
    moved = {name for name in before if not torch.equal(after[2e-3][name], after[0.0][name])}
    assert "language.llama.layers.0.self_attn.q_proj.weight" in moved
    assert all(name.endswith(".weight") and before[name].ndim == 2 for name in moved)
    assert not {"lm_head.weight", "language.llama.embed_tokens.weight"} & moved
    # AdamW's first update is a matrix of signs; Muon's has nearly equal singular values, up to the rank of the gradient
    name = "language.llama.layers.0.mlp.down_proj.weight"
    by_adamw, by_muon = (torch.linalg.svdvals(after[key][name] - before[name]) for key in (0.0, 2e-3))
    assert by_muon[0] / by_muon[7] < 1.5 < 2 < by_adamw[0] / by_adamw[7]
    assert by_muon[:8].mean() == pytest.approx(2e-3 * 0.2 * max(before[name].shape) ** 0.5, rel=0.3)


def test_the_backward_pass_is_not_under_autocast() -> None:
    """PyTorch advises against it: the forward pass has chosen the types."""
    model = model_of()
    seen: dict[str, tuple[bool, torch.dtype]] = {}

    def forward(_: object, __: object, output: Tensor) -> None:
        seen["forward"] = torch.is_autocast_enabled("cpu"), output.dtype
        attach: Any = output.register_hook
        attach(lambda gradient: seen.update(backward=(torch.is_autocast_enabled("cpu"), gradient.dtype)))

    model.language.text_hidden_fcs.register_forward_hook(forward)
    StageTrainer(model, StageConfig(steps=1, trained=PAPER_PARTS, bf16=True), 0).run_step([clip_of()])
    assert seen == {"forward": (True, torch.bfloat16), "backward": (False, torch.bfloat16)}


def test_the_gradient_of_accumulated_samples_is_the_mean_of_their_gradients() -> None:
    clips, gradients = [clip_of(0), clip_of(1)], []
    model = model_of(lora=LoraConfig(rank=0))
    parts = PAPER_PARTS[:-1]
    config = StageConfig(steps=1, batch=2, trained=parts, optimiser=OptimiserConfig(clip=1e9))
    for clip in clips:
        trained = choose_trained(model, parts)
        model.zero_grad()
        model(clip, 0, config.forward, config.losses)["loss"].backward()
        gradients.append({name: value.grad.clone() for name, value in trained.items() if value.grad is not None})
    model.zero_grad()
    trainer = StageTrainer(model, config, 0)
    seen: dict[str, Tensor] = {}

    def look(*_: object) -> None:
        seen.update({name: value.grad.clone() for name, value in trainer.trained.items() if value.grad is not None})

    trainer.optimisers[0].register_step_pre_hook(look)
    trainer.run_step(clips)
    assert seen
    for name, value in seen.items():
        mean = torch.stack([item[name] for item in gradients if name in item]).sum(0) / 2
        assert torch.allclose(value, mean, atol=1e-6), name


@pytest.mark.parametrize("muon", [0.0, 1e-3])
def test_a_resumed_trainer_gives_the_weights_of_an_uninterrupted_one(muon: float) -> None:
    config = StageConfig(steps=4, trained=PAPER_PARTS, optimiser=OptimiserConfig(muon=muon, average=0.9, warmup=2))
    clips = [clip_of(index) for index in range(4)]
    whole = StageTrainer(model_of(), config, 0)
    curve = [whole.run_step([clip])["loss"] for clip in clips]
    first = StageTrainer(model_of(), config, 0)
    for clip in clips[:2]:
        first.run_step([clip])
    state = first.state()
    second = StageTrainer(model_of(), config, 0)
    second.load_state(state)
    assert list(second.sample_numbers()) == [2, 3]
    assert [second.run_step([clip])["loss"] for clip in clips[2:]] == curve[2:]
    assert second.state()["sampler"] == whole.state()["sampler"]
    for name, value in whole.trained.items():
        assert torch.equal(value, second.trained[name])
        assert whole.average is not None
        assert second.average is not None
        assert torch.equal(whole.average.values[name], second.average.values[name])


def test_ranks_share_a_batch_without_gap_or_overlap() -> None:
    config = StageConfig(steps=3, batch=4, trained=("lm_head",))
    numbers = [list(StageTrainer(model_of(), config, 0, rank=rank, world=2).sample_numbers()) for rank in range(2)]
    assert sorted(numbers[0] + numbers[1]) == list(range(12))
    with pytest.raises(ValueError, match="not shared evenly by 3 workers"):
        StageTrainer(model_of(), config, 0, world=3)


def test_the_rate_warms_up_and_falls_linearly_to_zero() -> None:
    config = OptimiserConfig(warmup=100)
    assert rate_factor(0, 7500, config) == pytest.approx(0.01)
    assert rate_factor(99, 7500, config) == 1
    assert rate_factor(100, 7500, config) == 1
    assert rate_factor(3800, 7500, config) == pytest.approx(0.5)
    assert rate_factor(7499, 7500, config) == pytest.approx(1 / 7400)


@given(st.integers(0, 500), st.sampled_from(["linear", "cosine", "none"]), st.floats(0, 1))
def test_the_rate_stays_between_zero_and_its_maximum(step: int, decay: Any, final: float) -> None:
    factor = rate_factor(step, 400, OptimiserConfig(warmup=50, decay=decay, final=final))
    assert 0 < factor <= 1 or (step >= 400 and factor >= 0)

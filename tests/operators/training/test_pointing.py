"""The pointing loss, and the tokens on the objects that are meant."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.operators.training.helpers import (
    SMALL,
    model_of,
    objects_of,
)
from tests.support.transformers_networks import hf_llama
from vrshq.operators.models.bundle import open_bundle
from vrshq.operators.models.preprocess import View
from vrshq.operators.models.vrs_hq.clustering import Level
from vrshq.operators.synth import make_video
from vrshq.operators.training.clip import Clip, from_synth
from vrshq.operators.training.config import ForwardConfig, LoraConfig, LossWeights, StageConfig, StartConfig
from vrshq.operators.training.growth import deepen
from vrshq.operators.training.pointing import meant_tokens
from vrshq.operators.training.schedule import merged_state
from vrshq.operators.training.start import build


def with_references() -> Clip:
    """A clip of instructions that name another object, as "what is nearest to the red ring?", and one that names none."""
    video = make_video(0, 3, "train", replace(SMALL, objects=(4, 5), expressions=6))
    chosen = [one for one in video.expressions if "reference" in one.names][:4]
    plain = next(one for one in video.expressions if "reference" not in one.names)
    return from_synth(replace(video, expressions=(*chosen, plain)), np.random.default_rng(0), (4, 4))


def test_the_objects_that_are_named_beside_those_meant_are_known() -> None:
    seen = 0
    for number in range(16):
        video = make_video(0, number, "train", replace(SMALL, objects=(3, 5), varied=0.5, joined=1.0))
        objects = objects_of(from_synth(video, np.random.default_rng(0), (2, 2)))
        for expression, referred, meant in zip(video.expressions, objects.referred, objects.meant, strict=True):
            names = expression.names.get("reference")
            assert referred.sum() == (names is not None)
            if names is not None:
                item = video.objects[int(referred.argmax())]
                assert names.get("colour", item.colour) == item.colour
                assert names.get("shape", item.shape) == item.shape
                assert not (referred & meant).any()
                seen += 1
    assert seen > 20


@pytest.mark.parametrize("loss", ["pointing", "reference"])
def test_the_pointing_losses_equal_those_of_the_attention_weights_of_a_whole_pass(loss: str) -> None:
    """The expected value comes from the weights of each head, which transformers' LLaMA returns with its eager attention."""
    model, clip = model_of(lora=LoraConfig(rank=0)), with_references()
    deepen(model.language, 4)
    weights = LossWeights(**{"ce": 0, "bce": 0, "dice": 0, loss: 1})
    got = model(clip, 1, ForwardConfig(prompts="none"), weights)[loss]
    objects = objects_of(clip)
    assert objects.referred.any(1).tolist() == [True] * 4 + [False]
    wanted, layer = {"pointing": (objects.meant, -2), "reference": (objects.referred, -3)}[loss]
    masks = (wanted[:, :, None, None, None] & objects.masks).any(1)
    assert got.requires_grad
    language, frames = model.language, len(clip.frames)
    attending = hf_llama(language.config.language, attention="eager").eval()
    merged = merged_state(language, language.llama)
    attending.load_state_dict({name[6:]: value for name, value in merged.items() if name.startswith("llama.")})
    expected = []
    with torch.no_grad():
        tokens, _, levels = model._image_tokens(clip.frames)
        meant = meant_tokens(levels, masks, model._view(clip.frames))
        assert meant.any(-1).sum() > frames
        for number, text in enumerate(clip.texts):
            prompt = model.tokenizer.encode(text, frames)
            embedded = language.embed(prompt.input_ids, tokens)
            found = attending(inputs_embeds=embedded[None], output_attentions=True).attentions[layer][0]
            width = tokens.shape[1]
            firsts = [place for place, token in enumerate(prompt.input_ids) if token == -200]
            rows = torch.stack([torch.arange(width) + place + (width - 1) * k for k, place in enumerate(firsts)])
            for head in found:
                for frame, place in enumerate(prompt.seg_positions):
                    seen = head[place, rows[frame]]
                    if meant[number, frame].any():
                        expected.append(-(seen[meant[number, frame]].sum() / seen.sum()).log())
                seen = head[prompt.tak_position, rows.flatten()]
                if meant[number].any():
                    expected.append(-(seen[meant[number].flatten()].sum() / seen.sum()).log())
    assert got.item() == pytest.approx(torch.stack(expected).mean().item(), abs=1e-4)


@pytest.mark.parametrize("loss", ["pointing", "reference", "travel", "pace", "deeds"])
@pytest.mark.parametrize("forward", [ForwardConfig(share_prefix=False), ForwardConfig(blind=True)])
def test_losses_of_frames_without_a_shared_prefix_are_refused(forward: ForwardConfig, loss: str) -> None:
    with pytest.raises(ValueError, match=rf"losses\.{loss} = 1: expected forward\.share_prefix true"):
        StageConfig(steps=1, trained=("language",), forward=forward, losses=LossWeights(**{loss: 1}))


def test_meant_tokens_lie_mostly_on_the_objects_that_are_meant() -> None:
    tokens = torch.zeros(1, 2, 3)
    fine = Level(
        tokens, torch.zeros(1, 2, dtype=torch.int64), (torch.arange(16) >= 4).long()[None]
    )  # the top row is token 0
    coarse = Level(tokens[:, :1], torch.zeros(1, 1, dtype=torch.int64), torch.zeros(1, 2, dtype=torch.int64))
    masks = np.zeros((2, 1, 8, 12), bool)  # the tower sees columns 2 to 9
    masks[0, 0, :2] = True
    masks[1, 0, :, :6] = True
    found = meant_tokens([fine, coarse], masks, View(left=2, top=0, width=8, height=8, rows=4, columns=4))
    assert found.tolist() == [[[True, False, False]], [[False, False, False]]]


@pytest.mark.parametrize("view", ["centre", "whole"])
def test_objects_beside_the_central_square_have_meant_tokens_only_if_the_tower_sees_them(
    view: str, tmp_path: Path
) -> None:
    folder = shutil.copytree(open_bundle("untrained-tiny").folder, tmp_path / "bundle")
    description = json.loads((folder / "bundle.json").read_text())
    description["model"]["tower"]["view"] = view
    (folder / "bundle.json").write_text(json.dumps(description))
    model = build(StartConfig(bundle=str(folder), auxiliary=True), str(folder), 0, "cpu")
    wide = replace(SMALL, aspects=(2.0,))
    clip = from_synth(make_video(0, 1, "train", wide), np.random.default_rng(0), (2, 2), 2)
    beside = np.zeros_like(clip.masks)
    beside[..., :24] = True  # the square begins at column 32 of 128
    weights = LossWeights(
        ce=0, bce=0, dice=0, auxiliary=1, place=1, centre=1, tak_place=1, pointing=1, travel=1, pace=1, deeds=1
    )
    losses = model(replace(clip, masks=beside), 1, ForwardConfig(prompts="none"), weights)
    assert all(torch.isfinite(value) for name, value in losses.items() if hasattr(weights, name))
    assert (losses["pointing"] > 0) == (view == "whole")
    losses["loss"].backward()
    positions = model.language.vision_tower.embeddings.position_embedding.weight
    assert positions.grad is not None
    assert positions.grad.any()

"""Training-only heads against hand-computed values."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.operators.training.helpers import (
    clip_of,
    gradient_of,
    heads_of,
    model_of,
    objects_absent_in_some_frames,
    objects_of,
    one_token_each,
    view_of,
)
from vrshq.operators.models.preprocess import View
from vrshq.operators.synth.judging import MAYBE, NO, YES
from vrshq.operators.training.auxiliary import Auxiliary
from vrshq.operators.training.clip import (
    COLOUR_NAMES,
    DEEDS,
    SHAPE_NAMES,
    Clip,
)
from vrshq.operators.training.config import ForwardConfig, LossWeights, SegmentConfig
from vrshq.operators.training.forward import TrainingModel
from vrshq.operators.training.places import DenseLabels, paces
from vrshq.operators.training.queries import meant_queries


def test_the_place_loss_counts_objects_as_much_as_the_background() -> None:
    """An error on all objects costs as much as the same error on the background, however few patches the objects have."""
    auxiliary = Auxiliary(8, 3, 8, 8, torch.zeros(2, 4))
    view = View(left=0, top=0, width=4, height=4, rows=4, columns=4)
    steps = (torch.arange(4) + 0.5) / 4
    centres = torch.stack([steps.repeat(4), steps.repeat_interleave(4), torch.full((16,), 0.2)], dim=1)[None]
    with torch.no_grad():
        auxiliary.place_on_tower.weight.copy_(torch.eye(3))
        auxiliary.place_on_tower.bias.zero_()
    radius = torch.zeros(16)
    radius[:2] = 0.2  # an object on two of the patches
    nowhere = torch.zeros(16, dtype=torch.int64)
    labels = DenseLabels(nowhere, nowhere, radius, radius, torch.zeros(16, 2))
    assert auxiliary.place_loss(centres, labels, view).item() == pytest.approx(0)
    wrong_object, wrong_background = centres.clone(), centres.clone()
    wrong_object[0, :2, 0] += 0.3
    wrong_background[0, 2:, 0] += 0.3
    # smooth L1 with beta 0.1 is 0.3 - 0.05; the mean is over x and y; the factor is 4
    assert auxiliary.place_loss(wrong_object, labels, view).item() == pytest.approx(0.5)
    assert auxiliary.place_loss(wrong_background, labels, view).item() == pytest.approx(0.5)
    wrong_radius = centres.clone()
    wrong_radius[0, :, 2] += 0.3  # counts on the object alone
    assert auxiliary.place_loss(wrong_radius, labels, view).item() == pytest.approx(1.0)
    flat = View(left=0, top=0, width=8, height=2, rows=2, columns=8)
    along = (torch.arange(8) + 0.5) / 8
    centres[0, :, :2] = torch.stack([along.repeat(2), torch.tensor([0.25, 0.75]).repeat_interleave(8)], dim=1)
    assert auxiliary.place_loss(centres, labels, flat).item() == pytest.approx(0)


def test_the_centre_loss_depends_on_the_patches_on_objects_alone() -> None:
    auxiliary = Auxiliary(8, 2, 8, 8, torch.zeros(2, 4))
    with torch.no_grad():
        auxiliary.centre_on_tower.weight.copy_(torch.eye(2))
        auxiliary.centre_on_tower.bias.zero_()
    radius = torch.zeros(16)
    radius[:4] = 0.2
    nowhere = torch.zeros(16, dtype=torch.int64)
    labels = DenseLabels(nowhere, nowhere, radius, radius, torch.rand(16, 2))
    predicted = labels.centre[None].clone()
    predicted[0, 4:] = 9
    assert auxiliary.centre_loss(predicted, labels).item() == pytest.approx(0)
    predicted[0, 0, 1] += 0.3  # smooth L1 with beta 0.02 is 0.3 - 0.01; the mean is over eight numbers; the factor is 8
    assert auxiliary.centre_loss(predicted, labels).item() == pytest.approx(0.29, abs=1e-5)
    nothing = replace(labels, radius=torch.zeros(16))
    assert auxiliary.centre_loss(predicted, nothing).item() == 0


def test_the_tak_place_loss_takes_the_nearest_visible_frame() -> None:
    """The loss is zero if [TAK] gives the object's position in any frame that shows it."""
    clip = clip_of(expressions=3)
    objects = objects_of(clip)
    auxiliary = Auxiliary(prompt=8, tower=8, image=8, text=8, waves=torch.randn(2, 4))
    with torch.no_grad():
        auxiliary.on_seg.weight.copy_(torch.eye(4, 8))
        auxiliary.on_seg.bias.zero_()
    queries, single = meant_queries(objects)
    first = objects.meant.argmax(1)
    shown = objects.masks[first].any((2, 3)) & (single & ~queries.nothing)[:, None]
    assert shown.any()
    places = objects.places[first]

    def loss(tak: np.ndarray) -> float:
        tokens = torch.zeros(len(first), 8)
        tokens[:, :2] = torch.from_numpy(tak)
        return auxiliary.tak_place_loss(tokens, objects, view_of(objects)).item()

    last = shown.shape[1] - 1 - shown[:, ::-1].argmax(1)
    on_first, on_last = (places[range(len(first)), frame, :2] for frame in (shown.argmax(1), last))
    assert loss(on_first) == pytest.approx(0, abs=1e-6)
    assert loss(on_last) == pytest.approx(0, abs=1e-6)
    # smooth L1 is linear beyond beta: 10 - beta / 2, or a little less if another frame is nearer
    assert 4 * 9 < loss(on_first + 10) < 4 * 10
    model = model_of(auxiliary=True)
    losses = model(clip, 1, ForwardConfig(prompts="none"), LossWeights(ce=0, bce=0, dice=0, tak_place=0.5))
    assert losses["loss"].item() == pytest.approx(0.5 * losses["tak_place"].item())
    losses["loss"].backward()
    assert gradient_of(model, "language.text_hidden_fcs.0.weight").any()


def test_the_tak_presence_loss_weighs_present_and_absent_instructions_equally() -> None:
    """One absent instruction has the same weight as three present ones together."""
    objects = replace(objects_of(clip_of(expressions=3)), meant=np.array([[1, 0], [0, 1], [1, 1], [0, 0]], bool))
    auxiliary = Auxiliary(prompt=8, tower=8, image=8, text=8, waves=torch.randn(2, 4))
    with torch.no_grad():
        auxiliary.on_tak.weight.zero_()
        auxiliary.on_tak.weight[-1, 0] = 1
        auxiliary.on_tak.bias.zero_()

    def loss(*logits: float) -> float:
        tokens = torch.zeros(len(logits), 8)
        tokens[:, 0] = torch.tensor(logits)
        return auxiliary.tak_presence_loss(tokens, objects).item()

    assert loss(0, 0, 0, 0) == pytest.approx(np.log(2))
    assert loss(20, 20, 20, 0) == pytest.approx(np.log(2) / 2, abs=1e-6)
    assert loss(0, 20, 20, -20) == pytest.approx(np.log(2) / 6, abs=1e-6)
    model = model_of(auxiliary=True)
    losses = model(
        clip_of(expressions=3), 1, ForwardConfig(prompts="none"), LossWeights(ce=0, bce=0, dice=0, tak_presence=0.5)
    )
    assert losses["loss"].item() == pytest.approx(0.5 * losses["tak_presence"].item())
    losses["loss"].backward()
    assert gradient_of(model, "language.text_hidden_fcs.0.weight").any()


def test_the_travel_loss_is_zero_if_every_token_gives_its_objects_displacement() -> None:
    objects = objects_absent_in_some_frames()
    masks, view = objects.masks, view_of(objects)
    count, frames = masks.shape[:2]
    auxiliary = Auxiliary(prompt=8, tower=8, image=8, text=4, waves=torch.zeros(2, 4))
    with torch.no_grad():
        auxiliary.on_frames.weight.copy_(torch.eye(4))
        auxiliary.on_frames.bias.zero_()
    shown = np.asarray(masks.any((2, 3)))
    own = one_token_each(shown)
    predicted = torch.full((frames, count, 4), 9.0)
    for number, frame in np.argwhere(shown):
        place = objects.places[number, frame, :2]
        predicted[frame, number, :2] = torch.from_numpy(place)
        before = objects.places[number, :frame, :2][shown[number, :frame]]
        if len(before):  # the first frame that shows an object has no displacement, so any value is right
            predicted[frame, number, 2:] = torch.from_numpy(place - before.mean(0))
    assert auxiliary.travel_loss(predicted, own, objects, view).item() == pytest.approx(0, abs=1e-6)
    # smooth L1 is linear beyond beta: 5 times an error of 1 on both axes, minus beta / 2
    wrong = predicted + torch.tensor([0.0, 0.0, 1.0, 1.0])
    assert auxiliary.travel_loss(wrong, own, objects, view).item() == pytest.approx(5 - 0.25, abs=1e-4)
    assert auxiliary.travel_loss(predicted, torch.zeros_like(own), objects, view).item() == 0


def test_the_pace_loss_is_zero_if_every_token_gives_its_objects_pace() -> None:
    objects = objects_absent_in_some_frames()
    masks, view = objects.masks, view_of(objects)
    count, frames = masks.shape[:2]
    auxiliary = Auxiliary(prompt=8, tower=8, image=8, text=4, waves=torch.zeros(2, 4))
    with torch.no_grad():
        auxiliary.on_pace.weight.copy_(torch.eye(4))
        auxiliary.on_pace.bias.zero_()
    shown = np.asarray(masks.any((2, 3)))
    own = one_token_each(shown)
    predicted = torch.full((frames, count, 4), 9.0)
    for number, frame in np.argwhere(shown):
        places = objects.places[number, : frame + 1, :2][shown[number, : frame + 1]]
        if len(places) > 1:  # the first frame that shows an object has no step, so any value is right
            diagonal = np.hypot(*(places.max(0) - places.min(0)))
            predicted[frame, number, :2] = torch.tensor([diagonal, np.hypot(*(places[-1] - places[-2]))])
        predicted[frame, number, 2] = 4 * float(objects.places[number, frame, 2])
        whole = (masks[number].sum((1, 2)) / objects.places[number, :, 2] ** 2).max()
        predicted[frame, number, 3] = float(masks[number, frame].sum() / objects.places[number, frame, 2] ** 2 / whole)
    assert auxiliary.pace_loss(predicted, own, objects, view).item() == pytest.approx(0, abs=1e-6)
    for part in range(4):
        wrong = predicted.clone()
        wrong[..., part] += 1  # smooth L1 is linear beyond beta: 2 times an error of 1, minus beta / 2
        assert auxiliary.pace_loss(wrong, own, objects, view).item() == pytest.approx(2 - 0.1, abs=1e-4)
    assert auxiliary.pace_loss(predicted, torch.zeros_like(own), objects, view).item() == 0
    assert not paces(objects, view)[1][:, 0].any()  # the first frame has no earlier one


def test_the_told_object_has_the_colour_shape_and_position_that_tak_gives() -> None:
    objects = objects_of(clip_of())
    count, names = len(objects.colours), len(COLOUR_NAMES) + len(SHAPE_NAMES) + 1
    auxiliary = Auxiliary(prompt=names + 4, tower=8, image=8, text=8, waves=torch.zeros(2, (names + 4) // 2))
    with torch.no_grad():
        for head, first in ((auxiliary.on_tak, 0), (auxiliary.on_seg, names)):
            head.weight.zero_()
            head.weight[:, first : first + len(head.weight)].copy_(torch.eye(len(head.weight)))
            head.bias.zero_()
    view = view_of(objects)
    alike = replace(objects, colours=np.full(count, 1), shapes=np.full(count, 2))
    for frame in range(objects.masks.shape[1]):
        told = torch.zeros(count, names + 4)
        told[:, names : names + 2] = torch.from_numpy(objects.places[:, frame, :2])
        shown = objects.masks[:, frame].any((1, 2))
        assert (auxiliary.told(told, alike, view) == np.arange(count))[shown].all()  # by the position alone
    unlike = replace(objects, colours=np.arange(count))
    told = torch.zeros(count, names + 4)
    told[:, : len(COLOUR_NAMES)] = 100 * torch.eye(count, len(COLOUR_NAMES))
    assert (auxiliary.told(told, unlike, view) == np.arange(count)).all()  # by the colour alone
    away = objects.masks.copy()
    away[0] = False
    assert 0 not in auxiliary.told(
        told, replace(unlike, masks=away), view
    )  # an object that no frame shows is never told


def test_with_truth_told_the_target_is_the_told_object_if_one_object_is_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    model, clip = model_of(auxiliary=True), clip_of(expressions=6)
    objects = objects_of(clip)
    several = objects.meant.copy()
    several[0] = True
    several[1] = False
    clip = replace(
        clip,
        objects=replace(objects, meant=several),
        masks=np.stack(
            [objects.masks[row].any(0) if row.any() else np.zeros_like(objects.masks[0]) for row in several]
        ),
    )
    other = (several.argmax(1) + 1) % len(objects.colours)
    monkeypatch.setattr(Auxiliary, "told", lambda *_: other)
    targets: list[np.ndarray] = []
    plain = TrainingModel._segment

    def segment_and_record(self: TrainingModel, clip: Clip, masks: np.ndarray, *rest: Any) -> None:
        targets.append(masks)
        plain(self, clip, masks, *rest)

    monkeypatch.setattr(TrainingModel, "_segment", segment_and_record)
    assert clip.masks is not None
    segment = SegmentConfig(window=1, mask_size="low")
    for truth in ("meant", "told"):
        model(clip, 1, ForwardConfig(truth=truth, segment=segment), LossWeights(ce=0))
    meant, told = targets
    assert np.array_equal(meant, clip.masks)
    single = several.sum(1) == 1
    assert single.any()
    assert np.array_equal(told[~single], clip.masks[~single])
    assert np.array_equal(told[single], objects.masks[other[single]])


def test_truth_told_without_prompts_of_the_language_model_is_refused() -> None:
    with pytest.raises(ValueError, match="truth = told, prompts = oracle: expected prompts language"):
        ForwardConfig(truth="told", prompts="oracle")


def test_the_deeds_loss_weighs_all_deeds_equally_and_leaves_out_disputed_verdicts() -> None:
    objects = objects_of(clip_of(expressions=1))
    count, frames = objects.masks.shape[:2]
    deeds = np.full((count, len(DEEDS)), MAYBE, np.int8)
    deeds[:, 0] = NO
    deeds[0, 0] = YES
    deeds[0, 1] = YES  # the only verdict on the second deed
    objects = replace(objects, deeds=deeds)
    auxiliary = Auxiliary(prompt=8, tower=8, image=8, text=len(DEEDS), waves=torch.zeros(2, 4))
    with torch.no_grad():
        auxiliary.on_deeds.weight.copy_(torch.eye(len(DEEDS)))
        auxiliary.on_deeds.bias.zero_()
    own = torch.zeros(
        count, frames, count + 1, dtype=torch.bool
    )  # one token for each object, and one for the background
    own[:, :, :count] = torch.eye(count, dtype=torch.bool)[:, None]
    predicted = torch.full((frames, count + 1, len(DEEDS)), -30.0)
    predicted[:, 0, :2] = 30.0
    assert auxiliary.deeds_loss(predicted, own, objects).item() == pytest.approx(0, abs=1e-6)
    wrong = predicted.clone()
    wrong[:, 0, 1] = -30.0  # all verdicts on the second deed; the mean is over two deeds
    assert auxiliary.deeds_loss(wrong, own, objects).item() == pytest.approx(4 * 30 / 2, abs=1e-4)
    wrong = predicted.clone()
    wrong[0, 0, 0] = -30.0  # in one frame, of one object
    assert auxiliary.deeds_loss(wrong, own, objects).item() == pytest.approx(4 * 30 / frames / count / 2, abs=1e-4)
    wrong = predicted.clone()
    wrong[0, 1, 0] = 30.0  # a negative verdict has a smaller weight than a positive one
    assert auxiliary.deeds_loss(wrong, own, objects).item() == pytest.approx(30 / frames / count / 2, abs=1e-4)
    wrong = predicted.clone()
    wrong[:, :, 2:] = 30.0
    wrong[:, count] = 7.0
    assert auxiliary.deeds_loss(wrong, own, objects).item() == pytest.approx(0, abs=1e-6)
    assert auxiliary.deeds_loss(predicted, torch.zeros_like(own), objects).item() == 0


def test_travel_reads_the_states_of_the_frames_in_a_whole_pass() -> None:
    """The head's input in training equals the input of the same LLaMA layer in a pass over the whole prompt."""
    model, clip = model_of(auxiliary=True), clip_of(expressions=2)
    given: list[Tensor] = []
    heads_of(model).on_frames.register_forward_pre_hook(lambda _, args: given.append(args[0].detach()))
    heads_of(model).on_deeds.register_forward_pre_hook(lambda _, args: given.append(args[0].detach()))
    losses = model(clip, 1, ForwardConfig(prompts="none"), LossWeights(ce=0, bce=0, dice=0, travel=1, deeds=1))
    assert torch.equal(*given)
    losses["travel"].backward()
    assert any(p.grad is not None and p.grad.any() for p in model.language.llama.layers[0].parameters())
    with torch.no_grad():
        tokens, _, _ = model._image_tokens(clip.frames)
        prompt = model.tokenizer.encode(clip.texts[1], len(clip.frames))
        seen: list[Tensor] = []
        attention: Any = model.language.llama.layers[-2].self_attn
        attention.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        model.language.llama(model.language.embed(prompt.input_ids, tokens)[None])
    width = tokens.shape[1]
    firsts = [place + (width - 1) * k for k, place in enumerate(np.flatnonzero(np.array(prompt.input_ids) == -200))]
    for frame, first in enumerate(firsts):
        torch.testing.assert_close(given[0][frame], seen[0][0, first : first + width], atol=1e-5, rtol=1e-4)

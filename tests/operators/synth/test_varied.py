"""Richer instructions for training: names beside deeds, other words, and things that no video shows."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

import numpy as np
import pytest

from tests.operators.synth.helpers import SMALL, expressions
from vrshq.operators.synth import Expression, SynthConfig, SynthVideo, make_video
from vrshq.operators.synth.grammar import ALL_VARIED, WORDINGS, all_wordings, expand, say
from vrshq.operators.synth.rules import RULES
from vrshq.operators.synth.wordings_varied import STRANGE


@cache
def rich() -> list[tuple[SynthVideo, Expression]]:
    config = SynthConfig(
        frames=SMALL.frames, short_sides=(96,), aspects=(1.0,), expressions=6, joined=1.0, varied=0.5, strange=0.25
    )
    made = [make_video(17, index, "train", config) for index in range(120)]
    return [(video, expression) for video in made for expression in video.expressions]


def names_one_object(video: SynthVideo, expression: Expression) -> bool:
    named = {key: expression.names[key] for key in ("colour", "shape") if expression.names.get(key)}
    fits = [all(getattr(item, key) == value for key, value in named.items()) for item in video.objects]
    return bool(named) and sum(fits) == 1


def test_a_deed_beside_a_name_tells_nothing_about_presence() -> None:
    asked = [
        e.kind != "absent"
        for video, e in rich()
        if e.asks in ("attribute", "motion")
        and e.subtype not in ("same_colour", "same_shape")
        and names_one_object(video, e)
    ]
    assert len(asked) > 80
    assert 0.35 < np.mean(asked) < 0.75  # without `joined`, each of them is absent

    usual = [
        e
        for video, e in expressions()
        if e.asks in ("attribute", "motion") and "{np" in e.wording and names_one_object(video, e)
    ]
    assert usual
    assert all(e.kind == "absent" for e in usual)


def test_more_wordings_are_none_of_the_held_out_ones_and_none_of_the_usual_ones() -> None:
    assert set(WORDINGS) <= set(ALL_VARIED)
    more = {wording for patterns in ALL_VARIED.values() for pattern in patterns for wording in expand(pattern)}
    assert not more & (all_wordings(unseen=True) | all_wordings(unseen=False))
    used = {e.wording for _, e in rich() if e.wording in more}
    assert len(used) > 500


def test_the_held_out_split_keeps_to_its_own_wordings() -> None:
    config = SynthConfig(frames=SMALL.frames, short_sides=(96,), aspects=(1.0,), joined=1.0, varied=1.0, strange=0.25)
    made = [make_video(17, index, "test_unseen", config) for index in range(20)]
    assert {e.wording for video in made for e in video.expressions} <= all_wordings(unseen=True)


@pytest.mark.parametrize("subtype", sorted(ALL_VARIED))
def test_every_pattern_becomes_a_whole_sentence(subtype: str) -> None:
    names = {
        "colour": "red",
        "shape": "star",
        "reference": {"colour": "blue", "shape": "ring"},
        "heading": "left",
        "size": "small",
        "sides": 4,
        "thing": "a kite",
    }
    if not any(
        slot in pattern for pattern in ALL_VARIED[subtype] for slot in ("{np", "{colour}", "{shape}", "{a_shape}")
    ):
        del names["colour"], names["shape"]
    random = np.random.default_rng(0)
    for _ in range(60):
        text, _ = say(random, subtype, names, varied=True)
        assert text
        assert not re.search(r"[{}()|]|  | \?|\ba [aeiou](?!ne\b)", text), text


def test_a_strange_thing_is_never_there() -> None:
    strange = [(video, e) for video, e in rich() if e.names.get("shape") in STRANGE]
    assert len(strange) > 60
    for _, e in strange:
        assert (e.kind, e.object_ids) == ("absent", ())
        assert str(e.names["shape"]) in e.text.lower()
        assert e.subtype in RULES[e.asks]


def test_the_object_that_hides_the_named_one_covers_most_of_it() -> None:
    asked = [(video, e) for video, e in rich() if e.subtype == "hides"]
    shown = [(video, e) for video, e in asked if e.object_ids]
    assert len(shown) > 10
    assert len(asked) > len(shown)
    for video, e in shown:
        named = e.names["reference"]
        (hidden,) = [item for item in video.objects if all(getattr(item, key) == value for key, value in named.items())]
        (hiding,) = e.object_ids
        assert hidden.hidden_by[hiding].max() >= 0.6


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"joined": -1.0}, "joined = -1.0: expected 0 or more"),
        ({"varied": 1.5}, r"varied = 1.5: expected 0 .. 1"),
        ({"strange": -0.1}, r"strange = -0.1: expected 0 .. 1"),
    ],
)
def test_a_share_that_cannot_be_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        SynthConfig(**given)

"""Wordings: kinds of instructions, held-out wordings, and whole sentences."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.operators.synth.helpers import VIDEOS, expressions, videos
from vrshq.operators.synth import KINDS, SPLITS
from vrshq.operators.synth.grammar import all_wordings, expand, vocabulary
from vrshq.operators.synth.shapes import SHAPES, UNSEEN_PAIRS


def test_most_videos_have_all_four_kinds_of_instructions() -> None:
    kinds = [{e.kind for e in video.expressions} for video in videos()]
    assert np.mean([len(found) == len(KINDS) for found in kinds]) >= 0.95


def without_slots(wording: str) -> set[str]:
    return set(re.findall(r"[\w'-]+", re.sub(r"\{\w+\}", " ", wording)))


def test_held_out_wordings_never_occur_in_the_other_splits() -> None:
    assert not all_wordings(unseen=False) & all_wordings(unseen=True)
    for split in SPLITS:
        allowed = all_wordings(unseen=split == "test_unseen")
        assert {e.wording for _, e in expressions(split, 40)} <= allowed


def test_held_out_wordings_use_only_words_that_training_has() -> None:
    known = {word for wording in all_wordings(unseen=False) for word in without_slots(wording)} | vocabulary()
    assert {word for wording in all_wordings(unseen=True) for word in without_slots(wording)} <= known


def test_held_out_pairs_occur_in_their_split_only() -> None:
    for split in ("train", "valid", "test"):
        for video in videos(split, VIDEOS if split == "train" else 60):
            assert not {(item.colour, item.shape) for item in video.objects} & UNSEEN_PAIRS
            for e in video.expressions:
                assert (e.names.get("colour"), e.names.get("shape")) not in UNSEEN_PAIRS
    with_pairs = [
        any((item.colour, item.shape) in UNSEEN_PAIRS for item in video.objects) for video in videos("test_unseen", 60)
    ]
    assert np.mean(with_pairs) > 0.6
    assert {shape for _, shape in UNSEEN_PAIRS} == set(SHAPES)


@pytest.mark.parametrize(
    "wording",
    [
        "the {np}",
        "the largest {np}",
        "the smallest {np}",
        "the {np} that moves fastest",
        "the {np} that stays still",
        "the {np} moving {to}",
        "the {np} that gets hidden behind another",
        "the {np} that enters later",
        "the {np} that leaves",
        "which shape has no corners?",
        "the thing that would roll",
        "the shape with {sides} sides",
        "the largest one {beside} {ref}",
    ],
)
def test_training_has_the_most_natural_wordings(wording: str) -> None:
    assert wording in all_wordings(unseen=False)


def test_texts_are_whole_sentences_without_slots_or_choices() -> None:
    for split in ("train", "test_unseen"):
        for _, e in expressions(split):
            assert not re.search(r"[{}()|]|  | \?|\ba [aeiou](?!ne\b)", e.text), e.text
            assert e.text == e.text.strip()


@given(st.lists(st.lists(st.sampled_from(["one", "two", ""]), min_size=1, max_size=3), max_size=4))
def test_a_pattern_expands_to_every_combination_of_its_choices(choices: list[list[str]]) -> None:
    found = expand("start " + " ".join(f"({'|'.join(options)})" for options in choices))
    assert len(found) == int(np.prod([len(options) for options in choices]))
    assert all("(" not in text and "  " not in text for text in found)


def test_texts_of_a_video_differ() -> None:
    for video in videos():
        texts = [e.text.lower().rstrip(".") for e in video.expressions]
        assert len(set(texts)) == len(texts)

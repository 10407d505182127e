"""Synthetic videos: equal bytes for equal arguments, and the limits of the configuration."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.operators.synth.helpers import SMALL, videos
from vrshq.operators.synth import KINDS, SPLITS, SynthConfig, make_video


@pytest.mark.parametrize("split", SPLITS)
def test_the_same_call_gives_the_same_video(split: str) -> None:
    one, two = (make_video(5, 3, split, SMALL) for _ in range(2))
    assert np.array_equal(one.frames, two.frames)
    assert np.array_equal(one.masks, two.masks)
    assert one.expressions == two.expressions


def test_seed_index_split_and_configuration_each_change_the_video() -> None:
    first = make_video(5, 3, "train", SMALL).frames.tobytes()
    others = [
        make_video(6, 3, "train", SMALL),
        make_video(5, 4, "train", SMALL),
        make_video(5, 3, "valid", SMALL),
        make_video(5, 3, "train", replace(SMALL, objects=(5, 6))),
    ]
    assert all(video.frames.tobytes() != first for video in others)


def test_videos_keep_to_their_configuration() -> None:
    config = SynthConfig(
        objects=(2, 3),
        frames=(9, 11),
        short_sides=(96, 144),
        aspects=(1.5, 0.75),
        shapes=("circle", "star"),
        colours=("red", "blue", "white"),
        effects=0.0,
        expressions=2,
    )
    for index in range(20):
        video = make_video(1, index, "train", config)
        frames, height, width = video.frames.shape[:3]
        assert 9 <= frames <= 11
        assert (height, width) in {(96, 144), (128, 96), (144, 216), (192, 144)}
        assert 2 <= len(video.objects) <= 3
        assert {item.shape for item in video.objects} <= {"circle", "star"}
        assert {item.colour for item in video.objects} <= {"red", "blue", "white"}
        assert (video.camera, video.light, video.effects) == ("still", "still", ())
        assert all(sum(e.kind == kind for e in video.expressions) <= 2 for kind in KINDS)


def test_bands_occur_only_if_configured_and_leave_most_of_an_object_in_its_colour() -> None:
    assert all(item.texture != "banded" for video in videos(count=50) for item in video.objects)
    plain = replace(SMALL, effects=0.0, colours=("red", "green", "blue"), banded=1.0)
    shares = []
    for index in range(30):
        video = make_video(1, index, "train", plain)
        assert {item.texture for item in video.objects} == {"banded"}
        for mask in video.masks[:, 0]:
            if mask.sum() > 60:
                inside = video.frames[0][mask].astype(int)
                shares.append((np.ptp(inside, axis=1) < 30).mean())  # grey pixels, which belong to the band
    assert 0.05 < np.mean(shares) < 0.4
    assert np.mean([share > 0.02 for share in shares]) > 0.8


@pytest.mark.parametrize(
    ("kind", "shares"), [("referring", (1.0, 0.0, 0.0)), ("attribute", (0.0, 1.0, 0.0)), ("motion", (0.0, 0.0, 1.0))]
)
def test_absent_instructions_have_the_configured_kinds(kind: str, shares: tuple[float, float, float]) -> None:
    made = [make_video(2, index, "train", replace(SMALL, absent=shares)) for index in range(10)]
    absent = [expression for video in made for expression in video.expressions if expression.kind == "absent"]
    assert len(absent) >= 5
    assert {expression.asks for expression in absent} == {kind}


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"objects": (0, 3)}, "objects"),
        ({"frames": (9, 8)}, "frames"),
        ({"frames": (2, 8)}, "frames"),
        ({"radius": (0.01, 0.2)}, "radius"),
        ({"shapes": ("circle", "cube")}, "shapes"),
        ({"colours": ()}, "colours"),
        ({"effects": 2.0}, "effects"),
        ({"aspects": (9.0,)}, "aspects"),
        ({"short_sides": (8,)}, "short_sides"),
        ({"expressions": 0}, "expressions"),
        ({"banded": -0.1}, "banded"),
        ({"absent": (0.5, 0.6, 0.0)}, "absent"),
        ({"absent": (1.5, -0.5, 0.0)}, "absent"),
    ],
)
def test_an_impossible_configuration_is_refused_by_name(wrong: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=f"^{words} = .*expected"):
        SynthConfig(**wrong)


def test_a_configuration_without_visible_objects_ends_in_an_error() -> None:
    specks = SynthConfig(short_sides=(32,), aspects=(1.0,), radius=(0.05, 0.05), frames=(3, 3))
    with pytest.raises(ValueError, match=r"expected larger objects \(radius = .*short_sides = \(32,\)"):
        make_video(0, 0, "train", specks)


def test_an_unknown_split_and_a_negative_number_are_refused() -> None:
    with pytest.raises(ValueError, match="expected one of train, valid, test, test_unseen"):
        make_video(0, 0, "dev", SMALL)
    with pytest.raises(ValueError, match="expected 0 or more"):
        make_video(0, -1, "train", SMALL)

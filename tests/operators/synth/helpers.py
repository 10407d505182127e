"""Small synthetic videos, each made once for all tests."""

from __future__ import annotations

from functools import cache

import numpy as np

from vrshq.operators.synth import Expression, SynthConfig, SynthVideo, make_video

SMALL = SynthConfig(frames=(8, 12), short_sides=(96,), aspects=(1.0, 4 / 3))
VIDEOS = 200
HEADINGS = {"left": np.array([-1, 0]), "right": np.array([1, 0]), "up": np.array([0, -1]), "down": np.array([0, 1])}


@cache
def numbered(split: str, index: int) -> SynthVideo:
    return make_video(11, index, split, SMALL)


def videos(split: str = "train", count: int = VIDEOS) -> list[SynthVideo]:
    return [numbered(split, index) for index in range(count)]


def expressions(split: str = "train", count: int = VIDEOS) -> list[tuple[SynthVideo, Expression]]:
    return [(video, expression) for video in videos(split, count) for expression in video.expressions]

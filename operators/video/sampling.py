"""Which frames of a video the MLLM sees: the reference's samplers and one of our own, as functions of CLIP's probabilities.

Those of `BY_NUMBER` need no CLIP. Each of the others takes (probabilities (T,) float over all T frames, N = `max_frames`, a
numpy generator) and returns ascending, distinct frame numbers. Only `uniform`, `local_global` and `random` draw random numbers.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable

import numpy as np


def generator(seed: int, video_id: str, instruction_id: str) -> np.random.Generator:
    """Random numbers of one instruction, the same on every machine and whatever was run before."""
    identity = json.dumps([seed, video_id, instruction_id]).encode()
    return np.random.default_rng(int.from_bytes(hashlib.blake2b(identity, digest_size=16).digest()))


def grid(probabilities: np.ndarray, max_frames: int, _: np.random.Generator) -> list[int]:
    """The reference's default: every step-th frame, step = ceil(T / (N - 1)), in the phase that meets the best frame.

    Gives at most N - 1 frames, and often fewer (12 frames with N = 12: 6). With N = 1: the best frame.
    """
    best = int(probabilities.argmax())
    if max_frames == 1:
        return [best]
    step = -(-len(probabilities) // (max_frames - 1))
    return list(range(best % step, len(probabilities), step))


def uniform(probabilities: np.ndarray, max_frames: int, random: np.random.Generator) -> list[int]:
    """A random frame of each of N equal segments; all frames where T <= N (as in the reference)."""
    frames = np.arange(len(probabilities))
    return frames.tolist() if len(frames) <= max_frames else _one_of_each_segment(frames, max_frames, random)


def segment(probabilities: np.ndarray, max_frames: int, _: np.random.Generator) -> list[int]:
    """The best frame of each of N equal segments, the earliest of equals; all frames where T <= N.

    The reference looks the probability up in the whole video, so that an equal one in an earlier segment gives that frame
    (perhaps twice); here it is always a frame of the segment.
    """
    if len(probabilities) <= max_frames:
        return list(range(len(probabilities)))
    bounds = _bounds(len(probabilities), max_frames)
    return [int(begin + probabilities[begin:end].argmax()) for begin, end in itertools.pairwise(bounds)]


def local_global(probabilities: np.ndarray, max_frames: int, random: np.random.Generator) -> list[int]:
    """The N // 2 best frames, and a random one of each of as many equal segments of the others; all frames where T <= N.

    For an odd N the others give one frame more (the reference takes even N only). Of equal probabilities the earlier frame
    is better. With N = 1: the best frame.
    """
    total = len(probabilities)
    if total <= max_frames:
        return list(range(total))
    if max_frames == 1:
        return [int(probabilities.argmax())]
    best = np.argsort(-probabilities, kind="stable")[: max_frames // 2]
    others = np.setdiff1d(np.arange(total), best)
    return sorted([*map(int, best), *_one_of_each_segment(others, max_frames - len(best), random)])


def true_n(probabilities: np.ndarray, max_frames: int, _: np.random.Generator) -> list[int]:
    """Exactly min(N, T) frames, T / N apart up to rounding, in the phase that meets the best frame (not in the reference).

    Frame i is best + floor((i - j) * T / N) with j = floor(best * N / T), so that all lie in the video and frame j is the
    best one.
    """
    total, best = len(probabilities), int(probabilities.argmax())
    count = min(max_frames, total)
    middle = best * count // total
    return [best + (index - middle) * total // count for index in range(count)]


Sampler = Callable[[np.ndarray, int, np.random.Generator], list[int]]
SAMPLERS: dict[str, Sampler] = {
    "grid": grid,
    "uniform": uniform,
    "segment": segment,
    "local_global": local_global,
    "true_n": true_n,
}


def first(total: int, max_frames: int, _: np.random.Generator | None = None) -> list[int]:
    """The first N frames (Sa2VA)."""
    return list(range(min(total, max_frames)))


def spread(total: int, max_frames: int, _: np.random.Generator | None = None) -> list[int]:
    """N frames from the first to the last, evenly spread and rounded down (Sa2VA-i's `linspace`); each frame once."""
    return sorted({int(place) for place in np.linspace(0, total - 1, max_frames)})


def drawn(total: int, max_frames: int, random: np.random.Generator) -> list[int]:
    """N random frames, each at most once (the paper's random sampling)."""
    return sorted(map(int, random.choice(total, min(total, max_frames), replace=False)))


# Samplers that go by the frames' numbers alone: (T, N, generator) -> frame numbers.
BY_NUMBER: dict[str, Callable[[int, int, np.random.Generator], list[int]]] = {
    "first": first,
    "spread": spread,
    "random": drawn,
}
SHOTS = "shots"  # the sampler of `vrshq.operators.video.shots`, which looks at the pixels
WITHOUT_CLIP = frozenset({*BY_NUMBER, SHOTS})


def _bounds(length: int, count: int) -> np.ndarray:
    """Ends of `count` equal segments of 0..length, rounded down as in the reference."""
    return np.linspace(0, length, num=count + 1, dtype=int)


def _one_of_each_segment(frames: np.ndarray, count: int, random: np.random.Generator) -> list[int]:
    bounds = _bounds(len(frames), count)
    return [int(frames[random.integers(begin, end)]) for begin, end in itertools.pairwise(bounds)]

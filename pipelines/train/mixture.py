"""The training mixture: sample k of seed S is a pure function of both, so a sampler's whole state is the next k.

Any number of workers, and a run that was resumed, draw the same global sequence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import Any, Protocol

import numpy as np

from vrshq.operators.synth import KINDS, SynthConfig, make_video
from vrshq.operators.training.clip import Clip, from_synth

PERIOD = 256
# Multiplier and increment of a generator modulo 256 that goes through all 256 numbers before it repeats (multiplier 1 modulo
# 4, odd increment: Hull and Dobell 1962), so that shares of 256 are met exactly in any 256 consecutive draws.
MULTIPLIER, INCREMENT = 141, 83


class Source(Protocol):
    """A data set of the mixture: draws a clip from random numbers alone."""

    def draw(self, random: np.random.Generator) -> Clip:
        """A clip."""
        ...


@dataclass(frozen=True, kw_only=True)
class SynthData:
    """Synthetic videos, made when they are drawn.

    Attributes:
        seed: seed of the generator, apart from the run's.
        split: a split of `vrshq synth`.
        videos: number of different videos.
        frames: (least, most) sampled frames of a clip.
        expressions: the most instructions of a clip.
        kinds: the kinds of instructions that are learned from. A single frame, say, answers none of motion.
        config: ranges of the videos' content.
    """

    seed: int = 0
    split: str = "train"
    videos: int = 1 << 30
    frames: tuple[int, int] = (8, 12)
    expressions: int = 6
    kinds: tuple[str, ...] = KINDS
    config: SynthConfig = field(default_factory=SynthConfig)

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(f"kinds = {list(self.kinds)}: expected some of {', '.join(KINDS)}")

    def draw(self, random: np.random.Generator) -> Clip:
        """A clip of a random video with an instruction of `kinds`.

        Raises:
            ValueError: none of 200 videos has one.
        """
        for _ in range(200):
            video = make_video(self.seed, int(random.integers(self.videos)), self.split, self.config)
            # a rare video has no undisputed instruction
            if any(expression.kind in self.kinds for expression in video.expressions):
                return from_synth(video, random, self.frames, self.expressions, self.kinds)
        raise ValueError(
            "none of 200 synthetic videos has an instruction: expected more frames, objects or expressions"
        )


def balanced(weights: Sequence[float], number: int, seed: int) -> int:
    """The position drawn as number `number`: any 256 consecutive ones have each position in its share, rounded."""
    state = seed % PERIOD
    for _ in range(number % PERIOD + 1):
        state = (state * MULTIPLIER + INCREMENT) % PERIOD
    ends = [round(PERIOD * part / sum(weights)) for part in accumulate(weights)]
    return next(place for place, end in enumerate(ends) if state < end)


@dataclass(frozen=True)
class Mixture:
    """Sources by name, each with its weight.

    Attributes:
        sources: (weight, source) by name.
        seed: of the samples.
        balance: whether each 256 consecutive samples meet the shares exactly, as the command in the recipe's README does.
    """

    sources: Mapping[str, tuple[float, Source]]
    seed: int
    balance: bool = True

    def sample(self, number: int) -> Clip:
        """Sample `number` of the global sequence."""
        random = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(number,)))
        names = list(self.sources)
        weights = [self.sources[name][0] for name in names]
        if self.balance:
            chosen = balanced(weights, number, self.seed)
        else:
            chosen = int(random.choice(len(names), p=np.array(weights) / sum(weights)))
        return self.sources[names[chosen]][1].draw(random)

    def stream(self, numbers: Iterable[int]) -> Iterator[Clip]:
        """The samples of these numbers, in order."""
        for number in numbers:
            yield self.sample(number)


@dataclass(frozen=True)
class Group:
    """Sources that share one weight in a mixture; a member is drawn at random by weight, as inside the recipe's `rvos`."""

    members: Mapping[str, tuple[float, Any]]

    def draw(self, random: np.random.Generator) -> Clip:
        """A clip of a member."""
        weights = np.array([weight for weight, _ in self.members.values()], float)
        chosen = list(self.members.values())[int(random.choice(len(weights), p=weights / weights.sum()))]
        clip: Clip = chosen[1].draw(random)
        return clip

"""The training mixture. Sample k depends on the seed and k alone, so the next k is the whole state of a sampler.

Any number of workers and a resumed run therefore draw the same global sequence.
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
# A linear congruential generator modulo 256 with full period: its multiplier is 1 modulo 4 and its increment is odd (Hull and
# Dobell 1962). Any 256 consecutive draws therefore meet shares of 256 exactly.
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
        kinds: the kinds of instructions in clips. For example, a single frame cannot answer instructions about motion.
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
        balance: whether any 256 consecutive samples meet the shares exactly, as with the command in the recipe's README.
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

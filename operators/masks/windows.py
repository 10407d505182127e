"""The masks of a long video, window by window: each window is stored when it is done, and joined with what it had before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from vrshq.operators.masks import rle
from vrshq.operators.masks.object_masks import ObjectMasks
from vrshq.operators.masks.trust import Trust, TrustSoFar, united

Answers = dict[int, list[ObjectMasks]]  # the objects of each instruction, by its position


class WindowStore(Protocol):
    """Live column `windows`: where a long unit keeps its masks and its state, so that another attempt can go on.

    Attributes:
        length: frames of a window; the last one may be shorter.
        count: number of windows.
    """

    length: int
    count: int

    def read(self, number: int) -> Answers | None:
        """The masks of a window; None where none were written."""

    def write(self, number: int, answers: Answers) -> None:
        """Writes the masks of a window, in place of those that it had. Each object has one for each frame."""

    def save(self, name: str, content: bytes) -> None:
        """Keeps a piece of state."""

    def load(self, name: str) -> bytes | None:
        """A piece of state that an earlier attempt kept; None where there is none."""

    def reached(self) -> None:
        """A border is reached. Called on the unit's own thread; the others may be called on another one beside it."""

    def keep_unit(self, columns: Mapping[str, Any]) -> None:
        """Keeps the unit's columns. Another attempt begins with them."""


@dataclass(frozen=True)
class Summed:
    """What the windows of an instruction come to: its signals of trust, and whether any frame has a mask."""

    trust: Trust
    shown: bool


@dataclass
class WindowMasks:
    """The masks of some instructions of a long video.

    Attributes:
        store: where they are kept.
        num_frames: of the video.
        size: of the masks: height and width in pixels.
        objects: number of objects of each instruction, by position; one without an object has one with empty masks.
        absent: positions of the instructions whose masks are empty whatever was tracked.
    """

    store: WindowStore
    num_frames: int
    size: tuple[int, int]
    objects: Mapping[int, int]
    absent: set[int] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._nothing = rle.encode(np.zeros((1, *self.size), bool))[0]

    def frames(self, number: int) -> range:
        """The frames of a window."""
        return range(number * self.store.length, min((number + 1) * self.store.length, self.num_frames))

    def blank(self, number: int) -> Answers:
        """A window without any output yet."""
        count = len(self.frames(number))
        return {
            position: [ObjectMasks(count) for _ in range(max(1, objects))] for position, objects in self.objects.items()
        }

    def add(self, number: int, made: Answers) -> None:
        """Joins outputs to a window: a frame without one keeps what the window had, or is empty."""
        self._write(number, made, self.store.read(number) or self.blank(number))

    def put(self, number: int, made: Answers) -> None:
        """Writes a window in place of what it had; a frame without an output is empty."""
        self._write(number, made, self.blank(number))

    def _write(self, number: int, made: Answers, before: Answers) -> None:
        for position, own in made.items():
            for new, old in zip(own, before[position], strict=True):
                for place, mask in enumerate(new.masks):
                    if mask is None:
                        new.masks[place], new.scores[place] = old.masks[place] or self._nothing, old.scores[place]
                    elif position in self.absent:
                        new.masks[place] = self._nothing
        self.store.write(number, made)

    def summed(self) -> dict[int, Summed]:
        """What all windows come to, by position, in one pass over them. Windows without an output are written empty."""
        signals = {position: TrustSoFar(*self.size) for position in self.objects}
        for answers in self._windows():
            for position, own in answers.items():
                masks = united([[mask or self._nothing for mask in one.masks] for one in own], *self.size)
                scores = [max(on_frame) for on_frame in zip(*(one.scores for one in own), strict=True)]
                signals[position].add(masks, scores if self.objects[position] else [])
        return {position: Summed(one.result(), one.area > 0) for position, one in signals.items()}

    def _windows(self) -> Iterator[Answers]:
        for number in range(self.store.count):
            answers = self.store.read(number)
            self.store.reached()
            if answers is None:
                self._write(number, answers := self.blank(number), self.blank(number))
            yield answers

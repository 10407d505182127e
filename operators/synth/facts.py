"""Facts about the objects' motion and visibility, as verdicts (see `judging`).

Motion is judged twice, in the image and relative to the background. The two differ where the camera moves, and a viewer may
mean either. So a verdict of YES or NO has to hold for both.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np

from vrshq.operators.synth.judging import (
    FASTER,
    HIDDEN,
    MAYBE,
    MOVED,
    NO,
    OPEN,
    RESTED,
    UNHIDDEN,
    YES,
    Verdicts,
    verdicts,
)
from vrshq.operators.synth.layout_facts import LayoutFacts
from vrshq.operators.synth.motion import DIRECTIONS
from vrshq.operators.synth.records import SynthObject


def is_well_visible(item: SynthObject) -> bool:
    """Whether at least 30 % of an object, and 24 pixels, are visible in at least 3 frames and in 30 % of all frames."""
    shown = (item.visible >= 0.3 * item.area) & (item.visible >= 24)
    return bool(shown.sum() >= max(3, 0.3 * len(shown)))


class Facts(LayoutFacts):
    """All facts about a video's objects. A fact is (n,) int8 of NO, MAYBE, YES."""

    def _tracks(self, number: int) -> list[np.ndarray]:
        """Positions (k, 2) of an object in the frames where it is in view: in the image, and relative to the background."""
        seen = self.in_view[number]
        return [self.centre[number][seen], self.world[number][seen]]

    @cached_property
    def speeds(self) -> np.ndarray:
        """(n, 2, 2) float64: the mean and the largest speed (axis 1), in the image and relative to the background (axis 2).

        The unit is short sides per frame. NaN where an object is in view for fewer than two steps.
        """
        result = np.full((len(self), 2, 2), np.nan)
        for number in range(len(self)):
            seen = self.in_view[number]
            pairs = seen[1:] & seen[:-1]
            if pairs.sum() < 2:
                continue
            for view, places in enumerate((self.centre[number], self.world[number])):
                steps = np.linalg.norm(np.diff(places, axis=0), axis=1)[pairs]
                result[number, :, view] = steps.mean(), steps.max()
        return result

    @cached_property
    def ways(self) -> np.ndarray:
        """(n, 2) float64: diagonal of the box around an object's positions in view, in short sides.

        The first column is of positions in the image, the second of positions relative to the background.
        """
        result = np.zeros((len(self), 2))
        for number in range(len(self)):
            for view, places in enumerate(self._tracks(number)):
                if len(places):
                    result[number, view] = np.linalg.norm(np.ptp(places, axis=0))
        return result

    def fastest(self, among: np.ndarray) -> Verdicts:
        """Which object of `among` (n,) bool is the fastest, by its mean and by its largest speed."""
        numbers = np.flatnonzero(among)
        if len(numbers) < 2 or np.isnan(self.speeds[numbers]).any():
            return np.where(among, MAYBE, NO).astype(np.int8)
        best = int(numbers[self.speeds[numbers, 0, 0].argmax()])
        others = [number for number in numbers if number != best]
        sure = self.ways[best].min() >= MOVED and all(
            (self.speeds[best, 0] >= FASTER * self.speeds[other, 0]).all()
            and (self.speeds[best, 1] >= 1.2 * self.speeds[other, 1]).all()
            for other in others
        )
        return self._winner(best, among, bool(sure))

    def slowest(self, among: np.ndarray) -> Verdicts:
        """Which object of `among` (n,) bool is the slowest, by its mean and by its largest speed; MAYBE unless all move."""
        numbers = np.flatnonzero(among)
        if len(numbers) < 2 or np.isnan(self.speeds[numbers]).any() or (self.ways[numbers] < 0.06).any():
            return np.where(among, MAYBE, NO).astype(np.int8)
        best = int(numbers[self.speeds[numbers, 0, 0].argmin()])
        sure = all(
            (self.speeds[other, 0] >= FASTER * self.speeds[best, 0]).all()
            and (self.speeds[other, 1] >= 1.2 * self.speeds[best, 1]).all()
            for other in numbers
            if other != best
        )
        return self._winner(best, among, bool(sure))

    @cached_property
    def still(self) -> Verdicts:
        """Which objects keep their position in all frames. An object that rotates or grows in place is a MAYBE."""

        def judge(number: int) -> tuple[bool, bool]:
            item = self.objects[number]
            calm = np.ptp(item.angle) < 5 and item.scale.max() < 1.05 * item.scale.min()
            ways = self.ways[number]
            moves = ways.min() >= 0.08 or (self.absent[number].any() and ways.min() >= RESTED)
            return bool(self.in_view[number].all() and calm and ways.max() <= RESTED), bool(moves)

        return self.each(judge)

    @cached_property
    def moving(self) -> Verdicts:
        """Which objects change their position."""
        return (YES - self.still).astype(np.int8)

    def heading(self, name: str) -> Verdicts:
        """Which objects move straight in the direction `name` (left, right, up or down) while they are in view."""
        direction = np.array(DIRECTIONS[name])

        def judge(number: int) -> tuple[bool, bool]:
            yes, no = [], []
            for places in self._tracks(number):
                if len(places) < 3:
                    return False, False
                net = places[-1] - places[0]
                length = float(np.linalg.norm(net))
                walked = float(np.linalg.norm(np.diff(places, axis=0), axis=1).sum())
                along = places @ direction
                # the largest advance in this direction between any two frames
                gain = float((along - np.minimum.accumulate(along)).max())
                straight = length >= 0.85 * walked
                yes.append(length >= MOVED and straight and float(net @ direction) >= 0.88 * length)
                drift = float(net @ direction) <= 0.5 * MOVED
                no.append(drift and gain <= max(RESTED, 0.4 * float(np.linalg.norm(np.ptp(places, axis=0)))))
            return all(yes), all(no)

        return self.each(judge)

    @cached_property
    def hidden(self) -> Verdicts:
        """Which objects are hidden by another object in some frames and unoccluded in others."""

        def judge(number: int) -> tuple[bool, bool]:
            share = self.visible_share[number]
            share = share[np.isfinite(share)]
            if not len(share):
                return False, False
            return bool(share.min() <= HIDDEN and (share >= OPEN).sum() >= 2), bool(share.min() >= UNHIDDEN)

        return self.each(judge)

    @cached_property
    def hiding(self) -> Verdicts:
        """Which objects hide another object."""
        covered = np.stack([item.hidden_by for item in self.objects])  # [hidden, hiding, frame]
        yes = [bool((covered[:, number].max(axis=1)[self.hidden == YES] >= 0.6).any()) for number in range(len(self))]
        no = [bool(covered[:, number].max() <= 0.12) for number in range(len(self))]
        return verdicts(yes, no)

    def hiding_it(self, reference: int) -> Verdicts:
        """Which objects hide the object with the number `reference`."""
        covered = self.objects[reference].hidden_by.max(axis=1)
        if self.hidden[reference] == NO:
            return np.full(len(self), NO, np.int8)
        return verdicts((covered >= 0.6) & (self.hidden[reference] == YES), covered <= 0.12)

    @cached_property
    def going_behind(self) -> Verdicts:
        """Which objects become hidden because they themselves move, not only the object in front of them."""
        return np.where((self.hidden == YES) & (self.moving != YES), MAYBE, self.hidden).astype(np.int8)

    @cached_property
    def going_in_front(self) -> Verdicts:
        """Which objects hide another object because they themselves move."""
        return np.where((self.hiding == YES) & (self.moving != YES), MAYBE, self.hiding).astype(np.int8)

    @cached_property
    def entries(self) -> np.ndarray:
        """(n,) float64: the first frame in which an object is in view; NaN if it does not clearly enter."""
        return np.array([_entry(self.in_view[number], self.absent[number]) for number in range(len(self))])

    @cached_property
    def exits(self) -> np.ndarray:
        """(n,) float64: the last frame in which an object is in view; NaN if it does not clearly leave."""
        frames = self.in_view.shape[1]
        backwards = [_entry(self.in_view[number][::-1], self.absent[number][::-1]) for number in range(len(self))]
        exits: np.ndarray = frames - 1 - np.array(backwards)
        return exits

    @cached_property
    def entering(self) -> Verdicts:
        """Which objects are absent at first and enter later."""
        return verdicts(~np.isnan(self.entries), self._there_at(0))

    @cached_property
    def leaving(self) -> Verdicts:
        """Which objects are present at first and absent at the end."""
        return verdicts(~np.isnan(self.exits), self._there_at(-1))

    def _there_at(self, end: int) -> np.ndarray:
        """(n,) bool: whether an object is visible in frame `end` (0 or -1) and does not leave and return."""
        # a hidden object does not count as visible; an object that is absent in some frames must be absent at the other end
        there = self.in_view[:, end] & self.shown[:, end] & (self.hidden != YES)
        stays: np.ndarray = there & (~self.absent.any(axis=1) | self.absent[:, 0 if end else -1])
        return stays

    def last_to_enter(self) -> Verdicts:
        """Which object enters last; objects that are visible in the first frame do not count."""
        return self._last(self.entering, self.entries)

    def first_to_leave(self) -> Verdicts:
        """Which object leaves first; objects that stay do not count."""
        return self._last(self.leaving, -self.exits)

    def _last(self, which: Verdicts, times: np.ndarray) -> Verdicts:
        """YES for the object of `which` with the largest of `times` (n,), if the next one is clearly earlier."""
        numbers = np.flatnonzero(which == YES)
        if (which == MAYBE).any() or not len(numbers):
            return np.full(len(self), MAYBE, dtype=np.int8)
        order = numbers[np.argsort(times[numbers], kind="stable")]
        step = max(2, 0.08 * self.in_view.shape[1])
        sure = len(order) == 1 or times[order[-1]] - times[order[-2]] >= step
        return self._winner(int(order[-1]), np.isin(np.arange(len(self)), numbers), bool(sure))

    def grown(self, smaller: bool = False) -> Verdicts:
        """Which objects grow, or shrink if `smaller`, both in the image and without the camera's zoom."""

        def judge(number: int) -> tuple[bool, bool]:
            item, seen = self.objects[number], self.in_view[number]
            if seen.sum() < 3:
                return False, False
            ratios = [values[seen][-1] / values[seen][0] for values in (item.radius, item.scale)]
            ratios = [1 / ratio for ratio in ratios] if smaller else ratios
            return bool(min(ratios) >= 1.35 and seen.all()), bool(max(ratios) <= 1.08)

        return self.each(judge)

    @cached_property
    def turning(self) -> Verdicts:
        """Which objects rotate."""

        def judge(number: int) -> tuple[bool, bool]:
            seen = self.in_view[number]
            turned = np.ptp(self.objects[number].angle[seen]) if seen.any() else 0.0
            return bool(turned >= 60 and seen.sum() >= 4), bool(turned <= 5)

        return self.each(judge)

    def doing(self, program: str, not_doing: frozenset[str]) -> Verdicts:
        """Which objects follow the motion program `program`. NO needs a program of `not_doing`; all others are MAYBE.

        All objects are MAYBE if the camera moves by more than `RESTED`, because the image then shows a different motion.
        """
        drift = np.abs((self.centre - self.world) - (self.centre - self.world)[:, :1]).max()
        if drift > RESTED:
            return np.full(len(self), MAYBE, dtype=np.int8)
        programs = [item.program for item in self.objects]
        whole = self.in_view.mean(axis=1) >= 0.9
        return verdicts(
            [name == program and seen for name, seen in zip(programs, whole, strict=True)],
            [name in not_doing for name in programs],
        )


def _entry(in_view: np.ndarray, absent: np.ndarray) -> float:
    """The first frame in which an object is in view, if it enters; else NaN.

    An object enters if it is wholly outside the frame in at least its first two frames and in view in at least three.
    """
    if not in_view.any():
        return float("nan")
    first = int(in_view.argmax())
    before = int((~absent).argmax())  # number of frames before any part of it is in the frame
    comes = before >= 2 and in_view.sum() >= 3 and absent[:before].all()
    return float(first) if comes else float("nan")

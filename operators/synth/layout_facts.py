"""Facts about the objects' positions and sizes, as verdicts (see `judging`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from vrshq.operators.synth.judging import APART, IN_VIEW, LARGER, MAYBE, MOST, NEARER, NO, YES, Verdicts, verdicts
from vrshq.operators.synth.motion import DIRECTIONS
from vrshq.operators.synth.records import SynthObject


class LayoutFacts:
    """Positions and sizes of a video's objects. A fact is (n,) int8 of NO, MAYBE, YES.

    Args:
        objects: the n objects, at least one.
        height, width: size of a frame, in pixels.
    """

    def __init__(self, objects: Sequence[SynthObject], height: int, width: int) -> None:
        self.objects = tuple(objects)
        self.short = min(height, width)
        self._beside: dict[tuple[int, str], Verdicts] = {}
        self.centre = np.stack([item.centre for item in objects]) / self.short
        self.world = np.stack([item.world for item in objects])
        area = np.stack([item.area for item in objects])
        inside = np.stack([item.inside for item in objects])
        visible = np.stack([item.visible for item in objects])
        self.shown = (visible >= 0.25 * area) & (visible >= 12)
        self.in_view = inside >= IN_VIEW * area
        self.absent = inside <= 0
        self.visible_share = np.where(inside >= 0.2 * area, visible / np.maximum(inside, 1e-9), np.nan)
        # mean area of the visible part, and of the whole object, over the frames that show the object
        self.shown_area = np.array(
            [values[shown].mean() if shown.any() else 0.0 for values, shown in zip(visible, self.shown, strict=True)]
        )
        self.whole_area = np.array(
            [values[seen].mean() if seen.any() else 0.0 for values, seen in zip(area, self.shown, strict=True)]
        )

    def __len__(self) -> int:
        return len(self.objects)

    def each(self, judge: Callable[[int], tuple[bool, bool]]) -> Verdicts:
        """Verdicts from a function that returns (yes, no) for the number of an object."""
        pairs = [judge(number) for number in range(len(self))]
        return verdicts([yes for yes, _ in pairs], [no for _, no in pairs])

    def beside(self, reference: int, heading: str) -> Verdicts:
        """Which objects are left of, right of, above (up) or below (down) the object with the number `reference`."""
        if (reference, heading) not in self._beside:
            along = self.centre @ np.array(DIRECTIONS[heading])
            gap, both = along - along[reference], self.shown & self.shown[reference]
            count = both.sum(axis=1)
            yes = ((gap >= APART) & both).sum(axis=1) >= MOST * count
            no = ((gap <= 0) & both).sum(axis=1) >= MOST * count
            no[reference] = True
            self._beside[reference, heading] = verdicts(yes & (count >= 3), no & (count >= 3))
        return self._beside[reference, heading]

    def outermost(self, heading: str, among: np.ndarray) -> Verdicts:
        """Which object of `among` (n,) bool is furthest to the left, right, top or bottom."""
        along = self.centre @ np.array(DIRECTIONS[heading])
        return self._first_in_most_frames(along, among, lambda best, second: best - second >= 0.08)

    def nearest(self, reference: int, among: np.ndarray, far: bool = False) -> Verdicts:
        """Which object of `among` (n,) bool, except the reference, is nearest to the reference, or furthest if `far`."""
        among = among.copy()
        among[reference] = False
        gap = np.linalg.norm(self.centre - self.centre[reference], axis=-1)
        shown = self.shown & self.shown[reference]
        if far:
            return self._first_in_most_frames(gap, among, lambda best, second: best >= NEARER * second, shown)
        return self._first_in_most_frames(-gap, among, lambda best, second: -second >= NEARER * -best, shown)

    def _first_in_most_frames(
        self,
        score: np.ndarray,
        among: np.ndarray,
        clear: Callable[[np.ndarray, np.ndarray], np.ndarray],
        shown: np.ndarray | None = None,
    ) -> Verdicts:
        """YES for the object with the highest mean score, if it leads clearly in most frames.

        Args:
            score: (n, T) the score of each object in each frame.
            among: (n,) bool, the objects that are compared.
            clear: maps the scores (k,) of the best object and of the second best to whether the lead is clear, (k,) bool.
            shown: (n, T) bool, the frames that count; default: those that show the object.
        """
        shown = self.shown if shown is None else shown
        if among.sum() < 2:
            return np.where(among, MAYBE, NO).astype(np.int8)
        values = np.where(shown & among[:, None], score, -np.inf)
        totals = np.array([row[np.isfinite(row)].mean() if np.isfinite(row).any() else -np.inf for row in values])
        best = int(totals.argmax())
        others = np.delete(values, best, axis=0).max(axis=0)
        judged = np.isfinite(values[best]) & np.isfinite(others)
        # a comparison needs another object in at least half of the frames that show the best one
        enough = judged.sum() >= max(3, 0.5 * shown[best].sum())
        sure = bool(enough and clear(values[best][judged], others[judged]).mean() >= MOST)
        return self._winner(best, among, sure)

    @staticmethod
    def _winner(best: int, among: np.ndarray, sure: bool) -> Verdicts:
        """YES for `best` and NO for all others if `sure`; else MAYBE for all of `among`."""
        result = np.where(among, NO if sure else MAYBE, NO).astype(np.int8)
        result[best] = YES if sure else MAYBE
        return result

    def extreme_size(self, among: np.ndarray, smallest: bool = False, rank: int = 0) -> Verdicts:
        """Which object of `among` (n,) bool is the largest or smallest, or the next in order (`rank` 1), by clear margins."""
        numbers = np.flatnonzero(among)
        if len(numbers) < 2 + rank:
            return np.where(among, MAYBE, NO).astype(np.int8)
        sign = 1 if smallest else -1
        order = numbers[np.argsort(sign * self.shown_area[numbers], kind="stable")]
        steps = [(order[place], order[place + 1]) for place in range(rank + 1)]
        sure = all(self._size_step(one, other, smallest) for one, other in steps)
        # the order is that of visible areas; the margin must also hold for the whole areas of all objects that follow
        rest = order[rank + 1 :]
        sure = sure and all(self._size_step(order[rank], other, smallest) for other in rest)
        return self._winner(int(order[rank]), among, bool(sure))

    def _size_step(self, one: int, other: int, smaller: bool = False) -> bool:
        """Whether object `one` is clearly larger (smaller) than `other`, by its visible and by its whole area."""
        if smaller:
            one, other = other, one
        return all(area[one] >= LARGER * area[other] for area in (self.shown_area, self.whole_area))

    def larger_than(self, reference: int, smaller: bool = False) -> Verdicts:
        """Which objects are larger than the reference, or smaller if `smaller`."""

        def judge(number: int) -> tuple[bool, bool]:
            if number == reference:
                return False, True
            yes, no = self._size_step(number, reference), self._size_step(reference, number)
            return (no, yes) if smaller else (yes, no)

        return self.each(judge)

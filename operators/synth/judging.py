"""Verdicts with three values, YES, NO and MAYBE, and the margins between YES and NO.

MAYBE means that people could disagree. An instruction is made only if none of its verdicts is MAYBE.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NO, MAYBE, YES = 0, 1, 2
MOST = 0.8  # least share of the frames in which a spatial relation holds
LARGER = 1.25  # least ratio of areas for "larger"
FASTER = 1.5  # least ratio of speeds for "faster"
NEARER = 1.35  # least ratio of distances for "nearer"
APART = 0.10  # least gap, in short sides, for "left of" and the like
MOVED = 0.12  # least displacement, in short sides, of a moving object
RESTED = 0.03  # largest displacement, in short sides, of a still object
HIDDEN = 0.35  # largest visible share of a hidden object
OPEN = 0.85  # least visible share of an unoccluded object, before or after it is hidden
UNHIDDEN = 0.65  # least visible share, in all frames, of an object that is never hidden
IN_VIEW = 0.6  # least share of an object inside the frame, for its motion to be judged

Verdicts = np.ndarray


def verdicts(yes: Sequence[bool] | np.ndarray, no: Sequence[bool] | np.ndarray) -> Verdicts:
    """(n,) int8: YES where only `yes` (n,) holds, NO where only `no` (n,) holds, MAYBE elsewhere."""
    yes, no = np.asarray(yes, dtype=bool), np.asarray(no, dtype=bool)
    return np.where(yes & ~no, YES, np.where(no & ~yes, NO, MAYBE)).astype(np.int8)


def known(values: Sequence[bool | None]) -> Verdicts:
    """(n,) int8: YES for True, NO for False, MAYBE for None."""
    return np.array([MAYBE if value is None else YES if value else NO for value in values], dtype=np.int8)

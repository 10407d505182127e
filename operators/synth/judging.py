"""Verdicts in three values: yes, no, or "people would argue"; and the margins between yes and no.

An instruction is only made where no verdict is MAYBE.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

NO, MAYBE, YES = 0, 1, 2
MOST = 0.8  # share of the frames in which a relation of places has to hold
LARGER = 1.25  # least ratio of areas that "larger" needs
FASTER = 1.5  # least ratio of speeds that "faster" needs
NEARER = 1.35  # least ratio of distances that "nearer" needs
APART = 0.10  # least gap, in short sides, that "left of" and the like need
MOVED = 0.12  # least way, in short sides, of something that moves
RESTED = 0.03  # largest way, in short sides, of something that stands still
HIDDEN = 0.35  # largest visible share of something that gets hidden
OPEN = 0.85  # least visible share of something that is in the open, before or after it is hidden
UNHIDDEN = 0.65  # least visible share, all the time, of something that is never hidden
IN_VIEW = 0.6  # least share of an object in the frame, to judge its motion by

Verdicts = np.ndarray


def verdicts(yes: Sequence[bool] | np.ndarray, no: Sequence[bool] | np.ndarray) -> Verdicts:
    """YES where yes, NO where no, MAYBE elsewhere; what is both is MAYBE."""
    yes, no = np.asarray(yes, dtype=bool), np.asarray(no, dtype=bool)
    return np.where(yes & ~no, YES, np.where(no & ~yes, NO, MAYBE)).astype(np.int8)


def known(values: Sequence[bool | None]) -> Verdicts:
    """Verdicts of facts that are True, False, or None for what people would argue about."""
    return np.array([MAYBE if value is None else YES if value else NO for value in values], dtype=np.int8)

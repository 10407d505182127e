"""What is known of an instruction once its candidate masks are made, and its description in numbers for the presence head.

Whether the target exists is judged from the outside: from where the masks lie on the sampled frames, what SAM2 sees inside
them, and how sure it and the tokens are. Nothing of it is computed anew; the candidates are those that TKS chooses from.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vrshq.operators.models.family import Candidate

HIGHEST_SCORE = 2  # the place of the highest object score in a description
_MOMENTS = 8  # points in time, evenly over the candidates, at which the mask's place is told


@dataclass(frozen=True)
class Evidence:
    """The candidates of one object on its n sampled frames, in their order.

    Attributes:
        scores: (n,) float32 object logits.
        ious: (n,) float32, SAM2's own prediction of the masks' IoU.
        shapes: (n, 6) float32: share of the square that the mask covers, its centre x and y, its spread along x and y (all as
            shares of the square's side), and its mean probability; zeros for an empty mask.
        pooled: (n, C) float16, mean image features inside the masks; zeros for an empty mask.
        similarities: (n,) float32, cosines of [SEG] and [TAK].
        prompt: (d,) float16, the fused embedding.
        keyframe: place of the keyframe among the n.
    """

    scores: np.ndarray
    ious: np.ndarray
    shapes: np.ndarray
    pooled: np.ndarray
    similarities: np.ndarray
    prompt: np.ndarray
    keyframe: int

    @staticmethod
    def of(
        candidates: Sequence[Candidate], similarities: Sequence[float], prompt: Sequence[float], keyframe: int
    ) -> Evidence:
        """The evidence of candidates that have looks."""
        looks = [one.look for one in candidates if one.look is not None]
        if len(looks) != len(candidates):
            raise ValueError("candidates without looks: expected a tracker that was opened with `looks`")
        return Evidence(
            np.array([one.score for one in candidates], np.float32),
            np.array([look.iou for look in looks], np.float32),
            np.stack([look.shape.numpy() for look in looks]).astype(np.float32),
            np.stack([look.pooled.numpy() for look in looks]).astype(np.float16),
            np.array(similarities, np.float32),
            np.array(prompt, np.float16),
            keyframe,
        )

    def described(self) -> np.ndarray:
        """The evidence as numbers, (`length(C, d)`,) float32, whatever the number of sampled frames."""
        area, x, y, wide, high, sure = self.shapes.astype(np.float64).T
        shown, key = area > 0, self.keyframe
        side = np.sqrt(area)
        parts: list[object] = [
            *_spread(self.scores),
            *np.quantile(self.scores.astype(np.float64), (0.25, 0.5, 0.75)),
            self.scores[key],
            *_spread(self.similarities),
            self.similarities[key],
            *_spread(self.ious),
            self.ious[key],
            *_spread(side),
            side[key],
            shown.mean(),
            sure[shown].mean() if shown.any() else 0.0,
            sure[key],
            *_path(shown, x, y, wide, high),
        ]
        pooled = self.pooled.astype(np.float64)
        seen = pooled[shown] if shown.any() else pooled[:1]
        parts += [*_spread(_cosines(seen, pooled[key]))]
        described = np.concatenate(
            [np.array(parts, np.float64), self.prompt.astype(np.float64), pooled[key], seen.mean(0), seen.std(0)]
        )
        return described.astype(np.float32)


def length(features: int, prompt: int) -> int:
    """The length of a description, for C `features` and d `prompt`."""
    nothing = Evidence(
        np.zeros(1, np.float32),
        np.zeros(1, np.float32),
        np.zeros((1, 6), np.float32),
        np.zeros((1, features), np.float16),
        np.zeros(1, np.float32),
        np.zeros(prompt, np.float16),
        0,
    )
    return len(nothing.described())


def _spread(values: np.ndarray) -> tuple[float, float, float, float]:
    wide = values.astype(np.float64)
    return wide.mean(), wide.min(), wide.max(), wide.std()


def _cosines(rows: np.ndarray, one: np.ndarray) -> np.ndarray:
    """Cosine of each row with one vector; 0 where either is zero."""
    norms = np.linalg.norm(rows, axis=1) * np.linalg.norm(one)
    found: np.ndarray = np.divide(rows @ one, norms, out=np.zeros(len(rows)), where=norms > 0)
    return found


def _path(shown: np.ndarray, x: np.ndarray, y: np.ndarray, wide: np.ndarray, high: np.ndarray) -> list[float]:
    """Where the mask is at `_MOMENTS` points in time, whether it is there, and how it moves and flickers."""
    count = len(shown)
    moments, times = np.linspace(0, count - 1, _MOMENTS), np.arange(count)
    if not shown.any():
        return [0.0] * (5 * _MOMENTS + 9)
    places = [np.interp(moments, times[shown], row[shown]) for row in (x, y, wide, high)]
    there = np.interp(moments, times, shown.astype(np.float64))
    left, top = x[shown], y[shown]
    steps = np.hypot(np.diff(left), np.diff(top)) if len(left) > 1 else np.zeros(1)
    size = np.sqrt(wide[shown] * high[shown]) + 0.01
    changes = np.abs(np.diff(np.log(size))) if len(size) > 1 else np.zeros(1)
    moved = [left[-1] - left[0], top[-1] - top[0], steps.sum(), steps.mean(), steps.max()]
    return [*np.concatenate([*places, there]), *moved, np.log(size[-1] / size[0]), changes.max(), left.std(), top.std()]

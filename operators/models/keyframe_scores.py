"""Scores by which a keyframe is chosen among n sampled frames, and the weight of TDA that follows from such scores."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Terms:
    """What is known of each of the n sampled frames; each (n,).

    Attributes:
        object_scores: object logits of the candidate masks (the paper's occlusion scores, S3).
        similarities: cosines of [SEG] and [TAK] (S2).
        clip_probs: CLIP's probabilities, a softmax over all frames of the video (S1).
        motion: motion of the candidate masks (`keyframe_motion.motion_scores`); None: it was not measured.
    """

    object_scores: Tensor
    similarities: Tensor
    clip_probs: Tensor
    motion: Tensor | None = None

    def shares(self) -> tuple[Tensor, Tensor, Tensor]:
        """Each term as a distribution over the sampled frames: CLIP, similarity, object score."""
        # a softmax over all frames, restricted and scaled, is the softmax of the same logits over fewer frames
        clip = self.clip_probs / self.clip_probs.sum().clamp_min(1e-30)
        return clip, self.similarities.softmax(0), self.object_scores.softmax(0)


def tks_scores(object_scores: Tensor, similarities: Tensor) -> Tensor:
    """softmax(object logit) + softmax(cosine), both (n,) over the sampled frames: (n,) (the reference's TKS)."""
    return object_scores.softmax(0) + similarities.softmax(0)


def z_scores(values: Tensor) -> Tensor:
    """(values - mean) / standard deviation of (n,) values: (n,) float64; zeros where all values are equal."""
    values = values.double()
    if not len(values) or values.max() == values.min():
        return values * 0
    centred = values - values.mean()
    return centred / centred.square().mean().sqrt()


def _clip_and_similarity(terms: Terms) -> Tensor:
    clip, similarity, _ = terms.shares()
    return clip + similarity


def _clip_and_object_score(terms: Terms) -> Tensor:
    clip, _, seen = terms.shares()
    return clip + seen


def _all_three(terms: Terms) -> Tensor:
    clip, similarity, seen = terms.shares()
    return clip + similarity + seen


def _motion(terms: Terms) -> Tensor:
    return terms.object_scores * 0 if terms.motion is None else terms.motion


def _tks_z(terms: Terms) -> Tensor:
    return z_scores(terms.object_scores) + z_scores(terms.similarities)


# The score of each method (table 6 of the paper, and z-scores); the frame with the highest one is the keyframe.
SCORES: dict[str, Callable[[Terms], Tensor]] = {
    "tks": lambda terms: tks_scores(terms.object_scores, terms.similarities),
    "clip": lambda terms: terms.clip_probs,
    "similarity": lambda terms: terms.similarities,
    "object_score": lambda terms: terms.object_scores,
    "clip+similarity": _clip_and_similarity,
    "clip+object_score": _clip_and_object_score,
    "clip+similarity+object_score": _all_three,
    "tks_z": _tks_z,
    "motion": _motion,
    "tks_z+motion": lambda terms: _tks_z(terms) + z_scores(_motion(terms)),
}


def adaptive_alpha(alpha: float, weights: Tensor, object_scores: Tensor) -> float:
    """TDA's weight of one instruction, from how the similarities agree and how well the object is seen.

    alpha * (1 + c) * v, within 0 .. 2 alpha:

    * c = 1 - H(w) / ln n, the concentration of the weights: 0 where all frames weigh the same, 1 where one has all weight.
    * v = sum_i w_i sigmoid(s_i), the weighted probability that the object is seen.

    With flat similarities and an object that is surely seen on every frame it is `alpha`; where the [SEG] tokens are of
    frames without the object, they are left out.

    Args:
        alpha: the weight to start from, as `FuseConfig.alpha`.
        weights: (n,) the softmax of the similarities; they sum to 1.
        object_scores: (n,) logits of the candidates that the fusion with `alpha` prompted.
    """
    count = len(weights)
    entropy = float(-(weights * weights.clamp_min(1e-30).log()).sum())
    concentration = min(1.0, max(0.0, 1 - entropy / math.log(count))) if count > 1 else 0.0
    seen = min(1.0, float((weights * object_scores.sigmoid()).sum()))
    return alpha * (1 + concentration) * seen

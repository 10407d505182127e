"""The settings of TDA and TKS with their variants, and of the pieces of long videos."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from vrshq.pipelines.label.resources import Section


class Fusion(Section):
    """TDA, the fusion of the frames' [SEG] tokens with the video's [TAK] token."""

    alpha: float = Field(
        default=0.1, ge=0, allow_inf_nan=False, description="Weight of the [SEG] mean in the fused embedding."
    )
    temperature: float = Field(
        default=1.0,
        gt=0,
        allow_inf_nan=False,
        examples=["0.05"],
        description=(
            "Temperature of the softmax over the frames' similarities in that mean; 1, the reference's, weighs frames almost "
            "equally."
        ),
    )
    weighting: Literal["fixed", "adaptive"] = Field(
        default="fixed",
        description=(
            "fixed: the weight is alpha. adaptive: between 0 and 2 alpha for each instruction, more where few frames have the "
            "similarity and less where SAM2 sees no object on them; sampled frames are then decoded twice."
        ),
    )


class Keyframe(Section):
    """The choice of the keyframe: TKS or one of its baselines."""

    method: Literal[
        "tks",
        "clip",
        "similarity",
        "object_score",
        "clip+similarity",
        "clip+object_score",
        "clip+similarity+object_score",
        "tks_z",
        "motion",
        "tks_z+motion",
        "random",
        "first",
        "middle",
        "oracle_area",
        "oracle_candidate",
    ] = Field(
        default="tks",
        description=(
            "Method that chooses the keyframe among the sampled frames: a score, a sum of their softmaxes (tks: similarity and "
            "object score), or of z-scores (tks_z). motion is how much more the sampled frames change inside the candidate's "
            "mask than outside. The oracles (largest true area; candidate nearest to the truth) "
            "are bounds, for `vrshq ablate` alone."
        ),
    )
    seed: int | None = Field(
        default=None, ge=0, examples=["1"], description="Seed of method random; default: sampling.seed."
    )


class Split(Section):
    """The division of very long videos into pieces that are labelled side by side, by different actors.

    Each piece is labelled as a video of its own: its frames are sampled, the model reads them, and a track begins in it. The
    answers are joined to one for the whole video. An instruction that needs to see all of it ("the last car that passes") is
    answered within each piece.
    """

    frames: int | None = Field(
        default=None,
        ge=2,
        examples=["18000"],
        description=(
            "Labelled frames of a piece, about: a unit whose video's header states one and a half times as many or more is cut "
            "into equal pieces. Default: no video is cut."
        ),
    )
    overlap: int = Field(
        default=16,
        ge=1,
        description=(
            "Labelled frames that a piece shares with the next one. Objects of neighbouring pieces are one object if their "
            "masks there have an IoU above 0.5; the first half of these frames is answered by the first piece."
        ),
    )

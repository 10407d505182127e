"""The families of models that the package knows, without their code: how to recognise their folders, and their published use.

Planning reads this file alone; a family's own code, in the folder of `module`, is loaded where the networks run.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

# What a track begins with: the mask of one chosen frame, prompts on all sampled frames, or the text itself.
Start = Literal["keyframe", "frames", "text"]
Directions = Literal["both", "forward"]
# Which mask decoder carries masks through the video: that of the model, or SAM 2.0's own.
Decoder = Literal["own", "original"]
RefreshWhen = Literal["never", "lost", "disagreement", "forward-backward"]


@dataclass(frozen=True, kw_only=True)
class FamilyInfo:
    """A family of models.

    Attributes:
        name: its name in `bundle.json`.
        module: the module with its code, see `family.Family`.
        tracker: the version of the model that carries masks through a video.
        architectures: the names in `config.json` by which its published layout is recognised.
        clip: whether a bundle has a CLIP for pre-sampling.
        sampler: the sampler that was published.
        frames: the largest number of sampled frames that was published.
        start: what its tracks begin with, as published.
        directions: directions of its tracks, as published.
        decoders: mask decoders that can carry masks.
        hole_area: largest hole that is filled, in pixels of the low-resolution mask, as published.
        one_object: whether every answer has one object, which may be several things.
        compiles: whether its tracker has parts that can be compiled.
        at_once: whether threads of one process may work on several units at once.
        parts: the part of the model that a published tensor belongs to, by the beginning of its name. Empty: its parts are
            not told apart, and an actor fetches all files.
    """

    name: str
    module: str
    tracker: str = "SAM 2.0"
    architectures: frozenset[str] = frozenset()
    clip: bool = False
    sampler: str = "first"
    frames: int = 5
    start: Start = "frames"
    directions: Directions = "forward"
    decoders: tuple[Decoder, ...] = ("own",)
    hole_area: int = 0
    one_object: bool = False
    compiles: bool = True
    at_once: bool = True
    parts: tuple[tuple[str, str], ...] = ()

    @property
    def ways(self) -> dict[str, tuple[str, ...]]:
        """The values that the settings of tracking may have. A tracker that begins with the text has one way alone."""
        if self.start == "text":
            return {
                "start": ("text",),
                "directions": (self.directions,),
                "decoder": self.decoders,
                "refresh": ("never",),
            }
        refreshes = get_args(RefreshWhen) if self.start == "keyframe" else ("never",)
        return {
            "start": ("keyframe", "frames"),
            "directions": ("both", "forward"),
            "decoder": self.decoders,
            "refresh": refreshes,
        }

    def part_of(self, tensor: str) -> str | None:
        """The part of the model that a published tensor belongs to; None where its name does not tell."""
        return next((part for start, part in self.parts if tensor.startswith(start)), None)


VRS_HQ = FamilyInfo(
    name="vrs-hq",
    module="vrshq.operators.models.vrs_hq.family",
    clip=True,
    sampler="grid",
    frames=12,
    start="keyframe",
    directions="both",
    hole_area=8,
    one_object=True,
    parts=(("clip.", "clip"), ("model.visual_model.", "segmenter"), ("model.", "language"), ("lm_head.", "language")),
)
SA2VA = FamilyInfo(
    name="sa2va",
    module="vrshq.operators.models.sa2va.family",
    architectures=frozenset({"Sa2VAChatModelQwen"}),
    decoders=("own", "original"),
    parts=(("grounding_encoder.", "segmenter"), ("model.", "language"), ("text_hidden_fcs.", "language")),
)
SAM3 = FamilyInfo(
    name="sam3",
    module="vrshq.operators.models.sam3.family",
    tracker="SAM 3",
    architectures=frozenset({"Sam3VideoModel"}),
    frames=2,  # nothing looks at them; the fewest that the setting takes
    start="text",
    hole_area=16,
    compiles=False,
    at_once=False,  # transformers' model keeps the frame at work
)
FAMILIES: dict[str, FamilyInfo] = {one.name: one for one in (VRS_HQ, SA2VA, SAM3)}


def family_of_architectures(names: object) -> FamilyInfo:
    """The family whose published layout has one of the given architectures; VRS-HQ where none is known."""
    given = set(names) if isinstance(names, list) else set()
    return next((one for one in FAMILIES.values() if one.architectures & given), VRS_HQ)

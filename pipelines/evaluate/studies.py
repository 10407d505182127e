"""The paper's ablations and their relatives, each a named list of variants: `vrshq ablate --study NAME`."""

from __future__ import annotations

from dataclasses import dataclass

from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.label.settings import Settings


@dataclass(frozen=True)
class Variant:
    """One run of an ablation; `name` is also the name of its folder, `label` what tables show."""

    name: str
    settings: Settings
    label: str = ""

    @property
    def shown(self) -> str:
        """What tables show."""
        return self.label or self.name


@dataclass(frozen=True)
class Study:
    """A named list of variants.

    Attributes:
        title: what is varied.
        table: the paper's table with the published rows.
        trials: label and `key=value` texts of each variant, on top of the base's settings.
        remarks: what a reader must know of this comparison, a line each.
    """

    title: str
    table: str
    trials: tuple[tuple[str, tuple[str, ...]], ...]
    remarks: tuple[str, ...] = ()


_OTHER_MODEL = (
    "The paper trained a model for each of its rows; here one trained model runs with the setting switched at inference, which "
    "is another experiment."
)
_NO_TDA, _NO_TKS = "fusion.alpha=0", "keyframe.method=clip+similarity"


def _alpha() -> tuple[tuple[str, tuple[str, ...]], ...]:
    fixed = [(f"alpha {value}", (f"fusion.alpha={value}",)) for value in ("0", "0.05", "0.1", "0.2", "0.25", "0.5")]
    warm = [(f"temperature {value}", (f"fusion.temperature={value}",)) for value in ("0.1", "0.05")]
    adaptive = ("fusion.weighting=adaptive",)
    return (*fixed, *warm, ("adaptive", adaptive), ("adaptive, temperature 0.05", (*adaptive, *warm[1][1])))


def _keyframe() -> tuple[tuple[str, tuple[str, ...]], ...]:
    methods = {
        "CLIP": "clip",
        "similarity": "similarity",
        "occlusion score": "object_score",
        "CLIP + similarity": "clip+similarity",
        "CLIP + occlusion": "clip+object_score",
        "CLIP + similarity + occlusion": "clip+similarity+object_score",
        "z-scores of similarity + occlusion": "tks_z",
        "motion": "motion",
        "z-scores of similarity + occlusion + motion": "tks_z+motion",
        "first": "first",
        "middle": "middle",
    }
    chosen = [(label, (f"keyframe.method={method}",)) for label, method in methods.items()]
    drawn = [(f"random, seed {seed}", ("keyframe.method=random", f"keyframe.seed={seed}")) for seed in (0, 1, 2)]
    oracles = {"oracle: largest true area": "oracle_area", "oracle: best candidate": "oracle_candidate"}
    return (*chosen, *drawn, *((label, (f"keyframe.method={method}",)) for label, method in oracles.items()))


def _frames(count: int) -> tuple[str, ...]:
    return ("sampling.sampler=true_n", f"sampling.max_image_token={count}")


def _presampling() -> tuple[tuple[str, tuple[str, ...]], ...]:
    drawn = [(f"random, seed {seed}", ("sampling.sampler=random", f"sampling.seed={seed}")) for seed in (0, 1, 2)]
    return (
        *drawn,
        ("uniform", ("sampling.sampler=spread",)),
        ("CLIP, always 12 frames", ("sampling.sampler=true_n",)),
        ("CLIP, best of each segment", ("sampling.sampler=segment",)),
    )


STUDIES: dict[str, Study] = {
    "parts": Study(
        "The parts of the method",
        "4",
        (("no TDA", (_NO_TDA,)), ("no TKS", (_NO_TKS,)), ("no TDA, no TKS", (_NO_TDA, _NO_TKS))),
        (
            _OTHER_MODEL,
            "The paper does not say what chooses the keyframe without TKS.",
            "Its row equals that of CLIP and token similarity in table 6 (to 0.1), so that is the variant.",
        ),
    ),
    "alpha": Study("The weight of TDA, and the temperature of its softmax", "5", _alpha(), (_OTHER_MODEL,)),
    "keyframe": Study(
        "The choice of the keyframe",
        "6",
        _keyframe(),
        (
            "The oracles look at the ground truth. The best candidate bounds J on the keyframe of each expression.",
            "The last row, for each expression the best of these runs, bounds J&F of any choice among them.",
        ),
    ),
    "frames": Study(
        "The number of sampled frames",
        "7",
        tuple((f"{count} frame{'s' * (count > 1)}", _frames(count)) for count in (1, 3, 6, 9, 12, 24, 48)),
        ("A video with fewer frames than asked for gives all it has.",),
    ),
    "presampling": Study(
        "The frames that the MLLM sees",
        "9",
        _presampling(),
        (
            "The base takes at most 11 frames, random and uniform take 12. Only samplers with CLIP need it to see all frames.",
        ),
    ),
    "image": Study(
        "A single image",
        "7",
        (
            ("1 frame, no TDA", (*_frames(1), _NO_TDA)),
            ("1 frame", _frames(1)),
            ("no TDA", (_NO_TDA,)),
        ),
        (
            "With one frame, the best one for CLIP, there is one [SEG] and no keyframe to choose.",
            "Without TDA, [TAK] alone prompts SAM2, as the paper does for images; it prints no such row.",
        ),
    ),
}


def study_of(name: str) -> Study:
    """The study of a name. Raises SettingsError, in one line, for an unknown one."""
    if name not in STUDIES:
        raise SettingsError(f"--study {name}: no such study; expected one of {', '.join(STUDIES)}, presence")
    return STUDIES[name]

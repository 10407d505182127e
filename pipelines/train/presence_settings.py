"""The settings of a presence head's training, as `vrshq train --config FILE.yaml` gives them: a file with a section `head`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from vrshq.operators.synth import SynthConfig
from vrshq.operators.training.presence import HeadConfig


@dataclass(frozen=True, kw_only=True)
class SynthVideos:
    """Synthetic videos, made when they are needed, with all their instructions.

    Attributes:
        seed: seed of the generator.
        split: a split of `vrshq synth`.
        videos: number of videos.
        config: ranges of the videos' content.
    """

    seed: int = 0
    split: str = "train"
    videos: int = 300
    config: SynthConfig = field(default_factory=SynthConfig)

    def __post_init__(self) -> None:
        if self.videos < 1:
            raise ValueError(f"videos {self.videos}: expected at least 1")


@dataclass(frozen=True, kw_only=True)
class BenchmarkVideos:
    """A data set with instructions that mean nothing in their video, as `vrshq evaluate` reads it.

    Attributes:
        dataset: name of the data set.
        root: its folder, local or in a bucket.
        split: its split; none: the data set's default.
        videos: number of videos, the first ones; none: all.
    """

    dataset: str = "revos"
    root: str
    split: str | None = None
    videos: int | None = None


@dataclass(frozen=True, kw_only=True)
class PresenceData:
    """Videos with instructions, some of which mean nothing in their video: exactly one of `synth` and `files`.

    Attributes:
        synth: synthetic videos.
        files: a data set on disk.
    """

    synth: SynthVideos | None = None
    files: BenchmarkVideos | None = None

    def __post_init__(self) -> None:
        if (self.synth is None) == (self.files is None):
            raise ValueError("videos of a presence head: expected one of synth and files")


@dataclass(frozen=True, kw_only=True)
class PresenceSettings:
    """The training of a presence head. The model's own weights are not changed.

    Attributes:
        head: the training of the head.
        data: the videos that the head is trained on.
        held_out: other videos, with as many instructions without a target as are expected in use. They calibrate the head and
            choose its threshold.
        model: the bundle that gets the head: a name of `vrshq models`, a local folder, a bucket uri or a hub id.
        most_lost: the threshold is the highest at which at most this share of the held-out instructions with a target has no
            mask.
        labelling: labelling settings (`vrshq settings`) while evidence is gathered, except for the model.
        device: device of the model.
        threads: torch's threads.
    """

    head: HeadConfig
    data: PresenceData
    held_out: PresenceData
    model: str = "tiny"
    most_lost: float = 0.05
    labelling: dict[str, Any] = field(default_factory=dict)
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.most_lost <= 1:
            raise ValueError(f"most_lost {self.most_lost}: expected 0 to 1")

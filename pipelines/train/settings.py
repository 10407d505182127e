"""The settings of a training run, as `vrshq train --config FILE.yaml` and `--set key=value` give them."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from vrshq.cluster.storage.uris import is_remote, local_path
from vrshq.operators.training.config import StageConfig, StartConfig
from vrshq.pipelines.config.assignments import SettingsError, assign, read_yaml, validated
from vrshq.pipelines.train.mixture import SynthData
from vrshq.pipelines.train.presence_settings import PresenceSettings


@dataclass(frozen=True, kw_only=True)
class FileData:
    """A data set on disk.

    Attributes:
        reader: a name in `vrshq.pipelines.train.sets.READERS`.
        root: the folder of the data set, local or in a bucket.
        split: split of the data set; none: the reader's default.
        frames: (least, most) sampled frames of a video.
        expressions: the largest number of instructions of a clip (recipe: 3).
    """

    reader: str
    root: str
    split: str | None = None
    frames: tuple[int, int] = (8, 12)
    expressions: int = 3


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """A source of the mixture: its weight, and exactly one of `synth`, `files` and `group`.

    Attributes:
        weight: relative to the other sources, above 0.
        synth: synthetic videos.
        files: a data set on disk.
        group: sources by name that share this weight in the proportion of their own weights.
    """

    weight: float = 1.0
    synth: SynthData | None = None
    files: FileData | None = None
    group: dict[str, SourceConfig] | None = None

    def __post_init__(self) -> None:
        given = [item is not None for item in (self.synth, self.files, self.group)]
        if sum(given) != 1 or not self.weight > 0:
            raise ValueError("a source of the mixture: expected a weight above 0 and one of synth, files and group")


@dataclass(frozen=True, kw_only=True)
class Stage(StageConfig):
    """A stage and its data.

    Attributes:
        data: the mixture's sources by name.
        balance: whether every 256 consecutive draws meet the sources' shares exactly; else sources are drawn at random.
    """

    data: dict[str, SourceConfig]
    balance: bool = True


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation during training, as by `vrshq evaluate`.

    Attributes:
        every: steps between two evaluations; 0: never.
        dataset: name of the benchmark.
        root: folder of the benchmark.
        split: split of the benchmark; none: its default.
        settings: labelling settings, except for the model.
    """

    every: int = 0
    dataset: str = "revos"
    root: str = ""
    split: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Validation during training: losses and IoU on samples of the stage's own data that training never draws.

    Attributes:
        every: steps between two validations; 0: never.
        clips: the number of samples.
    """

    every: int = 0
    clips: int = 16


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A training run.

    Attributes:
        seed: seed of everything random.
        start: the model that training starts from.
        stages: stages, run one after the other; each needs its own name.
        name: name of the final bundle.
        workers: processes of Ray Train; 0: this process alone, without Ray.
        parallel: `ddp`: each worker holds all weights. `fsdp`: weights, gradients and the optimiser's state are sharded over
            the workers, which changes no loss.
        device: device of the model.
        threads: torch's threads in each process.
        feeders: whether processes of Ray Data make the samples.
        checkpoint_every: steps between two checkpoints.
        log_every: steps between two rows of the log.
        attempts: how often Ray restarts workers that died.
        validate: validation during training.
        evaluate: evaluation during training.
        bundle_dtype: type of the final bundle's weights.
        presence: the final bundle's default of `masks.presence`, 0 to 1; none: that of the bundle which training starts from.
    """

    seed: int = 0
    start: StartConfig
    stages: tuple[Stage, ...]
    name: str = "trained"
    workers: int = 1
    parallel: Literal["ddp", "fsdp"] = "ddp"
    device: Literal["cpu", "cuda"] = "cpu"
    threads: int = 1
    feeders: bool = True
    checkpoint_every: int = 200
    log_every: int = 10
    attempts: int = 3
    validate: ValidateConfig = ValidateConfig()
    evaluate: EvaluateConfig = EvaluateConfig()
    bundle_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    presence: float | None = None

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"stages {names}: expected at least one, each with a name of its own")
        for name in ("checkpoint_every", "log_every", "threads", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")
        if self.presence is not None and not 0 <= self.presence <= 1:
            raise ValueError(f"presence {self.presence}: expected 0 to 1")
        if self.workers < 0:
            raise ValueError(f"workers {self.workers}: expected 0 or more")
        if self.start.lora.rank and (
            grown := [stage.name for stage in self.stages if stage.language_layers is not None]
        ):
            raise ValueError(
                f"stage {grown[0]}: language_layers with start.lora.rank {self.start.lora.rank}: expected start.lora.rank 0, "
                "because new layers are trained whole"
            )
        if self.parallel == "fsdp":
            self._check_sharding()

    def _check_sharding(self) -> None:
        if self.start.frozen_dtype != "float32":
            raise ValueError(
                f"parallel fsdp with start.frozen_dtype {self.start.frozen_dtype}: expected float32, as weights that are "
                "sharded together have one type (bf16: true in a stage still computes in bfloat16)"
            )
        for stage in self.stages:
            if stage.forward.share_prefix:
                # a shared prefix is used through its keys and values alone; FSDP does not gather the weights again for them
                raise ValueError(f"parallel fsdp: expected forward.share_prefix false in stage {stage.name}")
            if stage.optimiser.muon:  # Muon needs whole matrices
                raise ValueError(f"parallel fsdp: expected optimiser.muon 0 in stage {stage.name}")


CONFIGS = Path(__file__).parent / "configs"  # the packaged configurations


def load_train_settings(config: str, assignments: list[str]) -> TrainSettings:
    """The settings of a training run of the model, as `load_any_settings` reads them.

    Raises:
        SettingsError: as `load_any_settings`, or the file describes a presence head.
    """
    found = load_any_settings(config, assignments)
    if isinstance(found, PresenceSettings):
        raise SettingsError(f"--config {config}: it trains a presence head; expected stages of training")
    return found


def load_any_settings(config: str, assignments: list[str]) -> TrainSettings | PresenceSettings:
    """Settings from a YAML file, then `key.sub=value` assignments; `stages.0.steps=5` indexes a list.

    Args:
        config: a file, local or in a bucket, or the name of a packaged configuration ("tiny" or "tiny.yaml").
        assignments: the values of `--set`.

    Returns:
        the settings of a presence head's training where there is a section `head`, else those of the model's.

    Raises:
        SettingsError: one line that names the file or the setting, the value given, and the value expected.
    """
    values = read_yaml(_find(config))
    values.pop("shared", None)  # holds YAML anchors only
    if "head" in values:
        assign(values, assignments, "head.penalty=100")
        return validated(PresenceSettings, values, "vrshq settings presence")
    assign(values, assignments, "stages.0.steps=100")
    return validated(TrainSettings, values, "vrshq settings train")


def packaged_configs() -> list[str]:
    """The names of the packaged configurations, without `.yaml`."""
    return sorted(path.stem for path in CONFIGS.glob("*.yaml"))


def _find(config: str) -> str:
    """The file that `config` names; a local file goes before a packaged one of the same name."""
    if is_remote(config) or local_path(config).is_file():
        return config
    packaged = packaged_configs()
    if config.removesuffix(".yaml") not in packaged:
        raise SettingsError(f"--config {config}: no such file; packaged configurations: {', '.join(packaged)}")
    return str(CONFIGS / f"{config.removesuffix('.yaml')}.yaml")

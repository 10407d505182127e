"""The settings of a training run: what `vrshq train --config FILE.yaml` and `--set key=value` may say."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml
from pydantic import TypeAdapter, ValidationError

from vrshq.cluster.storage.folder import Folder
from vrshq.operators.training.start import StartConfig
from vrshq.operators.training.step import StageConfig
from vrshq.pipelines.config.assignments import SettingsError
from vrshq.pipelines.train.mixture import SynthData


@dataclass(frozen=True, kw_only=True)
class FileData:
    """A data set on disk: `reader` names one of `vrshq.pipelines.train.sets.READERS`, `root` its folder.

    `frames`: (least, most) sampled frames of a video; `expressions`: the most instructions of a clip (the recipe's 3).
    """

    reader: str
    root: str
    split: str | None = None
    frames: tuple[int, int] = (8, 12)
    expressions: int = 3


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """One place of the mixture: a weight and exactly one of the three. `group`: sources that share the place, by weight."""

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
    """A stage and its data: the mixture's sources by name. `balance`: see `mixture.Mixture`."""

    data: dict[str, SourceConfig]
    balance: bool = True


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Evaluation through `vrshq evaluate` every `every` steps (0: never), of the labelling settings `settings`."""

    every: int = 0
    dataset: str = "revos"
    root: str = ""
    split: str | None = None
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class ValidateConfig:
    """Losses and IoU of `clips` clips of the stage's own data that training does not see, every `every` steps (0: never)."""

    every: int = 0
    clips: int = 16


@dataclass(frozen=True, kw_only=True)
class TrainSettings:
    """A training run.

    `workers`: processes of Ray Train; 0: this process alone, without Ray. `parallel`: each worker has all weights (`ddp`), or
    weights, gradients and the optimiser's state are shared out over them (`fsdp`), which changes no loss. `feeders`:
    whether Ray Data makes the samples in processes of its own. `checkpoint_every`, `log_every`: in steps. `attempts`: how
    often Ray restarts workers that died. `bundle_dtype`, `presence`: of the final bundle (see `vrshq.operators.models.bundle.Bundle`).
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
    presence: float = 0.0

    def __post_init__(self) -> None:
        names = [stage.name for stage in self.stages]
        if not names or len(set(names)) != len(names):
            raise ValueError(f"stages {names}: expected at least one, each with a name of its own")
        for name in ("checkpoint_every", "log_every", "threads", "attempts"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")
        if not 0 <= self.presence <= 1:
            raise ValueError(f"presence {self.presence}: expected 0 to 1")
        if self.workers < 0:
            raise ValueError(f"workers {self.workers}: expected 0 or more")
        if self.parallel == "fsdp":
            self._check_shared_out()

    def _check_shared_out(self) -> None:
        if self.start.frozen_dtype != "float32":
            raise ValueError(
                f"parallel fsdp with start.frozen_dtype {self.start.frozen_dtype}: expected float32, as weights that are "
                "shared out together have one type (bf16: true in a stage computes in bfloat16 all the same)"
            )
        for stage in self.stages:
            if stage.forward.share_prefix:
                # a shared prefix is used through its keys and values alone, for which FSDP does not gather weights again
                raise ValueError(f"parallel fsdp: expected forward.share_prefix false in stage {stage.name}")
            if stage.optimiser.muon:  # it needs a matrix whole
                raise ValueError(f"parallel fsdp: expected optimiser.muon 0 in stage {stage.name}")


def load_train_settings(config: str, assignments: list[str]) -> TrainSettings:
    """Settings from a YAML file, then `key.sub=value` assignments; `stages.0.steps=5` reaches into a list.

    Raises:
        SettingsError: one line that names the file or the setting, what was given, and what was expected.
    """
    parent, _, name = config.rpartition("/")
    try:
        values = yaml.safe_load(Folder(parent or ".").read_bytes(name))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"--config {config}: not a YAML file ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise SettingsError(f"--config {config}: expected a mapping of settings, got {type(values).__name__}")
    values.pop("shared", None)  # a place for YAML anchors
    for assignment in assignments:
        _assign(values, assignment)
    if unknown := _unknown_key(TrainSettings, values, ""):
        raise SettingsError(f"setting {unknown}: no such setting")
    try:
        settings: TrainSettings = TypeAdapter(TrainSettings).validate_python(values)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "file"
        raise SettingsError(f"setting {place}: {first['msg']} (given: {str(first['input'])[:80]})") from error
    return settings


def _assign(values: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    if not equals or not key:
        raise SettingsError(f"--set {assignment}: expected key=value, for example stages.0.steps=100")
    *parents, leaf = key.split(".")
    target: Any = values
    try:
        for parent in parents:
            target = target[int(parent)] if isinstance(target, list) else target.setdefault(parent, {})
        target[int(leaf) if isinstance(target, list) else leaf] = yaml.safe_load(text)
    except (IndexError, ValueError, TypeError, AttributeError) as error:
        raise SettingsError(f"--set {assignment}: there is no such place in the settings") from error
    except yaml.YAMLError as error:
        raise SettingsError(f"--set {assignment}: the value is not YAML ({' '.join(str(error).split())})") from error


def _unknown_key(kind: Any, values: Any, path: str) -> str | None:
    """The first name in nested mappings that the dataclasses do not have (pydantic ignores it there)."""
    if isinstance(values, list | tuple):
        inner = next((item for item in get_args(kind) if item is not Ellipsis), None)
        found = (_unknown_key(inner, value, f"{path}{index}.") for index, value in enumerate(values))
        return next(filter(None, found), None)
    if not isinstance(values, dict):
        return None
    options = (kind, *get_args(kind)) if get_origin(kind) not in (dict, tuple) else (kind,)
    if tables := [item for item in options if get_origin(item) is dict]:
        inner = get_args(tables[0])[1]
        found = (_unknown_key(inner, value, f"{path}{key}.") for key, value in values.items())
        return next(filter(None, found), None)
    classes = [item for item in options if is_dataclass(item)]
    if not classes:
        return None
    hints = get_type_hints(classes[0])
    known = {item.name for item in fields(classes[0])}
    for key, value in values.items():
        if key not in known:
            return f"{path}{key}"
        if unknown := _unknown_key(hints[key], value, f"{path}{key}."):
            return unknown
    return None

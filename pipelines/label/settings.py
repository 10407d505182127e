"""The settings of a labelling run: what `--config FILE.yaml` and `--set key=value` may say, and what operators make of it.

Everything but `resources` decides what the tables hold and is part of the run's identity; `resources` decides only how
fast and where the work is done.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from vrshq.operators.video.files import DecodeConfig
from vrshq.pipelines.config.assignments import assign, read_yaml, validated

MIB = 1 << 20


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Sampling(_Section):
    """Which frames the MLLM sees."""

    sampler: Literal["grid", "uniform", "segment", "local_global", "true_n"] = "grid"
    max_image_token: int = Field(default=12, ge=2, le=64)
    seed: int = Field(default=0, ge=0)
    overlong_text: Literal["truncate", "refuse"] = "truncate"


class Fusion(_Section):
    """TDA."""

    alpha: float = Field(default=0.1, ge=0, allow_inf_nan=False)


class Keyframe(_Section):
    """TKS or one of its baselines."""

    method: Literal["tks", "clip", "similarity", "object_score", "random", "first", "middle"] = "tks"


class Masks(_Section):
    """`hole_area`: of holes that are filled, in pixels of the low-resolution mask; 0 switches it off.

    `presence`: instructions whose presence is at most this get empty masks on all frames. Default: what the model's bundle
    says, 0 (none) where it says nothing, as the published weights do.
    """

    hole_area: int = Field(default=8, ge=0)
    presence: float | None = Field(default=None, ge=0, le=1)


class Limits(_Section):
    """What a video may claim in its header before memory is taken for it."""

    max_frames: int = Field(default=DecodeConfig().max_frames, ge=1)
    max_pixels: int = Field(default=DecodeConfig().max_pixels, ge=1)
    max_bytes: int = Field(default=DecodeConfig().max_bytes, ge=1)


OperatorName = Literal["presample", "tokens", "fuse", "keyframe", "propagate"]


class Pool(_Section):
    """One stage placement: operators that share an actor, and what each of `actors` (up to `max_actors`) actors holds."""

    operators: tuple[OperatorName, ...]
    actors: int = Field(default=1, ge=1)
    max_actors: int | None = Field(default=None, ge=1)
    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)


class Resources(_Section):
    """Where and how fast: changes no decision, and no bit of a table as long as `threads` and the batches stay.

    `threads` are torch's in one actor. It is not worked out from the machine, because sums over more threads differ in
    their last bits, and the number of actors must not change a table.

    A unit that takes longer than its deadline is given up, and tried again like one that killed its process. The
    deadline is `deadline_seconds` until its video is open, and from then on that plus `deadline_seconds_per_frame` for
    each frame, for four instructions beside the first once more, and so on.

    `compact` merges the parts into larger files once the run is complete.
    """

    device: Literal["auto", "cpu", "cuda"] = "auto"
    pools: tuple[Pool, ...] | None = None
    threads: int = Field(default=1, ge=1)
    frame_cache_mib: int = Field(default=512, ge=0)
    feature_cache_mib: int = Field(default=2048, ge=1)
    clip_batch: int = Field(default=16, ge=1)
    encode_batch: int = Field(default=4, ge=1)
    instruction_batch: int = Field(default=16, ge=1)
    attempts: int = Field(default=3, ge=1, le=20)
    deadline_seconds: float = Field(default=600, gt=0)
    deadline_seconds_per_frame: float = Field(default=5, ge=0)
    compact: bool = True

    def deadline(self, num_frames: int, instructions: int) -> float:
        """Seconds that a unit may take once its video is open."""
        return self.deadline_seconds + self.deadline_seconds_per_frame * num_frames * (0.75 + 0.25 * instructions)


class Settings(_Section):
    """A labelling run. `dtype` is that of weights and activations; float32 is what parity is shown with."""

    model: str = "tiny"
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    max_instructions_per_unit: int = Field(default=16, ge=1)
    sampling: Sampling = Sampling()
    fusion: Fusion = Fusion()
    keyframe: Keyframe = Keyframe()
    masks: Masks = Masks()
    limits: Limits = Limits()
    resources: Resources = Resources()

    def identity(self) -> dict[str, Any]:
        """The settings that decide what the tables hold; the model is named by its fingerprint elsewhere."""
        return self.model_dump(mode="json", exclude={"resources", "model"})

    def for_bundle(self, presence: float) -> Settings:
        """The settings with `presence` of a bundle where they have none of their own."""
        if self.masks.presence is not None:
            return self
        return self.model_copy(update={"masks": self.masks.model_copy(update={"presence": presence})})

    def operator_configs(self, model: str, device: str) -> dict[str, Any]:
        """The config of every operator, by operator name, for a model folder and a torch device."""
        # here, because they load torch, which a command that only plans or refuses does not need
        from vrshq.operators.fuse import FuseConfig
        from vrshq.operators.keyframe import KeyframeConfig
        from vrshq.operators.presample import PreSampleConfig
        from vrshq.operators.propagate import PropagateConfig
        from vrshq.operators.tokens import TokensConfig

        network: dict[str, Any] = {"model": model, "device": device, "dtype": self.dtype}
        resources = self.resources
        segmenting: dict[str, Any] = {
            "hole_area": self.masks.hole_area,
            "feature_cache_bytes": resources.feature_cache_mib * MIB,
            "encode_batch": resources.encode_batch,
        }
        return {
            "decode": DecodeConfig(
                **self.limits.model_dump(),
                frame_cache_bytes=resources.frame_cache_mib * MIB,
                num_threads=resources.threads,
            ),
            "presample": PreSampleConfig(**network, **self.sampling.model_dump(), batch_size=resources.clip_batch),
            "tokens": TokensConfig(**network, max_suffixes=resources.instruction_batch),
            "fuse": FuseConfig(alpha=self.fusion.alpha),
            "keyframe": KeyframeConfig(
                **network,
                **segmenting,
                method=self.keyframe.method,
                seed=self.sampling.seed,
                decode_batch=resources.instruction_batch,
            ),
            "propagate": PropagateConfig(
                **network,
                **segmenting,
                presence=self.masks.presence or 0.0,
                track_batch=resources.instruction_batch,
            ),
        }


def load_settings(config: str | None, assignments: list[str], **overrides: Any) -> Settings:
    """Settings from a YAML file, then `key.sub=value` assignments, then named overrides that are not None.

    Raises:
        SettingsError: one line that names the file or the setting, what was given, and what was expected.
    """
    values: dict[str, Any] = read_yaml(config) if config else {}
    assign(values, assignments, "keyframe.method=first")
    values |= {name: value for name, value in overrides.items() if value is not None}
    return validated(Settings, values)

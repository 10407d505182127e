"""The settings of a labelling run, from `--config FILE.yaml` and `--set key=value`, and the operators' configs from them.

All sections except `resources` decide the content of the tables and are part of the run's identity. `resources` decides
only the place and the speed of the work, and the two rules of access in `limits` only which servers may be called.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, ValidationError

from vrshq.operators.models.bundle import Bundle, open_bundle
from vrshq.operators.models.families import FamilyInfo, RefreshWhen
from vrshq.operators.models.presence import presence_threshold
from vrshq.operators.video.files import DecodeConfig
from vrshq.operators.video.sampling import WITHOUT_CLIP
from vrshq.pipelines.config.assignments import SettingsError, assign, read_yaml, validated
from vrshq.pipelines.label.method import Fusion, Keyframe, Split
from vrshq.pipelines.label.resources import Resources, Section

MIB = 1 << 20
_DECODE = DecodeConfig()


class Sampling(Section):
    """The choice of the frames that the MLLM sees."""

    sampler: (
        Literal["grid", "uniform", "segment", "local_global", "true_n", "first", "spread", "random", "shots"] | None
    ) = Field(
        default=None,
        examples=["spread"],
        description=(
            "Sampler that picks the frames; default: as the model's family published it, grid for VRS-HQ, first for Sa2VA. "
            "first takes the first frames, spread frames from the first to the last, random any, shots the middles of the "
            "video's shots, found by colour histograms; these need no CLIP."
        ),
    )
    max_image_token: int | None = Field(
        default=None,
        ge=1,
        le=64,
        examples=["8"],
        description=(
            "Largest number of sampled frames; true_n, spread, random and shots take exactly so many, grid at most one less "
            "(but one); default: as published, 12 for VRS-HQ, 5 for Sa2VA."
        ),
    )
    clip_every: int = Field(
        default=1,
        ge=1,
        examples=["30"],
        description=(
            "CLIP sees every n-th frame, and the sampler chooses among those. The published method looks at every frame, which "
            "is most of a long video's cost before tracking; samplers that need no CLIP look at none."
        ),
    )
    seed: int = Field(
        default=0,
        ge=0,
        description="Seed of the samplers that draw random frames, and of keyframe.method random without a seed of its own.",
    )
    overlong_text: Literal["truncate", "refuse"] = Field(
        default="truncate",
        description="Treatment of a text beyond CLIP's 77 tokens: CLIP reads its beginning, or the instruction is an error.",
    )


class PromptSettings(Section):
    """The sentence that the MLLM reads."""

    questions: Literal["reference", "any_script"] = Field(
        default="reference",
        description=(
            "Instructions that are asked as they are, while `What is ...` is put around the others: reference takes those that "
            "end in `?`; any_script takes question marks of other scripts (Chinese, Arabic, Greek, Armenian, Ethiopic, ...) "
            "and those before a closing quotation mark or bracket, too."
        ),
    )
    wording: Literal["benchmark", "as_is"] = Field(
        default="benchmark",
        description=(
            "Wording for a generating model (Sa2VA): benchmark asks as its published evaluation does (`Please segment ....`, "
            "or of a text with `?`, `... Please respond with a segmentation mask.`); as_is gives it the instruction alone."
        ),
    )
    max_new_tokens: int = Field(
        default=2048, ge=1, description="Length at which a generated answer (Sa2VA) is cut, in tokens."
    )


class Tracking(Section):
    """The way from sampled frames to masks on all frames."""

    start: Literal["keyframe", "frames", "text"] | None = Field(
        default=None,
        examples=["keyframe"],
        description=(
            "Beginning of a track: keyframe takes the mask on one chosen frame, frames prompts all sampled frames, text (SAM 3 "
            "alone, and its only way) finds what the text names on every frame; default: as the model's family published it, "
            "keyframe for VRS-HQ, frames for Sa2VA."
        ),
    )
    directions: Literal["both", "forward"] | None = Field(
        default=None,
        examples=["both"],
        description=(
            "Directions in which masks are carried; forward leaves frames before the first prompted one without a mask; "
            "default: as published, both for VRS-HQ, forward for Sa2VA and SAM 3 (its only way)."
        ),
    )
    decoder: Literal["own", "original"] = Field(
        default="own",
        description=(
            "Mask decoder that carries masks: the model's own, or SAM 2.0's original one, whose published file lies in the "
            "bundle's folder sam2; the model's own then makes the masks of the prompted frames alone (Sa2VA-i)."
        ),
    )
    refresh: RefreshWhen = Field(
        default="never",
        description=(
            "When the mask that the model gives on a sampled frame takes over from the tracked one, and tracking goes on from "
            "it: lost, where only the tracked object's score is below 0; disagreement, also where the masks differ and the "
            "tracked one has the lower score; forward-backward, where the object is lost or the masks differ, and the new "
            "mask, tracked to the keyframe, agrees better with the keyframe's mask. never is the published method (VRS-HQ "
            "alone has the others)."
        ),
    )


class Masks(Section):
    """The treatment of predicted masks."""

    hole_area: int | None = Field(
        default=None,
        ge=0,
        examples=["0"],
        description=(
            "Largest area of a hole that is filled, in pixels of the low-resolution mask; 0 fills none; default: as the "
            "model's family published it, 8 for VRS-HQ, 0 for Sa2VA, and what its config.json says (16) for SAM 3, which "
            "removes specks of this area, too."
        ),
    )
    presence: float | None = Field(
        default=None,
        ge=0,
        le=1,
        examples=["0.5"],
        description=(
            "Presence, 0 to 1, up to which an instruction gets empty masks on all frames; default: the value of the "
            "model's presence head, else of its bundle, and 0 for a bundle without one, such as the published weights."
        ),
    )


_ACCESS = {"allow_http", "allow_private_addresses"}


class Limits(Section):
    """Limits on videos: on their sizes, checked before they are fetched or memory is taken, and on whom they may call.

    `allow_http` and `allow_private_addresses` are rules of the machines that do the work. They change no table of a video
    that can be read, so they are no part of the run's identity: a run can be continued under other rules.
    """

    max_frames: int = Field(default=_DECODE.max_frames, ge=1, description="Largest number of frames of a video.")
    max_pixels: int = Field(
        default=_DECODE.max_pixels, ge=1, description="Largest height * width of a frame, in pixels; the default is 8K."
    )
    max_bytes: int = Field(
        default=_DECODE.max_bytes,
        ge=1,
        description="Largest size of a video file, or of a folder's frames together, in bytes.",
    )
    allow_http: bool = Field(
        default=False,
        description="Videos at http:// and https:// addresses are fetched. The instruction table decides who is called.",
    )
    allow_private_addresses: bool = Field(
        default=False,
        description=(
            "Such addresses may also lead to this machine and to private networks: loopback, link-local, private, multicast "
            "and unspecified addresses. Set it only for a table whose author may reach everything that the workers reach."
        ),
    )

    def sizes(self) -> dict[str, Any]:
        """The limits on sizes alone, by name."""
        return self.model_dump(exclude=_ACCESS)


class Decoding(Section):
    """The frames that are labelled, and the treatment of unusual videos.

    The column `notes` of `tracks/` says what was done to an unusual video.
    """

    every: int = Field(
        default=_DECODE.every,
        ge=1,
        description=(
            "Every n-th frame is labelled, beginning with the first frame of the video or of the span that the instruction "
            "table's columns start and end ask for. The networks see these frames alone; masks keep the video's own frame "
            "numbers."
        ),
    )

    damaged: Literal["refuse", "keep"] = Field(
        default=_DECODE.damaged,
        description=(
            "Treatment of a damaged video file: refuse makes it an error; keep labels the frames that a sequential decode "
            "still yields, numbered without gaps, and notes how many are lost and where. A transport stream that lost data on "
            "its way and has all its frames is read either way, with a note. A folder with a damaged image is always an error."
        ),
    )
    tone_map: bool = Field(
        default=_DECODE.tone_map,
        description=(
            "Map HDR videos (HLG, PQ) to SDR with BT.709 colours, by the curve of ITU-R BT.2390 with a reference white of 203 "
            "cd/m2, and wide colours in SDR (BT.2020) to BT.709. Off: their codes are read as if they were SDR, and look grey."
        ),
    )
    size_change: Literal["refuse", "scale"] = Field(
        default=_DECODE.size_change,
        description=(
            "Treatment of a video whose frame size changes, or of a folder with images of several sizes: refuse makes it an "
            "error; scale resizes all frames to the size of the first one."
        ),
    )


class Settings(Section):
    """A labelling run."""

    model: str = Field(
        default="tiny", description="Model: a name of `vrshq models`, a local folder, a bucket uri or a hub id."
    )
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        default="auto",
        description=(
            "Type of weights and activations; auto is bfloat16 on GPUs that have it and float32 elsewhere; `run.json` holds "
            "which. Parity with the reference is shown in float32."
        ),
    )
    tf32: bool = Field(
        default=False,
        description=(
            "TF32 in the float32 matrix products and convolutions of GPUs: faster, and about as exact as float16. Off, float32 "
            "is float32, as parity needs."
        ),
    )
    compile: bool = Field(
        default=False,
        description=(
            "Compiled code for SAM2's image encoder and for tracking steps with a full memory (from the 16th frame after the "
            "keyframe on), as CUDA graphs on a GPU: the same masks but for rounding. Each actor compiles a few sizes, a minute "
            "each; this needs a C++ compiler, for a GPU a C compiler. It gains nothing on a CPU. Not for SAM 3."
        ),
    )
    max_instructions_per_unit: int = Field(
        default=16, ge=1, description="Largest number of instructions that are answered together on one video."
    )
    sampling: Sampling = Field(default=Sampling(), description="The choice of the frames that the MLLM sees.")
    prompt: PromptSettings = Field(default=PromptSettings(), description="The sentence that the MLLM reads.")
    fusion: Fusion = Field(default=Fusion(), description="TDA, the fusion of [SEG] and [TAK] tokens.")
    keyframe: Keyframe = Field(default=Keyframe(), description="The choice of the keyframe.")
    tracking: Tracking = Field(default=Tracking(), description="The way from sampled frames to masks on all frames.")
    masks: Masks = Field(default=Masks(), description="The treatment of predicted masks.")
    decode: Decoding = Field(default=Decoding(), description="The frames that are labelled, and unusual videos.")
    split: Split = Field(default=Split(), description="The division of very long videos.")
    limits: Limits = Field(default=Limits(), description="Limits on a video's header values.")
    resources: Resources = Field(default=Resources(), description="Place and speed of the work.")

    def identity(self) -> dict[str, Any]:
        """The settings that decide the content of the tables. `run.json` names the model by its fingerprint elsewhere."""
        return self.model_dump(mode="json", exclude={"resources": True, "model": True, "limits": _ACCESS})

    def identity_as(self, begun: Any) -> dict[str, Any]:
        """The identity as a run began with it, which is the same where only settings are new that have their defaults.

        The default of a new setting leaves the tables as they were, so a newer program can continue such a run.

        Args:
            begun: the settings that the run recorded.

        Returns:
            `begun`, where it gives these settings; else `identity`.
        """
        own = self.identity()
        try:
            same = Settings.model_validate(begun).identity() == own
        except ValidationError:
            same = False
        return begun if same else own

    def for_bundle(self, bundle: Bundle) -> Settings:
        """As `for_family`, for a bundle's family and presence."""
        # a head judges the candidates that a keyframe is chosen from; without such a choice presence is the object score's
        chosen = (self.tracking.start or bundle.family.start) == "keyframe"
        return self.for_family(bundle.family, presence_threshold(bundle) if chosen else bundle.presence)

    def for_family(self, family: FamilyInfo, presence: float = 0.0) -> Settings:
        """The settings with a model's presence and its family's published values where they have none of their own.

        Raises:
            SettingsError: a setting that models of the family have no use for, such as a sampler that needs a CLIP.
        """
        published: dict[str, dict[str, Any]] = {
            "sampling": {"sampler": family.sampler, "max_image_token": family.frames},
            "tracking": {"start": family.start, "directions": family.directions},
            "masks": {"hole_area": family.hole_area, "presence": presence},
        }
        resolved: dict[str, Any] = {}
        for name, values in published.items():
            section = getattr(self, name)
            open_ones = {key: value for key, value in values.items() if getattr(section, key) is None}
            resolved[name] = section.model_copy(update=open_ones)
        sampler = resolved["sampling"].sampler
        if not family.clip and sampler not in WITHOUT_CLIP:
            raise SettingsError(
                f"sampling.sampler {sampler}: it needs a CLIP, which models of the family {family.name} do not have; "
                f"expected one of {', '.join(sorted(WITHOUT_CLIP))}"
            )
        if self.compile and not family.compiles:
            raise SettingsError(f"compile true: models of the family {family.name} cannot be compiled; expected false")
        for name, ways in family.ways.items():
            if (given := getattr(resolved["tracking"], name)) not in ways:
                expected = f"expected {' or '.join(ways)} for a model of the family {family.name}"
                raise SettingsError(f"tracking.{name} {given}: {expected}")
        tracking = resolved["tracking"]
        if tracking.refresh != "never" and tracking.start != "keyframe":
            raise SettingsError(
                f"tracking.refresh {tracking.refresh}: expected never with tracking.start {tracking.start}"
            )
        return self.model_copy(update=resolved)

    def operator_configs(self, model: str, device: str) -> dict[str, Any]:
        """The config of every operator, by operator name.

        Args:
            model: name or folder of a local bundle.
            device: torch's name of the device.
        """
        # imported here because they load torch, which a command that only plans or refuses does not need
        from vrshq.operators.fuse import FuseConfig
        from vrshq.operators.keyframe import KeyframeConfig
        from vrshq.operators.presample import PreSampleConfig
        from vrshq.operators.propagate import PropagateConfig
        from vrshq.operators.tokens import TokensConfig

        chosen, resources = self.for_bundle(open_bundle(model)), self.resources
        dtype = ("bfloat16" if device == "cuda" else "float32") if self.dtype == "auto" else self.dtype
        network: dict[str, Any] = {"model": model, "device": device, "dtype": dtype}
        tracking: dict[str, Any] = {
            **chosen.tracking.model_dump(),
            "hole_area": chosen.masks.hole_area,
            "feature_cache_bytes": resources.feature_cache_mib * MIB,
            "encode_batch": resources.encode_batch,
            "batch": resources.instruction_batch,
            "compiled": self.compile,
        }
        return {
            "decode": DecodeConfig(
                **self.limits.sizes(),
                **self.decode.model_dump(),
                frame_cache_bytes=resources.frame_cache_mib * MIB,
                num_threads=resources.threads,
            ),
            "presample": PreSampleConfig(**network, **chosen.sampling.model_dump(), batch_size=resources.clip_batch),
            "tokens": TokensConfig(**network, **self.prompt.model_dump(), max_suffixes=resources.instruction_batch),
            "fuse": (fusion := FuseConfig(**self.fusion.model_dump())),
            "keyframe": KeyframeConfig(
                **network,
                **tracking,
                method=self.keyframe.method,
                seed=self.sampling.seed if self.keyframe.seed is None else self.keyframe.seed,
                fusion=fusion,
            ),
            "propagate": PropagateConfig(**network, **tracking, presence=chosen.masks.presence or 0.0),
        }


def load_settings(config: str | None, assignments: list[str], **overrides: Any) -> Settings:
    """Settings from a YAML file, then `key.sub=value` assignments, then named overrides.

    Args:
        config: uri of the YAML file, or None.
        assignments: the values of `--set`, for example "keyframe.method=first".
        **overrides: top-level settings; None leaves a setting alone.

    Raises:
        SettingsError: one line that names the file or the setting, the value given, and the value expected.
        StorageError: the file cannot be read.
    """
    values: dict[str, Any] = read_yaml(config) if config else {}
    assign(values, assignments, "keyframe.method=first")
    values |= {name: value for name, value in overrides.items() if value is not None}
    return validated(Settings, values, "vrshq settings")

"""The settings of place and speed: actor pools, batches, caches, attempts and deadlines."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from vrshq.pipelines.estimate.terms import Terms

_OPENING_SECONDS, _OPENING_SECONDS_PER_MIB = 600.0, 2.0
# A unit may take so many times its expected cost, and so long besides: first calls compile and load.
_MARGIN, _REST_SECONDS = 10.0, 300.0


# A unit is long if it has more frames than so many windows.
LONG = 4


class Section(BaseModel):
    """A group of settings: frozen, and without unknown names."""

    model_config = ConfigDict(frozen=True, extra="forbid")


OperatorName = Literal["presample", "tokens", "fuse", "keyframe", "propagate"]


class Pool(Section):
    """One stage placement: the operators that share an actor, and the resources of each actor."""

    operators: tuple[OperatorName, ...] = Field(description="Operators of each actor, in the order of the stages.")
    actors: int = Field(default=1, ge=1, description="Number of actors at the start.")
    max_actors: int | None = Field(
        default=None,
        ge=1,
        description="Number of actors up to which the pool grows with the cluster; default: it does not.",
    )
    cpus: float = Field(default=1, gt=0, description="CPUs that Ray reserves for each actor.")
    gpus: float = Field(default=0, ge=0, description="GPUs that Ray reserves for each actor; a fraction shares a GPU.")
    units: int = Field(
        default=1,
        ge=1,
        le=8,
        description="Units that each actor works on at once, each in its own threads: one is decoded while another is tracked.",
    )


class Resources(Section):
    """Place and speed of the work.

    As long as `threads`, `window_frames` and the batch sizes stay, these settings change no bit of the tables. A unit that
    exceeds its deadline is given up and tried again, like a unit whose process died. `threads` does not depend on the machine,
    because sums over more threads differ in their last bits, and the number of actors must not change a table.
    """

    device: Literal["auto", "cpu", "cuda"] = Field(
        default="auto", description="Device of the networks; auto takes GPUs where the cluster has any."
    )
    pools: tuple[Pool, ...] | None = Field(
        default=None,
        examples=[
            "[{operators: [presample, tokens], gpus: 1}, {operators: [fuse, keyframe, propagate], gpus: 1, actors: 2}]"
        ],
        description="Actor pools, first to last; default: chosen from the machines and measured costs.",
    )
    threads: int = Field(default=1, ge=1, description="Threads of torch and of the decoder in each actor.")
    frame_cache_mib: int = Field(default=512, ge=0, description="Decoded frames kept in memory per open video, in MiB.")
    feature_cache_mib: int = Field(
        default=2048, ge=1, description="SAM2 image features kept in memory per open video, in MiB."
    )
    clip_batch: int = Field(default=16, ge=1, description="Frames per batch of the pre-sampling CLIP.")
    encode_batch: int = Field(default=4, ge=1, description="Frames per batch of SAM2's image encoder.")
    instruction_batch: int = Field(
        default=16, ge=1, description="Instructions per batch of the LLaMA, of keyframe choice and of propagation."
    )
    window_frames: int = Field(
        default=512,
        ge=1,
        description=(
            "Frames of a window. A unit with more frames than four windows is stored window by window, with what is needed to "
            "go on from there; a shorter one is begun anew after an interruption."
        ),
    )
    attempts: int = Field(
        default=3, ge=1, le=20, description="Attempts at a unit whose process dies or whose deadline passes."
    )
    deadline_seconds: float | None = Field(
        default=None,
        gt=0,
        examples=["600"],
        description=(
            "Time of a unit until its video is open, in seconds; also added to the time after it. Default: 600, and 2 more for "
            "each MiB of the video, until it is open; 300 after it, or 600 where the cost of a unit is not known."
        ),
    )
    deadline_seconds_per_frame: float | None = Field(
        default=None,
        ge=0,
        examples=["5"],
        description=(
            "Time of a unit with one instruction per frame, in seconds; each further one adds a quarter of it. Default: ten "
            "times the measured or estimated cost of the unit, or 5 where it is not known."
        ),
    )
    compact: bool = Field(
        default=True,
        description="Merge the parts into larger files while the run works, and the rest once it is complete.",
    )

    def with_halved_batches(self) -> Resources:
        """These resources with batches of half the size, at least 1; equal to these where all are 1."""
        batches = {
            name: max(1, getattr(self, name) // 2) for name in ("clip_batch", "encode_batch", "instruction_batch")
        }
        return self.model_copy(update=batches)

    def opening(self, nbytes: int = 0) -> float:
        """Time of a unit until its video is open, in seconds. Some videos are decoded whole for it.

        Args:
            nbytes: size of the video, as far as it is known.
        """
        if self.deadline_seconds is not None:
            return self.deadline_seconds
        return _OPENING_SECONDS + _OPENING_SECONDS_PER_MIB * nbytes / (1 << 20)

    def deadline(self, num_frames: int, instructions: int, cost: Terms | None = None) -> float:
        """Time of a unit once its video is open, in seconds.

        Args:
            num_frames: frames that are decoded for it.
            instructions: their number.
            cost: the expected cost of a unit on its device; None: unknown.
        """
        per_frame = self.deadline_seconds_per_frame
        if per_frame is None and cost is not None:
            rest, work = _REST_SECONDS, _MARGIN * cost.seconds(num_frames, instructions)
        else:
            rest = _OPENING_SECONDS
            work = (5.0 if per_frame is None else per_frame) * num_frames * (0.75 + 0.25 * instructions)
        return work + (rest if self.deadline_seconds is None else self.deadline_seconds)

"""The face of a family of models: a language side, from frames and texts to objects, and a tracker, from these to masks.

    frames and texts -> Language.read -> Reading -> (TDA, where there is a [TAK]) -> Request -> Tracker.track -> TrackedObject

A family is a module with the functions of `Family`; `families.py` names it. The stages know this file alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from vrshq.operators.batch import InputError
from vrshq.operators.models.bundle import Bundle
from vrshq.operators.models.families import Decoder, Directions, RefreshWhen, Start

# What is kept of single frames for the next unit of a video, in bytes of main memory.
KEPT_BYTES = 128 << 20
# Which instructions VRS-HQ asks as they are: "reference" those that end in "?", "any_script" see `vrs_hq.prompt.is_question`.
Questions = Literal["reference", "any_script"]
# How a generating model is asked: as the reference's benchmark script asks, or with the instruction alone.
Wording = Literal["benchmark", "as_is"]


class Frames(Protocol):
    """The part of a video's interface that models need."""

    num_frames: int
    height: int
    width: int

    def frames(self, indices: Sequence[int]) -> np.ndarray:
        """The frames at the given indices: (n, H, W, 3) uint8 RGB."""


@dataclass(frozen=True, kw_only=True)
class ReadConfig:
    """How a language side is loaded and asked. A family takes the settings that it has a use for.

    Attributes:
        model: name or folder of the bundle.
        questions: which instructions are asked as they are (VRS-HQ).
        wording: how a generating model is asked.
        max_new_tokens: length at which a generated answer is cut, in tokens.
        max_suffixes: instructions through the language model at once.
        device: torch's name of the device.
        dtype: torch's name of the type of weights and activations.
    """

    model: str = "tiny"
    questions: Questions = "reference"
    wording: Wording = "benchmark"
    max_new_tokens: int = 2048
    max_suffixes: int = 16
    device: str = "cpu"
    dtype: str = "float32"

    def __post_init__(self) -> None:
        for name in ("max_suffixes", "max_new_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} {getattr(self, name)}: expected at least 1")


@dataclass(frozen=True)
class Question:
    """An instruction on sampled frames: its text as given, and the frames' indices, ascending."""

    text: str
    frames: tuple[int, ...]


@dataclass(frozen=True)
class Reading:
    """What the language side says about an instruction.

    Attributes:
        seg: (r, d) float32 embeddings of [SEG]. With `tak`: one for each sampled frame, all of one object. Without: one for
            each object; the same embedding prompts all sampled frames.
        tak: (d,) float32 embedding of [TAK]; None for a family without one.
        answer: the generated text; None for a family that generates none.
    """

    seg: Tensor
    tak: Tensor | None = None
    answer: str | None = None


def keep_some(kept: dict[int, Any], made: Mapping[int, Any], nbytes: Callable[[Any], int]) -> None:
    """Adds to `kept` what was made of frames, in order, until `KEPT_BYTES` are there.

    Args:
        kept: see `Language.read`.
        made: frame -> what was made of it, in main memory.
        nbytes: its size.
    """
    total = sum(map(nbytes, kept.values()))
    for frame, one in made.items():
        total += nbytes(one)
        if total > KEPT_BYTES:
            return
        kept[frame] = one


class Language(Protocol):
    """The language side of a model."""

    def read(
        self, video: Frames, questions: Mapping[int, Question], kept: dict[int, Any]
    ) -> dict[int, Reading | InputError]:
        """Reads the instructions of one video together.

        Args:
            video: the video.
            questions: the instructions.
            kept: what was made of single frames in earlier calls for this video, by frame; up to `KEPT_BYTES` are added.

        Returns:
            For each key of `questions`, what was read, or why the instruction cannot be asked.
        """


@dataclass(frozen=True, kw_only=True)
class TrackConfig:
    """How a tracker is loaded and used. None: as the family published it.

    Attributes:
        model: name or folder of the bundle.
        start: what a track begins with.
        directions: directions in which masks are carried from the prompted frames.
        decoder: which mask decoder carries masks: the family's own, or SAM2's original one beside it.
        refresh: when a candidate mask of a sampled frame takes over from a tracked one, see `sam2.refresh`.
        hole_area: holes of at most this many low-resolution pixels are filled; 0 fills none.
        feature_cache_bytes: budget of the image features of one video.
        encode_batch: frames through the image encoder at once.
        batch: objects, or prompted frames, through the mask decoder at once.
        device: torch's name of the device.
        dtype: torch's name of the type that the tracker computes in.
        looks: whether candidates come with a `Look`, from which a presence head judges them.
        compiled: whether SAM2's image encoder and steady tracking steps run compiled code.
    """

    model: str = "tiny"
    start: Start | None = None
    directions: Directions | None = None
    decoder: Decoder = "own"
    refresh: RefreshWhen = "never"
    hole_area: int | None = None
    feature_cache_bytes: int = 2 << 30
    encode_batch: int = 4
    batch: int = 16
    device: str = "cpu"
    dtype: str = "float32"
    looks: bool = False
    compiled: bool = False


@dataclass(frozen=True)
class Request:
    """What a tracker needs to know of one instruction.

    Attributes:
        text: the instruction.
        frames: indices of its sampled frames, ascending.
        objects: the prompt of each object, (k*d,) float32: k embeddings of width d.
        keyframes: the keyframe of each object, where keyframes are chosen.
        scores: the object logit of each object's keyframe, where keyframes are chosen.
        logits: (l, l) mask logits of each object's keyframe; None where they must be decoded again.
    """

    text: str
    frames: Sequence[int]
    objects: Sequence[Tensor]
    keyframes: Sequence[int] = ()
    scores: Sequence[float] = ()
    logits: Sequence[Tensor] | None = None


@dataclass(frozen=True)
class Look:
    """What is seen where a candidate's mask lies.

    Attributes:
        iou: the tracker's own prediction of the mask's IoU.
        shape: (6,) float32 on the CPU: share of the square that the mask covers, its centre x and y, its spread along x and y,
            and its mean probability; zeros for an empty mask.
        pooled: (C,) float32 on the CPU, mean of the image features inside the mask; zeros for an empty mask.
    """

    iou: float
    shape: Tensor
    pooled: Tensor


@dataclass(frozen=True)
class Candidate:
    """An object's mask on a sampled frame, from its prompt alone: the object logit, and mask logits (l, l) on the CPU.

    `look` is there where the configuration asks for looks and the tracker has image features to pool.
    """

    score: float
    logits: Tensor
    look: Look | None = None


@dataclass(frozen=True)
class TrackedObject:
    """One object's output on one frame.

    Attributes:
        key: the instruction's key in the requests.
        number: the object's number within the instruction, from 0.
        frame: frame index.
        low_res: (l, l) mask logits.
        score: object logit.
        prompted: whether the frame's mask comes from a prompt and not from tracking.
        hole_area: area up to which the mask's holes are still to be filled (`masks.holes`), in low-resolution pixels; the
            tracker leaves this to the consumer, so that its next step does not wait for it.
    """

    key: int
    number: int
    frame: int
    low_res: Tensor
    score: float
    prompted: bool = False
    hole_area: int = 0


@dataclass(frozen=True)
class TrackState:
    """What `Tracker.track` needs to go on from the border of a window, as if it had not stopped.

    Attributes:
        name: "prompts", the first one, when all prompted frames have their masks; "sweep", in place of the one before, when a
            direction has gone through a window.
        tensors: by name, on the CPU.
        about: JSON-able.
    """

    name: Literal["prompts", "sweep"]
    tensors: dict[str, Tensor]
    about: dict[str, Any]


@dataclass(frozen=True)
class Pauses:
    """A track that can be interrupted. It is cut at the multiples of `length` frames.

    Attributes:
        length: frames of a window.
        begun: the states that `reached` was given before, by name; empty: the track begins.
        reached: called at each border when all masks before it were yielded.
    """

    length: int
    begun: Mapping[str, TrackState]
    reached: Callable[[TrackState], None]


class OpenedVideo(Protocol):
    """A tracker's state of one video, shared by the stages of an actor. `encoder_calls`: frames encoded so far."""

    encoder_calls: int


Opened = TypeVar("Opened", bound=OpenedVideo)


class Tracker(Protocol[Opened]):
    """Turns prompts into masks.

    Attributes:
        start: what a track begins with; "keyframe" asks for a choice among the candidates.
        pauses: whether its tracks can be interrupted.
    """

    start: Start
    pauses: bool

    def open(self, video: Frames, *, stays: bool = False) -> Opened:
        """The state for one video. `stays`: it serves several units, so frames are not forgotten within the budget."""

    def candidates(self, opened: Opened, requests: Mapping[int, Request]) -> dict[int, list[list[Candidate]]]:
        """For each request and object, the candidates on the sampled frames, in their order."""

    def track(
        self, opened: Opened, requests: Mapping[int, Request], pauses: Pauses | None = None
    ) -> Iterator[list[TrackedObject]]:
        """The masks of all objects of all requests, each frame at most once; a frame without an output has no mask.

        The objects of one step have one `hole_area`. `pauses` is given only where the tracker can be interrupted.
        """

    def full_size(self, opened: Opened, low_res: Tensor) -> Tensor:
        """Mask logits (B, l, l) at the size of the frame: (B, H, W) float32; the mask is logits > 0."""


class Family(Protocol):
    """The functions of a family's module."""

    def load(self, bundle: Bundle, part: str, device: str, dtype: torch.dtype) -> nn.Module:
        """One network of a bundle, in evaluation mode. Raises CheckpointError."""

    def language(self, config: ReadConfig) -> Language:
        """The language side of a bundle. Its networks are shared in this process."""

    def tracker(self, config: TrackConfig) -> Tracker[Any]:
        """The tracker of a bundle. Its networks are shared in this process."""

"""What every benchmark looks like to the rest of the program: videos with expressions, and ground-truth masks as RLE."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from vrshq.errors import UserError
from vrshq.operators.masks.rle import Rle

Kind = Literal["referring", "reasoning", "no-target"]


class DatasetError(UserError, ValueError):
    """The data set cannot be read; the one-line message names the file, and says what was expected."""


@dataclass(frozen=True)
class Expression:
    """One instruction of a benchmark.

    Attributes:
        expression_id: its id inside the video, as the data set writes it.
        text: the instruction.
        kind: where the data set tells; None otherwise.
        object_ids: the objects meant; empty where the data set does not say, or for no-target.
        asks, subtype: what the text asks by, such as "motion" and "fastest", in the words of a data set that tells; for
            no-target expressions too.
    """

    expression_id: str
    text: str
    kind: Kind | None = None
    object_ids: tuple[str, ...] = ()
    asks: str | None = None
    subtype: str | None = None


@dataclass(frozen=True)
class Video:
    """One video of a benchmark.

    Attributes:
        video_id: as the data set writes it; may hold slashes.
        frames: the frames' names without extension, in the order that masks are listed in.
        uri: its folder of frames, relative to the data set's root.
        source: the collection it comes from, where the data set tells (ReVOS: the id's prefix); else None.
        height, width: pixels, where the metadata tells.
    """

    video_id: str
    frames: tuple[str, ...]
    expressions: tuple[Expression, ...]
    uri: str
    source: str | None = None
    height: int | None = None
    width: int | None = None


@dataclass(frozen=True)
class Folders:
    """Names inside a data set's root that differ between copies; None takes the layout's own."""

    frames: str | None = None
    metadata: str | None = None
    masks: str | None = None


class Benchmark(ABC):
    """An opened benchmark. Reading the metadata happens in the constructor; masks are read when asked for."""

    name: ClassVar[str]
    """The name of the data set on the command line."""

    videos: Sequence[Video]
    """In the metadata's order."""

    has_masks: bool
    """Whether this split has ground truth to score against."""

    @abstractmethod
    def masks(self, video: Video, expression: Expression) -> list[list[Rle]]:
        """Ground truth of an expression: for each frame of `video.frames` the masks whose sum is the truth.

        An empty list is a frame without the object (and every frame of a no-target expression). Several masks of one
        frame may overlap: the public evaluators add them, so a pixel's value can exceed 1; everybody else takes the
        union. Raises DatasetError where the data set's own entry is missing or cannot be read.
        """

    def foreground(self, video: Video) -> list[list[Rle]] | None:  # noqa: ARG002 - most benchmarks have none
        """Per frame, the masks whose sum is the annotated foreground of all objects; None where there is none."""
        return None

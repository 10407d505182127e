"""The interface of benchmarks: videos with expressions, and ground-truth masks as run-length codes (RLE)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from vrshq.errors import UserError
from vrshq.operators.masks.rle import Rle

Kind = Literal["referring", "reasoning", "no-target", "static", "dynamic", "hybrid"]


class DatasetError(UserError, ValueError):
    """The data set cannot be read. The one-line message names the file and says what was expected."""


@dataclass(frozen=True)
class Expression:
    """One instruction of a benchmark.

    Attributes:
        expression_id: id inside the video, as in the data set.
        text: the instruction.
        kind: kind of the expression; None: the data set has none.
        object_ids: ids of the target objects; empty for no-target expressions, or if the data set has none.
        asks: the attribute that the text asks for, such as "motion"; None: the data set has none.
        subtype: the value of that attribute, such as "fastest"; None: the data set has none.
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
        video_id: id as in the data set; it may hold slashes.
        frames: names of the frames without extension, in the order of the masks.
        expressions: the instructions of the video.
        uri: folder of the frames, or the video file, relative to the data set's root.
        source: the collection that the video comes from (ReVOS: the prefix of its id); None: the data set has none.
        height: pixels; None: not in the metadata.
        width: pixels; None: not in the metadata.
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
    """Names inside a data set's root that differ between copies.

    Attributes:
        frames: folder of the videos' frames; None: as in the layout.
        metadata: file of the metadata; None: as in the layout.
        masks: file or folder of the masks; None: as in the layout.
    """

    frames: str | None = None
    metadata: str | None = None
    masks: str | None = None


class Benchmark(ABC):
    """An opened benchmark. The constructor reads the metadata; the methods read masks."""

    name: ClassVar[str]
    """The name of the data set on the command line."""

    videos: Sequence[Video]
    """The videos in the order of the metadata."""

    has_masks: bool
    """Whether the split has ground truth."""

    video_files = False
    """Whether the videos are files; else each is a folder of frames."""

    @abstractmethod
    def masks(self, video: Video, expression: Expression) -> list[list[Rle]]:
        """The true masks of an expression: for each frame of `video.frames`, the masks whose sum is the truth.

        A frame without the object has an empty list, as has every frame of a no-target expression. The masks of one frame may
        overlap. The public evaluators add them, so a pixel's value can exceed 1; all other code takes their union.

        Raises:
            DatasetError: the entry of the data set is missing or cannot be read.
        """

    def foreground(self, video: Video) -> list[list[Rle]] | None:  # noqa: ARG002 - most benchmarks have none
        """For each frame, the masks whose sum is the annotated foreground of all objects; None if the data set has none.

        Raises:
            DatasetError: the entry of the data set is missing or cannot be read.
        """
        return None

"""A run opened in Python: its tables as Arrow, pandas or Polars, and the masks of an instruction as arrays."""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.errors import UserError
from vrshq.operators.masks.rle import decode, union
from vrshq.pipelines.label.tables.schema import ERRORS, MASKS, TRACKS

Form = Literal["arrow", "pandas", "polars"]


class NoSuchRow(UserError, KeyError):  # noqa: N818 - reads as the sentence that it is
    """The run has no such instruction, or the instruction no such frame. The message says which ones there are."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would quote it


def open_run(uri: str) -> Run:
    """Opens a run directory, local or in a bucket, finished or not.

    Raises:
        StorageError, RunDirectoryError: there is no run at `uri`.
    """
    return Run(uri)


class Masks:
    """The masks of one instruction, by frame number, kept as run-length codes.

    `masks[12]` is the mask of frame 12, (H, W) bool; iteration yields (frame number, mask) in the order of the frames. An
    answer with several objects gives the union of their masks; `masks.of(1)` has those of its second object alone.

    Attributes:
        objects: ids of the objects, ascending; an instruction without an object has one with empty masks.
        frames: numbers of the frames, ascending; all frames of the video, unless the run labelled a part of them.
        height: H of every mask, in pixels.
        width: W of every mask, in pixels.
        object_scores: the object score (a logit) of each frame, (T,) float32; the highest of the objects'.
    """

    def __init__(self, rows: pa.Table) -> None:
        self._rows = rows.sort_by([("frame_index", "ascending"), ("object_id", "ascending")])
        self._codes: dict[int, list[bytes]] = {}
        scores: dict[int, float] = {}
        columns = (self._rows[name].to_pylist() for name in ("frame_index", "rle", "object_score"))
        for frame, code, score in zip(*columns, strict=True):
            self._codes.setdefault(frame, []).append(code)
            scores[frame] = max(score, scores.get(frame, score))
        self.objects: list[int] = sorted(set(self._rows["object_id"].to_pylist()))
        self.frames: list[int] = list(self._codes)
        self.height, self.width = (int(rows[name][0].as_py()) if self.frames else 0 for name in ("height", "width"))
        self.object_scores: np.ndarray = np.array(list(scores.values()), np.float32)

    def of(self, object_id: int) -> Masks:
        """The masks of one object alone.

        Raises:
            NoSuchRow: the answer has no such object.
        """
        if object_id not in self.objects:
            raise NoSuchRow(f"object {object_id}: the answer has {', '.join(map(str, self.objects)) or 'none'}")
        return Masks(self._rows.filter(pc.equal(self._rows["object_id"], object_id)))

    def __len__(self) -> int:
        return len(self.frames)

    def __contains__(self, frame: int) -> bool:
        return frame in self._codes

    def __iter__(self) -> Iterator[tuple[int, np.ndarray]]:
        return ((frame, self[frame]) for frame in self.frames)

    def __getitem__(self, frame: int) -> np.ndarray:
        """The mask of a frame, (H, W) bool.

        Raises:
            NoSuchRow: the instruction has no mask on this frame.
        """
        if frame not in self._codes:
            there = f"{self.frames[0]} to {self.frames[-1]}" if self.frames else "none, because it failed"
            raise NoSuchRow(f"frame {frame}: the instruction has {len(self.frames)} frames with masks, {there}")
        codes = self._codes[frame]
        code = codes[0] if len(codes) == 1 else union(codes, self.height, self.width).rle
        return decode(code, self.height, self.width).astype(bool)

    def array(self) -> np.ndarray:
        """All masks, (T, H, W) bool: T * H * W bytes."""
        found = [mask for _, mask in self]
        return np.stack(found) if found else np.zeros((0, self.height, self.width), bool)


class Run:
    """A run directory, for reading.

    Masks are those of the moment of the last `tracks()`, or else of the first `masks()`. Of a run that is still being labelled,
    later ones are found after `tracks()`, and after a while without it.

    Attributes:
        uri: where it lies.
    """

    def __init__(self, uri: str) -> None:
        self._run = RunDirectory(uri)
        self.uri = self._run.uri
        self._masks = self._run.reader("masks", MASKS)
        self._last: tuple[str, pa.Table] | None = None  # a unit and its rows of `masks/`
        self._manifest = self._run.read_manifest().select(["unit_id", "video_id", "instruction_ids"])

    def tracks(self, form: Form = "arrow") -> Any:
        """One row for each finished instruction: the columns of `tracks/`, carried ones included.

        Args:
            form: `arrow` for a pyarrow.Table, `pandas` or `polars` for a data frame of that library.

        Raises:
            UserError: the library is not installed.
        """
        reader = self._run.reader("tracks", TRACKS)
        reader.schema = reader.stored_schema()
        table = reader.read()
        self._masks, self._last = self._run.reader("masks", MASKS), None  # a unit with a track has its masks there
        return _as(table, form)

    def errors(self, form: Form = "arrow") -> Any:
        """One row for each failed instruction: the columns of `errors/`. `form` as for `tracks`."""
        return _as(self._run.read("errors", ERRORS), form)

    def masks(self, video_id: str, instruction_id: str) -> Masks:
        """The masks of one instruction; without frames if it failed or is not finished.

        Costs one read of its unit's rows, which the next call takes again if it is for the same unit; the first call lists
        `masks/` too.

        Raises:
            NoSuchRow: the run has no such instruction.
        """
        unit = self._units.get((video_id, instruction_id))
        if unit is None:
            videos = {video for video, _ in self._units}
            known = sorted(one for video, one in self._units if video == video_id) or sorted(videos)
            kind = "instructions of this video" if video_id in videos else "videos"
            shown = ", ".join(known[:5]) + (", ..." if len(known) > 5 else "")
            raise NoSuchRow(f"{self.uri} has no instruction {instruction_id!r} of {video_id!r}; {kind}: {shown}")
        rows = self._rows_of(unit)
        return Masks(rows.filter(pc.equal(rows["instruction_id"], instruction_id)))

    @functools.cached_property
    def _units(self) -> dict[tuple[str, str], str]:
        return {
            (unit["video_id"], instruction): unit["unit_id"]
            for unit in self._manifest.to_pylist()
            for instruction in unit["instruction_ids"]
        }

    def _rows_of(self, unit: str) -> pa.Table:
        if self._last is None or self._last[0] != unit:
            columns = ["instruction_id", "object_id", "frame_index", "height", "width", "rle", "object_score"]
            self._last = unit, self._masks.read([unit], columns)
        return self._last[1]


def _as(table: pa.Table, form: Form) -> Any:
    if form == "arrow":
        return table
    if form not in ("pandas", "polars"):
        raise UserError(f"form {form!r}: expected arrow, pandas or polars")
    try:
        library = importlib.import_module(form)
    except ImportError:
        raise UserError(f"{form} is not installed; pip install {form}, or take the form 'arrow'") from None
    return library.from_arrow(table) if form == "polars" else table.to_pandas()

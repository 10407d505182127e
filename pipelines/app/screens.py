"""What the page shows of single instructions: masks as run-length codes, curves, facts; fetched for what is on screen."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vrshq.cluster.storage.run_directory import RunDirectory
from vrshq.pipelines.label.tables.schema import MASKS, TRACKS
from vrshq.pipelines.label.tables.spans import labelled_frames

_COLUMNS = ("video_id", "instruction_id", "object_id", "frame_index", "height", "width", "rle", "area", "object_score")
_DETAILS = ("video_id", "instruction_id", "sampled_frames", "object_scores", "notes", "error_type", "error_message")
_KEPT_BYTES = 96 << 20  # masks of instructions
MOST_FRAMES = 256  # of one answer

Row = Mapping[str, Any]  # a row of the catalogue


class Screens:
    """Masks and details of single instructions. Safe for several threads.

    Cost: reads the units of the wanted instructions; the masks of the last instructions are kept, `_KEPT_BYTES` of them.
    """

    def __init__(self, run: RunDirectory) -> None:
        self._masks, self._tracks = run.reader("masks", MASKS), run.reader("tracks", TRACKS)
        self._kept: OrderedDict[tuple[str, str], pa.Table] = OrderedDict()
        self._size = 0
        self._lock = threading.Lock()

    def thumbnails(self, rows: Sequence[Row]) -> list[dict[str, Any]]:
        """For each instruction its row, the frame that stands for it, and the masks there. All units are read at once."""
        shown = {(row["video_id"], row["instruction_id"]): representative(row) for row in rows}
        with_masks = [row for row in rows if row["status"] not in ("error", "pending")]
        tables = self._tables(with_masks)
        found = []
        for row in rows:
            key = (row["video_id"], row["instruction_id"])
            table = tables.get(key)
            here = None if table is None else table.filter(pc.equal(table["frame_index"], shown[key]))
            found.append({"row": row["row"], "frame": shown[key], "masks": [] if here is None else _masks(here)})
        return found

    def masks(self, row: Row, first: int, last: int) -> list[dict[str, Any]]:
        """The masks of one instruction on the frames first to last, `MOST_FRAMES` of them at most."""
        table = self._table(row)
        last = min(last, first + MOST_FRAMES - 1)
        frames = table["frame_index"]
        return _masks(table.filter(pc.and_(pc.greater_equal(frames, first), pc.less_equal(frames, last))))

    def details(self, row: Row) -> dict[str, Any]:
        """Labelled frames, curves of area and object score by object, sampled frames, notes and errors."""
        table = self._table(row)
        objects = []
        for number in sorted(set(table["object_id"].to_pylist())):
            own = table.filter(pc.equal(table["object_id"], number))
            frames, areas, scores = (own[name].to_pylist() for name in ("frame_index", "area", "object_score"))
            shown = [None if score != score else round(score, 3) for score in scores]  # NaN is no JSON
            objects.append({"object": number, "frames": frames, "areas": areas, "scores": shown})
        frames = labelled_frames(row)
        asked = {"first": frames.start, "last": frames[-1] if frames else 0, "step": frames.step, "count": len(frames)}
        return {"labelled": asked, "objects": objects, **self._stored(row)}

    def _stored(self, row: Row) -> dict[str, Any]:
        if row["status"] == "pending":
            return {}
        table = self._tracks.read([row["unit_id"]], _DETAILS)
        table = table.filter(pc.equal(table["video_id"], row["video_id"]))
        found: list[dict[str, Any]] = table.filter(pc.equal(table["instruction_id"], row["instruction_id"])).to_pylist()
        return found[0] if found else {}

    def _table(self, row: Row) -> pa.Table:
        empty = pa.schema([MASKS.field(name) for name in _COLUMNS]).empty_table()
        if row["status"] in ("error", "pending"):
            return empty
        return self._tables([row]).get((row["video_id"], row["instruction_id"]), empty)

    def _tables(self, rows: Sequence[Row]) -> dict[tuple[str, str], pa.Table]:
        """The mask rows of instructions, by their key, in the order of frames and objects."""
        with self._lock:
            found = {key: self._kept[key] for row in rows if (key := _key(row)) in self._kept}
            for key in found:
                self._kept.move_to_end(key)
        missing = [row for row in rows if _key(row) not in found]
        if not missing:
            return found
        read = self._masks.read([*dict.fromkeys(row["unit_id"] for row in missing)], _COLUMNS)
        for row in missing:
            own = read.filter(pc.equal(read["video_id"], row["video_id"]))
            own = own.filter(pc.equal(own["instruction_id"], row["instruction_id"]))
            found[_key(row)] = own.sort_by([("frame_index", "ascending"), ("object_id", "ascending")]).combine_chunks()
            self._keep(_key(row), found[_key(row)])
        return found

    def _keep(self, key: tuple[str, str], table: pa.Table) -> None:
        with self._lock:
            if key not in self._kept:
                self._kept[key] = table
                self._size += table.nbytes
            while self._size > _KEPT_BYTES and len(self._kept) > 1:
                self._size -= self._kept.popitem(last=False)[1].nbytes


def representative(row: Row) -> int:
    """The frame that stands for an instruction: its keyframe, else the middle one of its labelled frames."""
    if row.get("keyframe_index") is not None:
        return int(row["keyframe_index"])
    frames = labelled_frames(row)
    return frames[len(frames) // 2] if frames else 0


def _key(row: Row) -> tuple[str, str]:
    return row["video_id"], row["instruction_id"]


def _masks(table: pa.Table) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = table.select(["object_id", "frame_index", "height", "width", "rle"]).to_pylist()
    return [
        {
            "object": row["object_id"],
            "frame": row["frame_index"],
            "height": row["height"],
            "width": row["width"],
            "rle": row["rle"].decode("ascii", "replace"),  # COCO's counts are letters
        }
        for row in rows
    ]

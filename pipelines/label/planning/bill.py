"""What a run directory in a bucket costs, in requests, bytes and dollars: an order of magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pyarrow.compute as pc

from vrshq.cluster.storage.uris import is_remote
from vrshq.pipelines.label.planning.costs import ASSUMED_FRAMES
from vrshq.pipelines.label.resources import LONG

if TYPE_CHECKING:
    from vrshq.pipelines.label.planning.plan import Plan

# Of a unit: its parts of masks, tracks and tokens are written, and read again when they are merged. Units of less than a second
# share parts on Ray, and cost less.
PARTS = 3
# Of a video in a bucket: its size is asked for, and it is fetched.
VIDEO_READS = 2
# Of a window of a long unit: CLIP's embeddings, masks and state are written; embeddings and masks are looked for, the masks are
# read again when the unit ends, and when they are merged.
WINDOW_WRITES, WINDOW_READS = 3, 3
# Bytes of a mask with its row, assumed where the run has made none yet.
_MASK_BYTES = 300
# S3 Standard in us-east-1 (https://aws.amazon.com/s3/pricing): dollars for a write or a listing, a read, a GB and month.
_WRITE, _READ, _GB_MONTH = 5e-6, 4e-7, 0.023


@dataclass(frozen=True)
class Bill:
    """Requests and bytes of the unfinished units.

    Attributes:
        writes: PUT requests.
        reads: GET and HEAD requests.
        nbytes: of the tables.
    """

    writes: int
    reads: int
    nbytes: float

    @property
    def dollars(self) -> float:
        """The price of the requests; deletions and traffic inside a region are free."""
        return self.writes * _WRITE + self.reads * _READ

    @property
    def dollars_a_month(self) -> float:
        """The price of keeping the tables."""
        return self.nbytes / 1e9 * _GB_MONTH


def bill_of(plan: Plan) -> Bill | None:
    """The bill of a plan's unfinished units; None where the run directory is on local disk."""
    if not is_remote(plan.run.uri):
        return None
    units = plan.todo.num_rows
    videos = sum(is_remote(uri) for uri in pc.unique(plan.todo["video_uri"]).to_pylist())
    merged = PARTS * units if plan.settings.resources.compact else 0
    counts = [command["counts"] for command in plan.commands if command["counts"].get("masks")]
    made = sum(count["masks"] for count in counts)
    of_mask = sum(count["bytes"] for count in counts) / made if made else _MASK_BYTES
    windows = _windows(plan)
    reads = merged + VIDEO_READS * videos + (WINDOW_READS + plan.settings.resources.compact) * windows
    return Bill(PARTS * units + WINDOW_WRITES * windows, reads, of_mask * _masks(plan))


def _windows(plan: Plan) -> int:
    """The windows of all units, as those of the videos whose length is known."""
    known = plan.lengths.by_uri.values() if plan.lengths else ()
    length = plan.settings.resources.window_frames
    found = [-(-frames // length) if frames > LONG * length else 0 for frames in known]
    return round(sum(found) / len(found) * plan.todo.num_rows) if found else 0


def _masks(plan: Plan) -> float:
    if plan.lengths is not None and plan.lengths.looked:
        return plan.lengths.frame_instructions * float(plan.todo.num_rows)
    instructions: int = pc.sum(pc.list_value_length(plan.todo["instruction_ids"])).as_py() or 0
    return instructions * (plan.expected.frames if plan.expected else ASSUMED_FRAMES)

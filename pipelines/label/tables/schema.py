"""The tables of a run directory, declared once. A change of meaning raises `SCHEMA_VERSION`."""

from __future__ import annotations

import pyarrow as pa

from vrshq.cluster.storage.columns import VALUE_BEFORE
from vrshq.operators.masks.trust import NAMES as TRUST_NAMES

SCHEMA_VERSION = 3
# All stages, in order; the names under which seconds are counted.
STAGES = ("decode", "presample", "tokens", "fuse", "keyframe", "propagate")

MANIFEST = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("video_uri", pa.string(), nullable=False),
        pa.field("instruction_ids", pa.list_(pa.string()), nullable=False),
        pa.field("texts", pa.list_(pa.string()), nullable=False),
        pa.field("carried", pa.list_(pa.string()), nullable=False),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
    ]
)

MASKS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("instruction_id", pa.string(), nullable=False),
        # one object for each instruction, before there were families with several
        pa.field("object_id", pa.int32(), nullable=False, metadata={VALUE_BEFORE: b"0"}),
        pa.field("frame_index", pa.int32(), nullable=False),
        pa.field("height", pa.int32(), nullable=False),
        pa.field("width", pa.int32(), nullable=False),
        pa.field("rle", pa.binary(), nullable=False),
        pa.field("area", pa.int64(), nullable=False),
        pa.field("bbox", pa.list_(pa.int32(), 4), nullable=False),
        pa.field("object_score", pa.float32(), nullable=False),
    ]
)

TRACKS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("video_uri", pa.string(), nullable=False),
        pa.field("instruction_id", pa.string(), nullable=False),
        pa.field("text", pa.string(), nullable=False),
        pa.field("answer", pa.string()),
        pa.field("num_objects", pa.int32()),
        pa.field("status", pa.string(), nullable=False),
        pa.field("num_frames", pa.int32()),
        pa.field("start", pa.int32()),
        pa.field("end", pa.int32()),
        pa.field("every", pa.int32()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("pixel_aspect", pa.float32()),
        pa.field("keyframe_index", pa.int32()),
        pa.field("sampled_frames", pa.list_(pa.int32())),
        pa.field("clip_probs", pa.list_(pa.float32())),
        pa.field("similarities", pa.list_(pa.float32())),
        pa.field("object_scores", pa.list_(pa.float32())),
        pa.field("presence", pa.float32()),
        # signals of trust: `operators.masks.trust`
        *(pa.field(name, pa.float32()) for name in TRUST_NAMES),
        pa.field("attempts", pa.int32(), nullable=False),
        pa.field("seconds", pa.struct([pa.field(stage, pa.float32()) for stage in STAGES])),
        pa.field("notes", pa.string()),
        pa.field("error_type", pa.string()),
        pa.field("error_message", pa.string()),
        pa.field("schema_version", pa.int32(), nullable=False),
    ]
)

TOKENS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("instruction_id", pa.string(), nullable=False),
        pa.field("sampled_frames", pa.list_(pa.int32()), nullable=False),
        pa.field("seg", pa.list_(pa.float32()), nullable=False),
        pa.field("tak", pa.list_(pa.float32()), nullable=False),
        pa.field("d", pa.int32(), nullable=False),
    ]
)

ERRORS = pa.schema(
    [
        pa.field("unit_id", pa.string(), nullable=False),
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("instruction_id", pa.string(), nullable=False),
        pa.field("stage", pa.string(), nullable=False),
        pa.field("error_type", pa.string(), nullable=False),
        pa.field("message", pa.string(), nullable=False),
        pa.field("attempt", pa.int32(), nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

# What people judged, one row a part (`reviews.py`). The latest row of a judge counts.
REVIEWS = pa.schema(
    [
        pa.field("video_id", pa.string(), nullable=False),
        pa.field("instruction_id", pa.string(), nullable=False),
        pa.field("judge", pa.string(), nullable=False),
        pa.field("verdict", pa.string(), nullable=False),
        pa.field("comment", pa.string(), nullable=False),
        pa.field("at", pa.timestamp("us", tz="UTC"), nullable=False),
    ]
)

"""The meaning of every column of every table, for the reference page; `docs.reference` checks that none is missing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa

from vrshq.pipelines.evaluate.scores import SCORES
from vrshq.pipelines.label.tables.schema import ERRORS, MANIFEST, MASKS, REVIEWS, TOKENS, TRACKS


@dataclass(frozen=True)
class Columns:
    """A table: the meaning of a row, its schema, and the meaning of each column by name."""

    about: str
    schema: pa.Schema
    meanings: Mapping[str, str]


_VIDEO = "The video's id: the instruction table's `video_id`, else its `video_uri` as given."
_INSTRUCTION = "The instruction's id, unique within its video."
_PERCENT = "in percent, rounded as the protocol rounds; 0 without a usable answer, null without ground truth."
_TRUST = "Of the objects' union, over the labelled frames; null where there is nothing to look at and before version 3."
_FIXED = "in percent, not rounded, computed on 0/1 masks."

TABLES: dict[str, Columns] = {
    "masks/": Columns(
        "One row per (video, instruction, object, frame) of every instruction that has an answer. Frames without the object "
        "have a row too, with an empty mask; so has an instruction in whose answer there is no object.",
        MASKS,
        {
            "video_id": _VIDEO,
            "instruction_id": _INSTRUCTION,
            "object_id": "The object's number within the answer, from 0. VRS-HQ has one object, Sa2VA one for each [SEG].",
            "frame_index": "The frame's number in presentation order, from 0.",
            "height": "Height of the frame in pixels.",
            "width": "Width of the frame in pixels.",
            "rle": "The mask as COCO's compressed run-length code (column-major). "
            '`pycocotools.mask.decode({"size": [height, width], "counts": rle})` gives its pixels.',
            "area": "Pixels of the mask.",
            "bbox": "Bounding box as x, y, width, height in pixels; zeros where the mask is empty.",
            "object_score": "The tracker's object score on this frame, a logit: above 0 it takes the object to be visible.",
        },
    ),
    "tracks/": Columns(
        "One row per instruction, whatever happened to it. Where a stage failed, its columns and those of later stages are "
        "null. The instruction table's other columns follow the ones below.",
        TRACKS,
        {
            "video_id": _VIDEO,
            "video_uri": "Where the video was read from.",
            "instruction_id": _INSTRUCTION,
            "text": "The instruction's text.",
            "answer": "What a generating model wrote, such as Sa2VA; null for VRS-HQ.",
            "num_objects": "Objects in the answer; 0 where the model found none. Null before version 3, where it was 1.",
            "status": "`ok`: some frame has a mask; `empty`: no frame has one; `error`: there is no answer.",
            "num_frames": "Frames of the video.",
            "start": "The first labelled frame. The frames `start`, `start + every`, ... below `end` have rows in `masks/`.",
            "end": "The frame after the labelled span: the instruction table's `end`, at most `num_frames`.",
            "every": "Distance of neighbouring labelled frames, the setting `decode.every`.",
            "height": "Height of the video in pixels.",
            "width": "Width of the video in pixels.",
            "pixel_aspect": "Width of a pixel over its height, as the video states it: 1 for square pixels. The masks lie on "
            "the stored pixels; people and networks see the frame `width * pixel_aspect` wide. Null in runs of version 1.",
            "keyframe_index": "The frame with which the first object's track begins; null where all sampled ones are prompted.",
            "sampled_frames": "The frames that the MLLM read.",
            "clip_probs": "CLIP's probability of each labelled frame for this text; they sum to 1. Null without CLIP.",
            "similarities": "Cosine of each sampled frame's [SEG] embedding with [TAK]'s, -1 to 1; empty without [TAK].",
            "object_scores": "The object score (a logit) on each sampled frame, from its prompt alone; object after object. "
            "Of SAM 3 each object's score on the first frame that shows it.",
            "presence": "0 to 1: the calibrated probability of the bundle's presence head. Without a head the sigmoid of the "
            "highest of `object_scores`, null without an object; calibrate it before you threshold it.",
            "flicker": f"Mean of 1 - IoU of the masks of neighbouring frames, 0 to 1, where one of them has a mask. {_TRUST}",
            "longest_gap": f"Most frames in a row without a mask between frames with one; 0 without a gap. {_TRUST}",
            "area_jump": "The largest change of area between neighbouring frames with a mask, as a share of the larger one, "
            f"0 to 1. {_TRUST}",
            "score_dips": f"Share of the frames whose `object_score` is below 0. {_TRUST}",
            "lowest_score": f"The lowest `object_score`. {_TRUST}",
            "border_share": f"Share of the masks' pixels in the outermost rows and columns of their frame. {_TRUST}",
            "attempts": "How many times the unit was begun.",
            "seconds": "Seconds of each stage for the whole unit, not for this instruction alone.",
            "notes": "What a user should know about the video's frames, such as damage and where it is, and changes made to "
            "the text, such as its truncation to CLIP's length.",
            "error_type": "The error's class, where `status` is `error`.",
            "error_message": "The error's message, one line.",
            "schema_version": "Version of these tables: 3.",
        },
    ),
    "tokens/": Columns(
        "One row per instruction that has an answer: the MLLM's embeddings, so that later stages can run again alone.",
        TOKENS,
        {
            "video_id": _VIDEO,
            "instruction_id": _INSTRUCTION,
            "sampled_frames": "The n frames that the MLLM read.",
            "seg": "The [SEG] embeddings, d values each: of every sampled frame, or of every object where `tak` is empty.",
            "tak": "The [TAK] embedding of the video: d values; empty for a family without one.",
            "d": "Width of an embedding.",
        },
    ),
    "errors/": Columns(
        "One row per instruction that failed. A later success of its unit (`--retry-errors`) removes it.",
        ERRORS,
        {
            "unit_id": "The unit's id in `manifest/`.",
            "video_id": _VIDEO,
            "instruction_id": _INSTRUCTION,
            "stage": "The stage that failed: `decode`, `presample`, `tokens`, `fuse`, `keyframe` or `propagate`; `worker` "
            "where the unit's process was lost.",
            "error_type": "The error's class. `WorkerDied`, `OutOfMemory` and `DeadlineExceeded` are units whose process "
            "was lost.",
            "message": "The error's message, one line of at most 2,000 characters.",
            "attempt": "The number of the attempt, from 1.",
            "at": "When the row was made, UTC.",
        },
    ),
    "reviews/": Columns(
        "One row per judgement of `vrshq app`, in a part of its own. Of each judge the latest one of an instruction counts.",
        REVIEWS,
        {
            "video_id": _VIDEO,
            "instruction_id": _INSTRUCTION,
            "judge": "Who judged, as the judge wrote the name.",
            "verdict": "`accept`, `reject` or `unsure`.",
            "comment": "What the judge remarked; empty where nothing.",
            "at": "When it was stored, in UTC.",
        },
    ),
    "manifest/": Columns(
        "One row per unit: a video with up to `max_instructions_per_unit` of its instructions.",
        MANIFEST,
        {
            "unit_id": "The unit's id, a hash of its content.",
            "video_id": _VIDEO,
            "video_uri": "Where the video is read from, resolved against `--videos`.",
            "instruction_ids": "Ids of the unit's instructions.",
            "texts": "Their texts, in the same order.",
            "carried": "The instruction table's other columns, one JSON object per instruction.",
            "start": "The first frame of the span of the video that is labelled; null: frame 0.",
            "end": "The frame after the span's last one; null: the end of the video.",
        },
    ),
    "scores.parquet": Columns(
        "Written by `vrshq evaluate`: one row per expression of the benchmark, in the benchmark's order.",
        SCORES,
        {
            "video_id": "The video's id, as the data set writes it.",
            "expression_id": "The expression's id inside its video.",
            "text": "The expression.",
            "kind": "`referring`, `reasoning` or `no-target`; in Long-RVOS `static`, `dynamic` or `hybrid`; null where the "
            "data set does not tell.",
            "asks": "The property that the text asks by, such as `motion`, where the data set tells.",
            "subtype": "A finer `asks`, such as `fastest`, where the data set tells.",
            "source": "The collection that the video comes from, where the data set tells.",
            "object_ids": "Ids of the objects that are meant.",
            "group": "The group of the protocol's mean that the expression belongs to.",
            "motion": "Whether the expression is about motion or time: by `asks` or the type, else by a list of English words.",
            "status": "`ok`, or why there is no score: `missing-video`, `missing-expression`, `missing-frames`, "
            "`wrong-size`, `scoring-failed`, `no-truth`.",
            "detail": "The reason in words, where there is one.",
            "missing_frames": "Frames without a predicted mask.",
            "frames": "Frames of the video.",
            "J": f"Mean IoU over frames, {_PERCENT}",
            "F": f"Mean boundary F over frames, {_PERCENT}",
            "JF": f"Mean of J and F, {_PERCENT}",
            "A": f"Share of right pixels as the public evaluator computes it, {_PERCENT}",
            "R": f"Robustness as the public evaluator computes it, {_PERCENT}",
            "J_fixed": f"J {_FIXED}",
            "F_fixed": f"F {_FIXED}",
            "JF_fixed": f"J&F {_FIXED}",
            "A_fixed": f"A {_FIXED}",
            "R_fixed": f"R {_FIXED}",
            "tIoU": "Temporal IoU in percent: frames with a mask against frames with the object.",
            "vIoU": "Volume IoU in percent, as Long-RVOS defines it: IoU summed over frames with both, divided by the "
            "number of frames with either.",
            "truth_area": "Pixels of the ground truth, summed over frames.",
            "predicted_area": "Pixels of the prediction, summed over frames.",
            "intersection": "Pixels of both, summed over frames.",
            "union": "Pixels of either, summed over frames.",
            "pixels": "Pixels of all frames.",
            "truth_frames": "Frames that show the object.",
            "empty_frames": "Frames whose predicted mask is empty.",
            "presence": "The prediction's presence, 0 to 1; where it has none, 1 for some mask and 0 for none.",
            "frames_read": "Sampled frames that the model read; null where it is not known.",
            "frame_J": "IoU of each frame, 0 to 1; null without a score.",
            "frame_shown": "Whether each frame shows the object; null without a score.",
            "frame_distance": "Frames between each frame and the keyframe; null where the keyframe is not known.",
        },
    ),
}

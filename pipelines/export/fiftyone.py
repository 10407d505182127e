"""A folder that FiftyOne imports as `fiftyone.types.FiftyOneVideoLabelsDataset`: frame-level instances with masks.

    import fiftyone as fo
    fo.Dataset.from_dir(dataset_dir=DIR, dataset_type=fo.types.FiftyOneVideoLabelsDataset)

The labels are ETA's VideoLabels JSON: frames count from 1, boxes are relative, and a mask is that of its box, as a zlib-
compressed .npy file in base64 (voxel51/eta, eta/core/objects.py and serial.py).
"""

from __future__ import annotations

import base64
import io
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from vrshq.operators.masks.rle import decode
from vrshq.pipelines.export.answers import Answer, Answers, ExportSummary, FrameMask, RunVideo
from vrshq.pipelines.export.names import is_video_file, path_of
from vrshq.pipelines.export.sinks import JsonFile


def write_fiftyone(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`manifest.json`, and `labels/<video>.json` for each video; the videos stay where they are.

    A detection's `label` is the instruction's text, its `index` the object's place in the video, `instruction_id` and
    `object_id` are attributes, and `confidence` the frame's object logit as a probability. Holds one video's masks.
    """
    head = {"type": "eta.core.datasets.LabeledVideoDataset", "description": "masks of a vrshq run"}
    with JsonFile(output / "manifest.json", head, {"index": "[]"}) as manifest:
        for video, found in answers:
            name = f"labels/{path_of(video.video_id)}.json"
            (output / name).parent.mkdir(parents=True, exist_ok=True)
            listed = [(answer, number, masks) for answer in found for number, masks in enumerate(answer.objects)]
            with JsonFile(output / name, {}, {"frames": "{}"}) as labels:
                for index, frame in enumerate(video.frames):
                    objects = [
                        _object(video, answer, (place, number), mask)
                        for place, (answer, number, masks) in enumerate(listed)
                        if (mask := masks[index]) and mask.area
                    ]
                    if objects:
                        labels.add(
                            "frames",
                            {"frame_number": frame + 1, "objects": {"objects": objects}},
                            key=str(frame + 1),
                        )
            manifest.add("index", {"data": video.uri, "labels": name})
            if not is_video_file(video.uri):
                summary.notes.append(
                    f"{video.video_id}: {video.uri} is not a video file, which FiftyOne needs to show it"
                )


def _object(video: RunVideo, answer: Answer, numbers: tuple[int, int], mask: FrameMask) -> dict[str, Any]:
    """A detection; `numbers`: the object's place in the video and its number within the answer."""
    left, top, width, height = mask.bbox
    inside = decode(mask.rle, video.height, video.width)[top : top + height, left : left + width].astype(bool)
    attributes = [
        {"type": "eta.core.data.CategoricalAttribute", "name": "instruction_id", "value": answer.instruction_id},
        {"type": "eta.core.data.NumericAttribute", "name": "object_id", "value": numbers[1]},
    ]
    found = {
        "type": "eta.core.objects.DetectedObject",
        "label": answer.text,
        "index": numbers[0],
        "bounding_box": {
            "top_left": {"x": left / video.width, "y": top / video.height},
            "bottom_right": {"x": (left + width) / video.width, "y": (top + height) / video.height},
        },
        "mask": _serialized(inside),
        "attrs": {"attrs": attributes},
    }
    return found if mask.probability is None else found | {"confidence": mask.probability}


def _serialized(mask: np.ndarray) -> str:
    sink = io.BytesIO()
    np.save(sink, np.ascontiguousarray(mask), allow_pickle=False)
    return base64.b64encode(zlib.compress(sink.getvalue())).decode("ascii")

"""CVAT for video 1.1: one XML per video, its masks in CVAT's own run-length code.

CVAT has no mask tracks: its importer makes one shape of each track that begins with a mask (cvat/apps/dataset_manager/
formats/cvat.py). So every mask is a track of its own, as CVAT itself writes them, and the masks of one object share a
group.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from xml.sax.saxutils import XMLGenerator
from xml.sax.xmlreader import AttributesImpl

import numpy as np

from vrshq.operators.masks.rle import decode
from vrshq.pipelines.export.answers import Answers, ExportSummary, FrameMask, RunVideo
from vrshq.pipelines.export.names import path_of
from vrshq.pipelines.export.sinks import to_json

LABEL = "object"
ATTRIBUTES = ("instruction_id", "object_id", "text")
# what XML 1.0 cannot hold
_NOT_XML = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def write_cvat(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`<video>.xml` for each video, and `labels.json`: the labels that a CVAT task needs, for its raw label editor.

    Frames are numbered from 0 as the run does, so import a file into a task of the same video or folder of frames.
    """
    for video, found in answers:
        path = output / f"{path_of(video.video_id)}.xml"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            xml = _Xml(file)
            xml.start("annotations")
            xml.text("version", "1.1")
            _write_meta(xml, video)
            track = 0
            objects = ((answer, number, masks) for answer in found for number, masks in enumerate(answer.objects))
            for group, (answer, number, masks) in enumerate(objects, start=1):
                for frame, mask in zip(video.frames, masks, strict=True):
                    if mask and mask.area:
                        xml.start("track", id=track, label=LABEL, source="auto", group_id=group)
                        xml.start(
                            "mask", frame=frame, keyframe=1, outside=0, occluded=0, **_shape(video, mask), z_order=0
                        )
                        xml.text("attribute", answer.instruction_id, name="instruction_id")
                        xml.text("attribute", number, name="object_id")
                        xml.text("attribute", answer.text, name="text")
                        xml.end("mask")
                        xml.end("track")
                        track += 1
            xml.end("annotations")
    attributes = [
        {"name": name, "input_type": "text", "mutable": False, "values": [""], "default_value": ""}
        for name in ATTRIBUTES
    ]
    (output / "labels.json").write_text(to_json([{"name": LABEL, "type": "mask", "attributes": attributes}]) + "\n")
    summary.notes.append("a CVAT task needs the labels of labels.json before its XML can be imported")


def row_runs(mask: np.ndarray) -> list[int]:
    """CVAT's run-length code of a mask (H, W): lengths of runs along the rows, the first one of zeros."""
    flat = mask.ravel() > 0
    changes = np.flatnonzero(np.diff(flat, prepend=False))
    runs: list[int] = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return runs


def _shape(video: RunVideo, mask: FrameMask) -> dict[str, object]:
    left, top, width, height = mask.bbox
    inside = decode(mask.rle, video.height, video.width)[top : top + height, left : left + width]
    return {
        "rle": ", ".join(map(str, row_runs(inside))),
        "left": left,
        "top": top,
        "width": width,
        "height": height,
    }


def _write_meta(xml: _Xml, video: RunVideo) -> None:
    xml.start("meta")
    xml.start("task")
    values: Mapping[str, object] = {
        "name": video.video_id,
        "size": video.total_frames,
        "mode": "interpolation",
        "start_frame": 0,
        "stop_frame": video.total_frames - 1,
        "frame_filter": "",
    }
    for name, value in values.items():
        xml.text(name, value)
    xml.start("labels")
    xml.start("label")
    xml.text("name", LABEL)
    xml.text("type", "mask")
    xml.start("attributes")
    for attribute in ATTRIBUTES:
        xml.start("attribute")
        described = {"name": attribute, "mutable": "False", "input_type": "text", "default_value": "", "values": ""}
        for name, value in described.items():
            xml.text(name, value)
        xml.end("attribute")
    xml.end("attributes")
    xml.end("label")
    xml.end("labels")
    xml.start("original_size")
    xml.text("width", video.width)
    xml.text("height", video.height)
    xml.end("original_size")
    xml.end("task")
    xml.end("meta")


class _Xml:
    """Elements one after the other, everything escaped; what XML cannot hold becomes U+FFFD."""

    def __init__(self, file: io.TextIOBase | io.TextIOWrapper) -> None:
        self.generator = XMLGenerator(file, "utf-8", short_empty_elements=True)
        self.generator.startDocument()

    def start(self, tag: str, **attributes: object) -> None:
        self.generator.startElement(tag, AttributesImpl({name: _clean(value) for name, value in attributes.items()}))

    def end(self, tag: str) -> None:
        self.generator.endElement(tag)
        self.generator.ignorableWhitespace("\n")

    def text(self, tag: str, value: object, **attributes: object) -> None:
        self.start(tag, **attributes)
        self.generator.characters(_clean(value))
        self.end(tag)


def _clean(value: object) -> str:
    return _NOT_XML.sub("\ufffd", str(value))

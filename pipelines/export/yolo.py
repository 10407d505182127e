"""Ultralytics' segmentation data set: pictures, a text file of polygons for each, and the list of classes."""

from __future__ import annotations

import tempfile
from pathlib import Path

import cv2
import numpy as np
import yaml

from vrshq.operators.masks.polygon import one_polygon
from vrshq.operators.masks.rle import decode
from vrshq.operators.video.video import open_video
from vrshq.pipelines.export.answers import Answer, Answers, ExportSummary, RunVideo
from vrshq.pipelines.export.names import part_of
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.work.videos import local_video

_QUALITY = 95  # of the JPEG files
# The loader takes the last of these in a picture's path for the folder that stands beside `labels`.
_TAKEN = {"images": "%69mages"}


def write_yolo(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`data.yaml`, `images.txt`, `images/<video>/<frame>.jpg` and `labels/<video>/<frame>.txt`.

    A line of a label file is an object: the number of its class, then x and y of each corner of its outline as shares of width
    and height. The class is the instruction's text; a training with one class for all needs `single_cls=True`. An object with
    several parts or with holes is one polygon whose parts are joined by thin lines, as Ultralytics' own converters write them.
    A frame without an object has an empty file. Instructions that failed have no class.

    `data.yaml` names `images.txt` for training and for validation; split it before you train. Pictures are the frames as the
    run read them, in JPEG. Where a video cannot be read now its labels are written alone, with a note. Memory does not depend
    on the length of the videos; one decode for each.
    """
    classes: dict[str, int] = {}
    with (output / "images.txt").open("w", encoding="utf-8") as listed:
        for video, found in answers:
            folder = _folder(video, summary)
            labels = output / "labels" / folder
            labels.mkdir(parents=True, exist_ok=True)
            for name in video.names:
                (labels / f"{name}.txt").write_bytes(b"")
                listed.write(f"./images/{folder}/{name}.jpg\n")
            for answer in found:
                _write_labels(labels, video, answer, classes)
            _write_pictures(output / "images" / folder, video, summary)
    about = {"train": "images.txt", "val": "images.txt"}
    names = {number: text for text, number in classes.items()} or {0: "object"}
    written = yaml.safe_dump(about | {"names": names}, allow_unicode=True, sort_keys=False, width=1_000)
    (output / "data.yaml").write_text(written, encoding="utf-8")


def _folder(video: RunVideo, summary: ExportSummary) -> str:
    parts = [part_of(part) for part in video.video_id.split("/")]
    folder = "/".join(_TAKEN.get(part, part) for part in parts)
    if folder != video.video_id:
        summary.renamed[f"video {video.video_id}"] = folder
    return folder


def _write_labels(labels: Path, video: RunVideo, answer: Answer, classes: dict[str, int]) -> None:
    for name, masks in zip(video.names, zip(*answer.objects, strict=True), strict=True):
        lines = []
        for mask in masks:
            if mask and mask.area:
                number = classes.setdefault(answer.text, len(classes))
                lines.append(line_of(number, decode(mask.rle, video.height, video.width)))
        if lines:
            with (labels / f"{name}.txt").open("a", encoding="utf-8") as file:
                file.writelines(lines)


def line_of(number: int, mask: np.ndarray) -> str:
    """The line of one object: its class and the corners of its outline, through the middles of its border pixels.

    Where the outline has fewer than the three corners that the format asks for, each becomes a square within its pixel.
    """
    corners = one_polygon(mask) + 0.5
    if len(corners) < 3:
        square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) / 4
        corners = (corners[:, None] + square).reshape(-1, 2)
    shares = corners / (mask.shape[1], mask.shape[0])
    return f"{number} {' '.join(f'{share:.6f}' for share in shares.reshape(-1))}\n"


def _write_pictures(folder: Path, video: RunVideo, summary: ExportSummary) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with (
            tempfile.TemporaryDirectory(prefix="vrshq-export-") as scratch,
            local_video(video.uri, scratch, Limits()) as path,
            open_video(path, summary.decoding) as frames,
        ):
            for index, name in zip(video.frames, video.names, strict=True):
                (picture,) = frames.frames([index])
                coded = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
                (folder / f"{name}.jpg").write_bytes(coded.tobytes())
    except Exception as error:  # noqa: BLE001 - one video must not prevent the others
        summary.notes.append(
            f"{video.video_id}: labels without pictures, because the video cannot be read now: {error}"
        )

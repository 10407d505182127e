"""Trees of PNG masks: `<video>/<instruction>/<frame>.png` with 0 and 255 or object ids, in a folder or in a zip."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from vrshq.pipelines.export.answers import Answers, ExportSummary, FrameMask, RunVideo, empty_mask
from vrshq.pipelines.export.names import part_of, path_of
from vrshq.pipelines.export.pictures import MOST_OBJECTS, binary_png, painted, palette_png
from vrshq.pipelines.export.sinks import FolderSink, Sink, ZipSink


def write_png_tree(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`<video>/<instruction>/<frame>.png`."""
    _write(answers, FolderSink(output), "", summary)


def write_mevis(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """MeViS's submission: `mevis.zip` with the videos' folders on top."""
    with ZipSink(output / "mevis.zip") as sink:
        _write(answers, sink, "", summary)


def write_ref_youtube_vos(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """Ref-YouTube-VOS's submission: `ref-youtube-vos.zip` with the folder Annotations on top."""
    with ZipSink(output / "ref-youtube-vos.zip") as sink:
        _write(answers, sink, "Annotations/", summary)


def write_palette_tree(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`<video>/<instruction>/<frame>.png` as palette images: value i + 1 where object i is, 0 where none is.

    A pixel that several objects claim goes to the one with the highest object logit on that frame.
    """
    sink = FolderSink(output)
    for video, found in answers:
        folder = path_of(video.video_id)
        if folder != video.video_id:
            summary.renamed[f"video {video.video_id}"] = folder
        for answer in found:
            part = part_of(answer.instruction_id)
            if part != answer.instruction_id:
                summary.renamed[f"{video.video_id}, instruction {answer.instruction_id}"] = part
            if len(answer.objects) > MOST_OBJECTS:
                summary.notes.append(
                    f"{video.video_id}, instruction {answer.instruction_id}: objects from number {MOST_OBJECTS} on are left out"
                )
            for name, masks in zip(video.names, zip(*answer.objects[:MOST_OBJECTS], strict=True), strict=True):
                if any(mask is not None for mask in masks):
                    data = palette_png(painted(video, dict(enumerate(masks))))
                    sink.write(f"{folder}/{part}/{name}.png", data)


def _write(answers: Answers, sink: Sink, top: str, summary: ExportSummary) -> None:
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for video, found in answers:
            folder = path_of(video.video_id)
            if folder != video.video_id:
                summary.renamed[f"video {video.video_id}"] = folder
            picture = _Pictures(video)
            for answer in found:
                part = part_of(answer.instruction_id)
                if part != answer.instruction_id:
                    summary.renamed[f"{video.video_id}, instruction {answer.instruction_id}"] = part
                masks = answer.merged(video, summary)
                asked = [(name, mask) for name, mask in zip(video.names, masks, strict=True) if mask]
                for (name, _), data in zip(asked, pool.map(picture, [mask for _, mask in asked]), strict=True):
                    sink.write(f"{top}{folder}/{part}/{name}.png", data)


class _Pictures:
    """The PNG of a mask of one video; the empty one is made once."""

    def __init__(self, video: RunVideo) -> None:
        self.size = (video.height, video.width)
        self.empty = binary_png(empty_mask(*self.size), *self.size)

    def __call__(self, mask: FrameMask) -> bytes:
        return binary_png(mask, *self.size) if mask.area else self.empty

"""Overlay videos: each instruction's masks drawn over its video, as H.264 that browsers play."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.stream import VideoStream
from PIL import Image, ImageDraw

from vrshq.operators.masks.rle import decode
from vrshq.operators.video.times import FrameTimes, frame_times
from vrshq.operators.video.video import Video, open_video
from vrshq.pipelines.drawing.masks import KEYFRAME_COLOR, color_of, overlaid
from vrshq.pipelines.drawing.text import font_for, wrapped
from vrshq.pipelines.export.answers import Answer, Answers, ExportSummary, RunVideo
from vrshq.pipelines.export.names import part_of, path_of
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.videos import local_video


def write_overlays(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`<video>/<instruction>.mp4`: the labelled frames with each object's mask in its colour, and the text below.

    The model's answer, if it gives one, stands below the text. The keyframe is framed. Frames keep their times. H.264 in 4:2:0
    needs even sides, so an odd side gets one more row or column. A video that cannot be read is left out with a note. Memory
    does not depend on its length; each instruction costs one decode of the video.
    """
    for video, found in answers:
        folder = output / path_of(video.video_id)
        try:
            with (
                tempfile.TemporaryDirectory(prefix="vrshq-overlay-") as scratch,
                local_video(video.uri, scratch, Limits()) as path,
                open_video(path, summary.decoding) as frames,
            ):
                times = frame_times(path, frames.num_frames)
                for answer in found:
                    folder.mkdir(parents=True, exist_ok=True)
                    _write(folder / f"{part_of(answer.instruction_id)}.mp4", video, answer, frames, times)
        except Exception as error:  # noqa: BLE001 - one video must not prevent the others
            summary.notes.append(f"{video.video_id}: no overlay, because the video cannot be read now: {error}")
            for _ in found:  # they are counted, and the next video comes after them
                pass


def _write(target: Path, video: RunVideo, answer: Answer, frames: Video, times: FrameTimes) -> None:
    """One mp4, which appears whole or not at all."""
    partial = target.with_suffix(".partial")
    try:
        _encode(partial, video, answer, frames, times)
        partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _encode(target: Path, video: RunVideo, answer: Answer, frames: Video, times: FrameTimes) -> None:
    banner = _banner(answer, video.width)
    height, width = video.height + video.height % 2, video.width + video.width % 2
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", options={"crf": "18", "preset": "veryfast"})
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.time_base = stream.codec_context.time_base = times.unit
        aspect = Fraction(video.pixel_aspect).limit_denominator(1000)
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = aspect
        for index, picture in _pictures(video, answer, frames, banner):
            padded = np.pad(picture, ((0, height - video.height), (0, width - video.width), (0, 0)), mode="edge")
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(padded), format="rgb24")
            frame.pts, frame.time_base = times.ticks[index], times.unit
            frame.duration = times.duration(index)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def _pictures(video: RunVideo, answer: Answer, frames: Video, banner: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    for place, index in enumerate(video.frames):
        masks = [masks[place] for masks in answer.objects]
        if all(mask is None for mask in masks):
            continue
        (picture,) = frames.frames([index])
        for number, mask in enumerate(masks):
            if mask and mask.area:
                picture = overlaid(picture, decode(mask.rle, video.height, video.width), color_of(number))
        rows = len(banner)
        shown = np.concatenate([picture[:-rows], _mixed(picture[-rows:], banner)])
        if index == answer.keyframe:
            cv2.rectangle(
                shown, (0, 0), (video.width - 1, video.height - 1), KEYFRAME_COLOR, max(2, video.height // 90)
            )
        yield index, shown


def _banner(answer: Answer, width: int) -> np.ndarray:
    """The text, status and answer as white letters on transparent black: (h, width, 4) uint8."""
    size = max(10, width // 45)
    room = max(width - 2 * size, size)
    lines = wrapped(f"{answer.text or '(no text)'}  [{answer.status}]", size, room, 2)
    lines += wrapped(answer.said, size, room, 2) if answer.said else []
    picture = Image.new("RGBA", (width, round(size * (1.4 * len(lines) + 0.6))), (0, 0, 0, 150))
    draw = ImageDraw.Draw(picture)
    for place, line in enumerate(lines):
        draw.text((size, round(size * (1.4 * place + 1))), line, (255, 255, 255, 255), font_for(line, size), "lm")
    return np.asarray(picture)


def _mixed(picture: np.ndarray, banner: np.ndarray) -> np.ndarray:
    """The banner, or its lower part where the picture is lower, over the picture."""
    part = banner[-len(picture) :]
    opacity = part[..., 3:] / np.float32(255)
    mixed: np.ndarray = (picture * (1 - opacity) + part[..., :3] * opacity).round().astype(np.uint8)
    return mixed

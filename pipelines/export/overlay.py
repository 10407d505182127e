"""Overlay videos: each instruction's masks drawn over its video, as H.264 that browsers play."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import nullcontext
from pathlib import Path

import av
import cv2
import numpy as np
from PIL import Image, ImageDraw

from vrshq.operators.masks.rle import decode
from vrshq.operators.video.video import Video
from vrshq.pipelines.drawing.masks import KEYFRAME_COLOR, color_of, overlaid
from vrshq.pipelines.drawing.text import font_for, wrapped
from vrshq.pipelines.export.answers import Answer, Answers, ExportSummary, RunVideo
from vrshq.pipelines.export.films import Film, Pictures, Source, each_answer, write_film
from vrshq.pipelines.export.sound import sound_of

FILM = Film("mp4", "libx264", "yuv420p", options={"crf": "18", "preset": "veryfast"}, header={"movflags": "+faststart"})


def write_overlays(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`<video>/<instruction>.mp4`: the labelled frames with each object's mask in its colour, and the text below.

    The model's answer, if it gives one, stands below the text. The keyframe is framed. Frames keep their times, and the video's
    sound is cut to them. H.264 in 4:2:0 needs even sides, so an odd side gets one more row or column. A video that cannot be
    read is left out with a note. Memory does not depend on its length; each instruction costs one decode of the video.
    """

    def write(place: Path, video: RunVideo, answer: Answer, source: Source) -> None:
        write_overlay(place, video, answer, source)

    each_answer(answers, output, summary, "overlay", write)


def write_overlay(place: Path, video: RunVideo, answer: Answer, source: Source) -> Path | None:
    """The overlay of one answer: the file, `place` with the suffix .mp4; None where no frame was asked on."""
    asked = [index for index, *masks in zip(video.frames, *answer.objects, strict=True) if any(masks)]
    if not asked:
        return None
    times, target = source.times, place.with_name(f"{place.name}.mp4")
    first, end = times.ticks[asked[0]], times.ticks[asked[-1]] + times.duration(asked[-1])
    with sound_of(source.path, times.zero, first * times.unit, end * times.unit) or nullcontext() as sound:
        pictures = _frames(video, answer, source.frames)
        write_film(target, FILM, pictures, times, video.pixel_aspect, sound)
    return target


def _frames(video: RunVideo, answer: Answer, frames: Video) -> Pictures:
    banner = _banner(answer, video.width)
    padding = ((0, video.height % 2), (0, video.width % 2), (0, 0))
    for index, picture in _pictures(video, answer, frames, banner):
        padded = np.ascontiguousarray(np.pad(picture, padding, mode="edge"))
        yield index, av.VideoFrame.from_ndarray(padded, format="rgb24")


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

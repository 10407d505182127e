"""Mask videos: each instruction's masks as a lossless film, at the times of the video's own frames."""

from __future__ import annotations

import tempfile
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from vrshq.operators.video.times import DEFAULT_RATE, FrameTimes, frame_times
from vrshq.pipelines.export.answers import Answer, Answers, ExportSummary, RunVideo
from vrshq.pipelines.export.films import Film, Pictures, place_of, write_film
from vrshq.pipelines.export.pictures import MOST_OBJECTS, painted
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.work.videos import local_video

# Lossless H.264 (qp 0) is the lossless codec in mp4 that most players, editors and builds of FFmpeg read. Its luma holds the
# values, over the full range and of the mask's own size, odd sides included. Both chroma planes are grey, so that RGB readers
# see the value in each channel.
FILM = Film("mp4", "libx264", "yuv444p", True, {"qp": "0", "preset": "veryfast"}, {"movflags": "+faststart"})
_GREY = 128


def write_mask_films(answers: Answers, output: Path, summary: ExportSummary) -> None:
    """`<video>/<instruction>.mp4`: value 255 - i where object i is, 0 where none is, in every channel and without loss.

    So the first object is white, a film of one object has 0 and 255, and several objects stay apart. A pixel that several
    objects claim goes to the one with the highest object logit on that frame. Frames keep their times; those of a folder,
    and of a video that cannot be read now, are 25 a second. Memory does not depend on the length of the video, which is not
    decoded.
    """
    for video, found in answers:
        times = _times(video, summary)
        for answer in found:
            place = place_of(output, video, answer, summary)
            if len(answer.objects) > MOST_OBJECTS:
                summary.notes.append(
                    f"{video.video_id}, instruction {answer.instruction_id}: objects from number {MOST_OBJECTS} on are left out"
                )
            pictures = _pictures(video, answer)
            write_film(place.with_name(f"{place.name}.mp4"), FILM, pictures, times, video.pixel_aspect)


def _pictures(video: RunVideo, answer: Answer) -> Pictures:
    for place, index in enumerate(video.frames):
        masks = [masks[place] for masks in answer.objects[:MOST_OBJECTS]]
        if any(masks):
            ids = painted(video, dict(enumerate(masks)))
            planes = np.full((3, *ids.shape), _GREY, np.uint8)
            planes[0] = np.where(ids, np.uint8(255) - (ids - np.uint8(1)), 0)
            frame = av.VideoFrame.from_ndarray(planes, format="yuv444p")
            frame.color_range = 2  # AVCOL_RANGE_JPEG, as the film's
            yield index, frame


def _times(video: RunVideo, summary: ExportSummary) -> FrameTimes:
    try:
        with (
            tempfile.TemporaryDirectory(prefix="vrshq-export-") as scratch,
            local_video(video.uri, scratch, Limits()) as path,
        ):
            if not Path(path).exists():
                raise FileNotFoundError(f"{path}: no such file or folder")
            return frame_times(path, video.total_frames)
    except Exception as error:  # noqa: BLE001 - the masks are there without the video
        summary.notes.append(
            f"{video.video_id}: shown at {DEFAULT_RATE} frames a second, because the video cannot be read now: {error}"
        )
        return FrameTimes(list(range(video.total_frames)), 1 / Fraction(DEFAULT_RATE))

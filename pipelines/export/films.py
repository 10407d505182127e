"""Video files out of a run: each answer's pictures at the times of the video's own frames, in memory that no length changes."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
from av.video.stream import VideoStream

from vrshq.operators.video.times import FrameTimes, frame_times
from vrshq.operators.video.video import Video, open_video
from vrshq.pipelines.export.answers import Answer, Answers, ExportSummary, RunVideo
from vrshq.pipelines.export.names import part_of, path_of
from vrshq.pipelines.export.sound import Sound
from vrshq.pipelines.label.settings import Limits
from vrshq.pipelines.label.work.videos import local_video


@dataclass(frozen=True)
class Source:
    """The video of an answer, open: its frames, the times of all of them, and the local file or folder."""

    frames: Video
    times: FrameTimes
    path: str


@dataclass(frozen=True)
class Film:
    """How pictures become a video file.

    Attributes:
        container: name of the format in FFmpeg.
        codec: name of the encoder.
        pixels: the encoder's pixel format.
        full_range: whether values 0 to 255 are kept as they are.
        options: of the encoder.
        header: options of the container.
    """

    container: str
    codec: str
    pixels: str
    full_range: bool = False
    options: dict[str, str] = field(default_factory=dict)
    header: dict[str, str] = field(default_factory=dict)


Pictures = Iterator[tuple[int, av.VideoFrame]]  # a frame's number in the video, and its picture


def each_answer(
    answers: Answers,
    output: Path,
    summary: ExportSummary,
    what: str,
    write: Callable[[Path, RunVideo, Answer, Source], None],
    limits: Limits = Limits(),  # noqa: B008 - frozen
) -> None:
    """Calls `write` for each answer with the path of its files without a suffix, `<video>/<instruction>`.

    A video that cannot be read is left out with a note that there is no `what`.
    """
    for video, found in answers:
        try:
            with (
                tempfile.TemporaryDirectory(prefix="vrshq-export-") as scratch,
                local_video(video.uri, scratch, limits) as path,
                open_video(path, summary.decoding) as frames,
            ):
                source = Source(frames, frame_times(path, frames.num_frames), path)
                for answer in found:
                    write(place_of(output, video, answer, summary), video, answer, source)
        except Exception as error:  # noqa: BLE001 - one video must not prevent the others
            summary.notes.append(f"{video.video_id}: no {what}, because the video cannot be read now: {error}")
            for _ in found:  # they are counted, and the next video comes after them
                pass


def place_of(output: Path, video: RunVideo, answer: Answer, summary: ExportSummary) -> Path:
    """`<video>/<instruction>` below `output`, safe for any ids; the folder around it is made."""
    folder, part = path_of(video.video_id), part_of(answer.instruction_id)
    if folder != video.video_id:
        summary.renamed[f"video {video.video_id}"] = folder
    if part != answer.instruction_id:
        summary.renamed[f"{video.video_id}, instruction {answer.instruction_id}"] = part
    place = output / folder / part
    place.parent.mkdir(parents=True, exist_ok=True)
    return place


def write_film(
    target: Path, film: Film, pictures: Pictures, times: FrameTimes, pixel_aspect: float, sound: Sound | None = None
) -> None:
    """One video file, which appears whole or not at all.

    Args:
        target: the file.
        film: how it is encoded.
        pictures: of one size, with ascending numbers; a file without any is not written.
        times: of all frames of the video.
        pixel_aspect: width of a pixel over its height.
        sound: what is heard beside them.
    """
    partial = target.with_name(f"{target.name}.partial")
    try:
        if _encode(partial, film, pictures, times, pixel_aspect, sound):
            partial.replace(target)
    finally:
        partial.unlink(missing_ok=True)


def _encode(
    target: Path, film: Film, pictures: Pictures, times: FrameTimes, pixel_aspect: float, sound: Sound | None
) -> bool:
    first = next(pictures, None)
    if first is None:
        return False
    with av.open(str(target), "w", format=film.container, options=film.header) as container:
        stream = container.add_stream(film.codec, options=film.options)
        assert isinstance(stream, VideoStream)
        stream.width, stream.height, stream.pix_fmt = first[1].width, first[1].height, film.pixels
        stream.time_base = stream.codec_context.time_base = times.unit
        aspect = Fraction(pixel_aspect).limit_denominator(1000)
        stream.sample_aspect_ratio = stream.codec_context.sample_aspect_ratio = aspect
        if film.full_range:
            stream.codec_context.color_range = 2  # AVCOL_RANGE_JPEG
        if sound:
            sound.begin(container)
        index, frame = first
        while True:
            frame.pts, frame.time_base = times.ticks[index], times.unit
            frame.duration = times.duration(index)
            container.mux(stream.encode(frame))
            if sound:  # beside the pictures, so that no packet waits in memory
                sound.until((frame.pts + frame.duration) * times.unit)
            following = next(pictures, None)
            if following is None:
                break
            index, frame = following
        container.mux(stream.encode(None))
        if sound:
            sound.end()
    return True

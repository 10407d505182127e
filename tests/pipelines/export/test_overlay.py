"""Promises of overlay videos: every labelled frame at its time and in its place, the mask in colour, the keyframe framed."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest

from tests.support import clips
from tests.support.one_answer import write_run
from vrshq.pipelines.drawing.masks import KEYFRAME_COLOR, MASK_COLOR
from vrshq.pipelines.export.run import export

TIMES = [0, 40, 80, 300, 340, 900, 950, 1000]  # milliseconds
HEIGHT, WIDTH = 192, 320


def decoded(path: Path) -> tuple[list[np.ndarray], list[Fraction], Any]:
    """The frames of a video, their times in seconds, and its stream's facts."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        pictures = [frame.to_ndarray(format="rgb24") for frame in frames]
        times = [frame.pts * Fraction(frame.time_base) for frame in frames if frame.pts is not None and frame.time_base]
        return pictures, times, (stream.codec_context.name, stream.pix_fmt, stream.sample_aspect_ratio)


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return clips.h264(tmp_path / "v.mp4", pts=TIMES, frames=len(TIMES), height=HEIGHT, width=WIDTH)


def test_each_frame_is_there_at_its_time_and_shows_what_it_showed(clip: Path, tmp_path: Path) -> None:
    masks = np.zeros((len(TIMES), HEIGHT, WIDTH), bool)
    run = write_run(str(tmp_path / "run"), clip, list(range(len(TIMES))), masks, status="empty")
    summary = export(run.uri, "overlay", str(tmp_path / "out"))
    assert summary.format == "overlay-mp4"
    pictures, times, about = decoded(tmp_path / "out" / "v" / "0.mp4")
    assert about[:2] == ("h264", "yuv420p")
    assert [clips.read_code(picture) for picture in pictures] == list(range(len(TIMES)))
    assert [round(time * 1000) for time in times] == TIMES


def test_the_mask_is_coloured_and_the_keyframe_framed(clip: Path, tmp_path: Path) -> None:
    masks = np.zeros((len(TIMES), HEIGHT, WIDTH), bool)
    masks[:, 40:100, 60:160] = True
    run = write_run(str(tmp_path / "run"), clip, list(range(len(TIMES))), masks)
    export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    source, _, _ = decoded(clip)
    shown, _, _ = decoded(tmp_path / "out" / "v" / "0.mp4")
    for number, (before, after) in enumerate(zip(source, shown, strict=True)):
        inside, outside = (slice(60, 80), slice(80, 140)), (slice(110, 150), slice(200, 300))
        expected = before[inside].mean((0, 1)) * 0.58 + np.array(MASK_COLOR) * 0.42
        assert np.abs(after[inside].mean((0, 1)) - expected).max() < 12
        assert np.abs(after[outside].astype(int) - before[outside]).mean() < 6
        border = np.abs(after[0, 20:300].mean(0) - KEYFRAME_COLOR).max() < 40
        assert border == (number == 1)


def test_odd_sides_spans_and_pixels_that_are_not_square(tmp_path: Path) -> None:
    folder = clips.image_folder(tmp_path / "frames", [f"{number:03d}.png" for number in range(6)])
    masks = np.zeros((3, 96, 160), bool)
    run = write_run(
        str(tmp_path / "run"), folder, [0, 2, 4], masks, num_frames=6, start=0, end=6, every=2, pixel_aspect=2.0
    )
    export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    pictures, times, about = decoded(tmp_path / "out" / "v" / "0.mp4")
    assert [picture.shape for picture in pictures] == [(96, 160, 3)] * 3
    assert times == [Fraction(number, 25) for number in (0, 2, 4)]
    assert about[2] == 2


def test_an_odd_size_gets_one_more_row_and_column(tmp_path: Path) -> None:
    from PIL import Image

    (tmp_path / "frames").mkdir()
    for number in range(2):
        Image.fromarray(np.full((47, 65, 3), 90 + number, np.uint8)).save(tmp_path / "frames" / f"{number}.png")
    run = write_run(str(tmp_path / "run"), tmp_path / "frames", [0, 1], np.zeros((2, 47, 65), bool))
    export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    pictures, _, _ = decoded(tmp_path / "out" / "v" / "0.mp4")
    assert [picture.shape for picture in pictures] == [(48, 66, 3)] * 2


def test_a_video_that_is_gone_is_a_note_and_the_rest_is_written(tmp_path: Path) -> None:
    masks = np.zeros((2, 16, 16), bool)
    run = write_run(str(tmp_path / "run"), tmp_path / "none.mp4", [0, 1], masks)
    summary = export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    assert any(note.startswith("v: no overlay, because the video cannot be read now: ") for note in summary.notes)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["export.json"]
    assert "decoding" not in (tmp_path / "out" / "export.json").read_text()


RATE = 32_000


def with_beep(path: Path, frames: int, begins: float, codec: str = "aac") -> Path:
    """A clip at 25 frames per second with a tone of 1 kHz that begins at a moment, in seconds; silence before."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = 96, 160, "yuv420p"
        sound: Any = output.add_stream(codec, rate=RATE, layout="stereo")
        for number in range(frames):
            output.mux(stream.encode(av.VideoFrame.from_ndarray(clips.code_frame(number), format="rgb24")))
        output.mux(stream.encode(None))
        moments = np.arange(frames * RATE // 25) / RATE
        wave = (0.5 * np.sin(2000 * np.pi * moments) * (moments >= begins) * 32767).astype(np.int16)
        for first in range(0, len(wave), 1024):
            block = np.repeat(wave[None, first : first + 1024], 2, 1)  # both channels, one after the other
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="stereo")
            frame.sample_rate, frame.pts, frame.time_base = RATE, first, Fraction(1, RATE)
            output.mux(sound.encode(frame))
        output.mux(sound.encode(None))
    return path


def heard(path: Path) -> tuple[np.ndarray, float, int]:
    """The sound of a file as (n,) float32 of its first channel, the time of its first sample in seconds, and its rate."""
    with av.open(str(path)) as container:
        stream = container.streams.audio[0]
        frames = list(container.decode(stream))
        assert frames[0].pts is not None
        assert frames[0].time_base is not None
        samples = np.concatenate([frame.to_ndarray()[0] for frame in frames])
        return samples.astype(np.float32), float(frames[0].pts * frames[0].time_base), stream.rate


@pytest.mark.parametrize("codec", ["aac", "libmp3lame", "flac"])
def test_sound_is_kept_and_stays_beside_its_picture(codec: str, tmp_path: Path) -> None:
    clip = with_beep(tmp_path / ("v.mkv" if codec == "flac" else "v.mp4"), 50, 1.0, codec)
    run = write_run(str(tmp_path / "run"), clip, list(range(50)), np.zeros((50, 96, 160), bool))
    export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    _, times, _ = decoded(tmp_path / "out" / "v" / "0.mp4")
    assert times == [Fraction(number, 25) for number in range(50)]
    samples, first, rate = heard(tmp_path / "out" / "v" / "0.mp4")
    assert rate == RATE
    assert abs(first) < 0.05
    assert first + len(samples) / rate == pytest.approx(2, abs=0.05)
    assert first + float(np.argmax(np.abs(samples) > 0.25)) / rate == pytest.approx(1.0, abs=0.03)
    spectrum = np.abs(np.fft.rfft(samples[-rate // 2 :]))
    assert float(np.argmax(spectrum)) * 2 == pytest.approx(1000, abs=10)


def test_sound_is_cut_to_the_labelled_span(tmp_path: Path) -> None:
    clip = with_beep(tmp_path / "v.mp4", 75, 1.0)
    span = list(range(20, 45))
    run = write_run(
        str(tmp_path / "run"), clip, span, np.zeros((25, 96, 160), bool), num_frames=75, start=20, end=45, every=1
    )
    export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    pictures, times, _ = decoded(tmp_path / "out" / "v" / "0.mp4")
    assert [clips.read_code(picture) for picture in pictures] == span
    samples, first, rate = heard(tmp_path / "out" / "v" / "0.mp4")
    assert first == pytest.approx(float(times[0]), abs=0.05)
    assert len(samples) / rate == pytest.approx(1.0, abs=0.07)
    onset = first + float(np.argmax(np.abs(samples) > 0.25)) / rate
    assert onset - float(times[0]) == pytest.approx(1.0 - 20 / 25, abs=0.03)


def test_sound_that_ends_before_the_span_or_pauses_is_silence(tmp_path: Path) -> None:
    clip = with_beep(tmp_path / "v.mkv", 50, 0.2)
    with av.open(str(clip)) as source, av.open(str(tmp_path / "gap.mkv"), "w") as target:
        streams = [target.add_stream_from_template(stream) for stream in source.streams]
        for packet in source.demux():
            moment = float((packet.pts or 0) * packet.time_base) if packet.dts is not None else -1.0
            sound = packet.stream.type == "audio"
            if packet.dts is not None and not (sound and (0.4 < moment < 0.8 or moment > 1.2)):
                packet.stream = streams[packet.stream.index]
                target.mux(packet)
    for first, last, loud in ((0, 50, [0.3, 1.0]), (35, 50, [])):
        span = list(range(first, last))
        masks = np.zeros((len(span), 96, 160), bool)
        track: dict[str, Any] = {"num_frames": 50, "start": first, "end": last, "every": 1}
        run = write_run(str(tmp_path / f"run-{first}"), tmp_path / "gap.mkv", span, masks, **track)
        export(run.uri, "overlay-mp4", str(tmp_path / f"out-{first}"))
        film = tmp_path / f"out-{first}" / "v" / "0.mp4"
        pictures, _, _ = decoded(film)
        assert [clips.read_code(picture) for picture in pictures] == span
        if loud:
            samples, begin, rate = heard(film)
            levels = [np.abs(samples[round((at - begin) * rate) :][:800]).max() for at in (0.1, 0.3, 0.6, 1.0)]
            assert [level > 0.25 for level in levels] == [False, True, False, True]


def test_a_video_without_sound_has_none(clip: Path, tmp_path: Path) -> None:
    run = write_run(str(tmp_path / "run"), clip, list(range(8)), np.zeros((8, HEIGHT, WIDTH), bool))
    export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    with av.open(str(tmp_path / "out" / "v" / "0.mp4")) as container:
        assert [stream.type for stream in container.streams] == ["video"]


@pytest.mark.parametrize("rotation", [90, 180])
def test_a_rotated_video_is_upright_at_its_size(rotation: int, tmp_path: Path) -> None:
    clip = clips.h264(tmp_path / "v.mp4", frames=5, height=HEIGHT, width=WIDTH, rotation=rotation)
    size = (WIDTH, HEIGHT) if rotation == 90 else (HEIGHT, WIDTH)
    masks = np.zeros((5, *size), bool)
    run = write_run(str(tmp_path / "run"), clip, list(range(5)), masks, status="empty")
    export(run.uri, "overlay-mp4", str(tmp_path / "out"))
    pictures, times, _ = decoded(tmp_path / "out" / "v" / "0.mp4")
    assert {picture.shape for picture in pictures} == {(*size, 3)}
    assert [clips.read_code(picture) for picture in pictures] == list(range(5))
    assert times == [Fraction(number, 25) for number in range(5)]

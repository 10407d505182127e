"""Generates small clips whose frames show their own number.

Each frame shows its number as a 4 x 3 grid of dark and bright blocks (12 bits), which survives compression. A test reads the
number from the pixels. `GOOD` lists the kinds of clip that must decode; `python -m tests.support.clips` prints the reader of
each kind and the number of its wrong frames.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

COLUMNS, ROWS = 4, 3


def code_frame(number: int, height: int = 96, width: int = 160) -> np.ndarray:
    """A frame that shows `number` (0 to 4095): (height, width, 3) uint8."""
    bits = np.array([number >> bit & 1 for bit in range(COLUMNS * ROWS)]).reshape(ROWS, COLUMNS)
    rows, columns = np.arange(height) * ROWS // height, np.arange(width) * COLUMNS // width
    gray = 40 + 175 * bits[rows][:, columns]
    return np.stack([gray, gray, np.full_like(gray, 90)], axis=-1).astype(np.uint8)


def read_code(frame: np.ndarray) -> int:
    """The number that a decoded frame (height, width, 3) uint8 shows."""
    height, width = frame.shape[:2]
    number = 0
    for bit in range(COLUMNS * ROWS):
        top, left = bit // COLUMNS * height // ROWS, bit % COLUMNS * width // COLUMNS
        # the middle of the block, because chroma subsampling and the codec blur its border
        block = frame[top + height // 12 : top + height // 4, left + width // 16 : left + 3 * width // 16, 0]
        number |= int(block.mean() > 127) << bit
    return number


def encode(
    path: Path,
    codec: str = "libx264",
    *,
    frames: int = 60,
    height: int = 96,
    width: int = 160,
    gop: int = 12,
    pix_fmt: str = "yuv420p",
    pts: Sequence[int] | None = None,
    rotation: int = 0,
    pixel_aspect: Fraction | None = None,
    container: dict[str, str] | None = None,
    **options: Any,
) -> Path:
    """Writes a clip at 25 frames per second, or with the given pts (in 1/1000 s). `rotation`: degrees counter-clockwise."""
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=25, options={key: str(value) for key, value in options.items()})
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt, stream.gop_size = height, width, pix_fmt, gop
        if pts is not None:
            stream.codec_context.time_base = stream.time_base = Fraction(1, 1000)
        if pixel_aspect:
            stream.codec_context.sample_aspect_ratio = stream.sample_aspect_ratio = pixel_aspect
        if rotation:
            stream.set_display_rotation(rotation)
        for number in range(frames):
            upright = code_frame(number, *((width, height) if rotation % 180 else (height, width)))
            stored = np.ascontiguousarray(np.rot90(upright, -rotation // 90))
            frame = av.VideoFrame.from_ndarray(stored, format="rgb24").reformat(format=pix_fmt)
            frame.pts = number if pts is None else pts[number]
            frame.time_base = Fraction(1, 25) if pts is None else Fraction(1, 1000)
            output.mux(stream.encode(frame))
        output.mux(stream.encode(None))
    return path


def remux(source: Path, path: Path, *, shift: int = 0, skip: int = 0, container: dict[str, str] | None = None) -> Path:
    """Copies the packets: `shift` is added to every pts and dts (in frames of 1/25 s), the first `skip` packets are dropped."""
    with av.open(str(source)) as reader, av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream_from_template(reader.streams.video[0])
        output.start_encoding()  # a file of no packets has a header, too
        for position, packet in enumerate(reader.demux(video=0)):
            if packet.dts is None or position < skip:
                continue
            assert packet.pts is not None
            ticks = int(shift / 25 / packet.time_base)
            packet.pts, packet.dts, packet.stream = packet.pts + ticks, packet.dts + ticks, stream
            output.mux(packet)
    return path


def named(options: dict[str, Any]) -> dict[str, Any]:
    """Codec options whose names are no Python identifiers, to be passed with `**`."""
    return options


@dataclass(frozen=True)
class Kind:
    """A kind of clip. `make(path)` writes it, `suffix` selects its container, and its frames show `numbers`."""

    make: Callable[[Path], Path]
    suffix: str = ".mp4"
    numbers: range = range(60)


def h264(path: Path, **options: Any) -> Path:
    """Writes H.264 with up to 3 B-frames and a keyframe every 12 frames, unless the options differ."""
    chosen: dict[str, Any] = {"preset": "ultrafast", "crf": 28, "bf": 3} | options
    return encode(path, **chosen)


def open_gop(path: Path, **options: Any) -> Path:
    """Writes H.264 with open GOPs: B-frames that are shown before a keyframe are stored after it."""
    return h264(path, **named({"x264-params": "open-gop=1:bframes=3:b-adapt=0:scenecut=0"}), **options)


def remuxed(source: Callable[[Path], Path], path: Path, **options: Any) -> Path:
    """Writes the H.264 mp4 clip of `source`, copied by `remux`."""
    with tempfile.TemporaryDirectory() as folder:
        return remux(source(Path(folder) / "source.mp4"), path, **options)


def av1(path: Path) -> Path:
    """Writes AV1 and restores the scheduling of the thread.

    SVT-AV1 gives the calling thread a real-time priority if it may, and all later processes would inherit it.
    """
    policy, parameter = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        return encode(path, codec="libsvtav1", preset=10, **named({"svtav1-params": "lp=1"}))
    finally:
        os.sched_setscheduler(0, policy, parameter)


def hevc(path: Path, open_groups: bool) -> Path:
    """Writes HEVC with 4 B-frames."""
    params = f"bframes=4:b-adapt=0:log-level=none:pools=1:frame-threads=1:scenecut=0:open-gop={int(open_groups)}"
    return encode(path, "libx265", preset="ultrafast", **named({"x265-params": params}))


HIDING = {"avoid_negative_ts": "disabled"}  # frames before time 0 end up outside the edit list

GOOD: dict[str, Kind] = {
    "h264 mp4": Kind(partial(h264, bf=0)),
    "h264 mp4 b-frames": Kind(h264),
    "h264 mp4 open gop": Kind(open_gop),
    "h264 mp4 intra refresh": Kind(partial(h264, bf=0, **named({"x264-params": "intra-refresh=1"}))),
    "h264 mp4 interlaced": Kind(partial(h264, **named({"x264-params": "interlaced=1"}))),
    "h264 mp4 variable rate": Kind(partial(h264, pts=[n * 33 + 700 * (n > 20) + n % 3 * 5 for n in range(60)])),
    "h264 mp4 start at 3 s": Kind(partial(h264, pts=range(3000, 5400, 40))),
    "h264 mp4 fragments": Kind(partial(remuxed, h264, container={"movflags": "frag_keyframe+empty_moov"})),
    "h264 mp4 gop 300": Kind(
        partial(h264, frames=400, gop=300, **named({"x264-params": "scenecut=0"})), numbers=range(400)
    ),
    "h264 mp4 edit list": Kind(partial(remuxed, h264, shift=-13, container=HIDING), numbers=range(13, 60)),
    "h264 mp4 rotated 90": Kind(partial(h264, height=160, width=96, rotation=90)),
    "h264 mp4 rotated 180": Kind(partial(h264, rotation=180)),
    "h264 mp4 rotated 270": Kind(partial(h264, height=160, width=96, rotation=270)),
    "h264 mp4 one frame": Kind(partial(h264, frames=1), numbers=range(1)),
    "h264 mp4 161x97 yuv444": Kind(partial(h264, height=97, width=161, pix_fmt="yuv444p")),
    "h264 mp4 16x16": Kind(partial(h264, height=16, width=16)),
    "h264 mp4 gray": Kind(partial(h264, pix_fmt="gray")),
    "h264 mp4 10 bit": Kind(partial(h264, pix_fmt="yuv420p10le")),
    "h264 mkv b-frames": Kind(h264, ".mkv"),
    "h264 mkv negative start": Kind(partial(remuxed, h264, shift=-13, container=HIDING), ".mkv"),
    "h264 mkv from mid-group": Kind(partial(remuxed, open_gop, skip=3), ".mkv", range(12, 60)),
    "h264 avi b-frames": Kind(h264, ".avi"),
    "h264 ts b-frames": Kind(h264, ".ts"),
    "h264 without times": Kind(h264, ".h264"),
    "hevc mp4 b-frames": Kind(partial(hevc, open_groups=False)),
    "hevc mp4 open gop": Kind(partial(hevc, open_groups=True)),
    "av1 mp4": Kind(av1),
    "vp9 webm": Kind(partial(encode, codec="libvpx-vp9", deadline="realtime", **named({"cpu-used": 8})), ".webm"),
    "vp8 webm": Kind(partial(encode, codec="libvpx", deadline="realtime", b="300k", **named({"cpu-used": 8})), ".webm"),
    "mpeg4 avi b-frames": Kind(partial(encode, codec="mpeg4", bf=2, **named({"q:v": 4})), ".avi"),
    "mpeg4 mp4": Kind(partial(encode, codec="mpeg4", **named({"q:v": 4}))),
    "mjpeg mov": Kind(partial(encode, codec="mjpeg", pix_fmt="yuvj420p"), ".mov"),
}


def image_folder(path: Path, names: Sequence[str]) -> Path:
    """Writes a folder of frames. The file `names[n]` shows n."""
    path.mkdir()
    for number, name in enumerate(names):
        Image.fromarray(code_frame(number)).save(path / name, quality=90)
    return path


def write_audio(path: Path) -> None:
    """Writes an MP4 without a video stream: 1024 silent samples in AAC."""
    with av.open(str(path), "w") as output:
        stream = output.add_stream("aac", rate=8000)
        samples = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        samples.sample_rate = 8000
        output.mux([*stream.encode(samples), *stream.encode(None)])


def write_absurd_header(path: Path) -> None:
    """Writes an AVI whose header claims frames of 60000 x 60000 raw pixels, 10.8 GB each."""
    data = encode(path, "mpeg4", frames=3).read_bytes()
    size = data.index(b"strf") + 12
    data = data[:size] + (60000).to_bytes(4, "little") * 2 + data[size + 8 :]
    path.write_bytes(data.replace(b"FMP4", b"DIB "))


def make_clips(folder: Path) -> dict[str, Path]:
    """Writes every kind of `GOOD` into the folder, within a few seconds, and returns the paths by kind."""
    os.environ.setdefault("SVT_LOG", "1")  # the AV1 encoder prints a banner otherwise
    return {name: kind.make(folder / (name.replace(" ", "_") + kind.suffix)) for name, kind in GOOD.items()}


def true_frames(path: Path) -> list[np.ndarray]:
    """The upright frames of a full sequential decode, (H, W, 3) uint8 each: the reference for every frame index."""
    with av.open(str(path)) as container:
        return [np.rot90(frame.to_ndarray(format="rgb24"), frame.rotation // 90) for frame in container.decode(video=0)]


def contract_row(name: str, path: Path) -> tuple[str, int, str, str, str, str]:
    """One row of `contract_table`. Wrong frames are counted in random order, for this project's reader and for decord alone."""
    import decord

    from vrshq.operators.video.files import DecodeConfig
    from vrshq.operators.video.video import open_video

    truth = true_frames(path)
    order = np.random.default_rng(0).permutation(len(truth)).tolist()

    def wrong(read: Callable[[int], np.ndarray]) -> str:
        try:
            return str(sum(read_code(read(index)) != read_code(truth[index]) for index in order))
        except Exception as error:  # noqa: BLE001 - decord raises its own types, IndexError, ...
            return type(error).__name__

    decord.logging.set_level(decord.logging.QUIET)
    try:
        reader = decord.VideoReader(str(path), num_threads=1)
        alone = wrong(lambda index: reader[index].asnumpy())
    except Exception as error:  # noqa: BLE001 - as above
        alone = type(error).__name__
    with open_video(str(path), DecodeConfig(frame_cache_bytes=0)) as video:
        ours = wrong(lambda index: video.frames([index])[0])
        return name, video.num_frames, video.reader, ours, alone, video.reader_reason


def contract_table(clips: dict[str, Path]) -> str:
    """A table of wrong frames, one line per kind of clip: no frame index may give another frame than a sequential decode."""
    head = ("kind of clip", "frames", "reader", "wrong", "decord alone", "reason")
    rows = [head, *(contract_row(name, path) for name, path in clips.items())]
    widths = [max(len(str(row[column])) for row in rows) for column in range(len(head))]
    lines = ("  ".join(str(cell).ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(line.rstrip() for line in lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        print(contract_table(make_clips(Path(temporary))))

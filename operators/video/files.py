"""What a video file or a folder of frames holds, found from headers and packets before any pixel is decoded.

Everything here treats the path as untrusted data: it is only ever opened as a local file, only containers that cannot
point at other files are read, and every size is compared with a limit before memory is taken for it.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from vrshq.operators.batch import InputError
from vrshq.operators.video import orientation
from vrshq.operators.video.damage import decoded
from vrshq.operators.video.orientation import UPRIGHT, Orientation
from vrshq.operators.video.size_hints import SizeHints
from vrshq.operators.video.tone_map import note_of, signal_of
from vrshq.operators.video.transport import interruptions

# ffmpeg's names. Playlists and scripts (hls, dash, concat, image2, ...) are left out: they make ffmpeg open other files.
CONTAINERS = "mov,matroska,avi,mpegts,mpeg,flv,asf,ogg,ivf,m4v,h264,hevc,yuv4mpegpipe,mxf,dv"

MOST_ASPECT = 16  # pixels longer than this are a mistake in the header
NO_KEYFRAME = "does not start with a keyframe"  # a doubt of `Packets`


@dataclass(frozen=True, kw_only=True)
class DecodeConfig:
    """Limits and costs of decoding."""

    max_frames: int = 500_000  # 4.6 hours at 30 frames/s
    """Most frames a video may have; two hours at 25 frames per second have 180,000."""
    max_pixels: int = 7680 * 4320
    """Most pixels (height * width) of one frame; the default is 8K."""
    max_bytes: int = 32 * 2**30
    """Largest file, or total of a folder's frames, in bytes."""
    frame_cache_bytes: int = 512 * 2**20
    """Decoded frames kept in memory per open video, so that several operators share one decode, in bytes."""
    num_threads: int = 1
    """Threads of the decoder. More threads cost memory: each holds frames of its own."""
    decord: bool = True
    """Read with decord the files on which it agrees with PyAV; False: PyAV reads all files, and finds damaged frames."""
    decord_bytes: int = 256 * 2**20
    """Most that a reader may hold of a video, in bytes: decord reads whole groups of pictures, PyAV frames on its way."""
    damaged: Literal["refuse", "keep"] = "refuse"
    """Treatment of a damaged video: an error, or the frames that a sequential decode still yields, with a note."""
    tone_map: bool = True
    """Map HDR (HLG, PQ) and wide colours (BT.2020) to SDR with BT.709, as the module `tone_map` does; False: as if SDR."""
    size_change: Literal["refuse", "scale"] = "refuse"
    """Treatment of a video whose frame size changes: an error, or all frames scaled to the size of the first one."""
    every: int = 1
    """Of the frames asked for, the stage `Decode` takes every n-th one. `open_video` itself leaves none out."""


@dataclass(frozen=True)
class VideoInfo:
    """A video as its headers and packets describe it.

    `num_frames` is the number of packets that are to be shown. For H.264, HEVC, VP9 and AV1 in a sound file that is the
    number of frames; where it is not, `Video.num_frames`, which counts decoded frames, has the last word.
    """

    path: str
    num_frames: int
    height: int  # as displayed, in pixels
    width: int
    codec: str
    container: str  # ffmpeg's name, or "images"
    duration_s: float | None
    file_bytes: int
    orientation: Orientation = UPRIGHT  # of the first frame of a video file; a folder's files have one each
    pixel_aspect: float = 1.0  # width of a displayed pixel over its height
    signal: str | None = None  # "HLG", "PQ" or "BT.2020" where frames are mapped to SDR
    lost_end: int | None = 0  # of an animated image, as in `Damage`
    notes: tuple[str, ...] = ()  # what a user should know about the frames

    @property
    def rotation(self) -> int:
        """Degrees counter-clockwise (0, 90, 180, 270) by which the stored frames are turned for display."""
        return self.orientation.rotation


@dataclass(frozen=True)
class Packets:
    """The packets of a video stream in presentation order.

    `doubt` is None where every packet must give exactly one frame and `pts` (int64, strictly increasing, in `time_base`
    units) tells the order; else it says why that is not known. Where it is None, `keys` has the presentation index of
    each keyframe after the first one, and `open_groups` says whether frames shown before a keyframe are stored after
    it.

    `flagged` has the numbers of packets that the container says are damaged or follow a loss, and `excused` the times of their
    frames where that happened on the way of a transport stream. `lost_end` is as in `Damage`. `size_may_change` says whether
    the packets announce a change of the frame size.
    """

    count: int
    pts: np.ndarray
    time_base: float
    keys: list[int]
    open_groups: bool
    doubt: str | None
    flagged: list[int]
    excused: frozenset[int | None]
    lost_end: int | None
    size_may_change: bool


def local_path(path: str, config: DecodeConfig) -> Path:
    """The absolute path of an existing regular file or folder; InputError otherwise.

    An absolute path starts with a slash, so that ffmpeg cannot take "http://..." or "concat:..." for a protocol.
    """
    try:
        if not path:
            raise InputError("the path of the video is empty; expected a video file or a folder of numbered frames")
        absolute = Path(path).absolute()
        status = absolute.stat()
        if stat.S_ISDIR(status.st_mode):
            next(absolute.iterdir(), None)
        elif stat.S_ISREG(status.st_mode):
            absolute.open("rb").close()
        else:
            raise InputError(f"{path} is not a regular file; expected a video file or a folder of numbered frames")
    except (OSError, ValueError) as error:
        if isinstance(error, InputError):
            raise
        why = getattr(error, "strerror", None) or str(error)
        raise InputError(
            f"{path} cannot be opened ({why}); expected a readable local video file or a folder of numbered "
            "frames; check the path and its permissions"
        ) from error
    if stat.S_ISREG(status.st_mode):
        check_limit(path, status.st_size, config.max_bytes, "bytes", "limits.max_bytes")
        if not status.st_size:
            raise InputError(f"{path} has zero bytes; expected a video file; copy it again")
    return absolute


def check_limit(path: str, value: int, limit: int, unit: str, setting: str) -> None:
    """Raises InputError when a size that a header states is above the limit of `setting`."""
    if value > limit:
        raise InputError(
            f"{path} has {value:,} {unit}, above the limit of {limit:,}; raise {setting} if it is meant to"
        )


def open_container(path: Path, config: DecodeConfig) -> tuple[InputContainer, VideoStream]:
    """Opens a local file with PyAV and finds its video stream; the frame size is checked against `max_pixels`."""
    # a stream may hold larger frames than its header says; decoders round sizes up, so their limit is not the exact one
    decoder_limit = str(2 * config.max_pixels + 2**20)
    options = {
        "format_whitelist": CONTAINERS,
        "protocol_whitelist": "file",
        "max_pixels": decoder_limit,  # for the frames that ffmpeg decodes while it looks at the streams
    }
    try:
        container = av.open(str(path), options=options, metadata_errors="ignore")
    except (av.FFmpegError, MemoryError) as error:
        raise InputError(
            f"{path} is not a video that can be read ({_words(error)}); expected mp4, mov, mkv, webm, avi, ts, mpg, flv, wmv, "
            "ogv, mxf, dv, y4m, gif, apng or webp; the file may be cut short, or re-encode it to H.264 in mp4"
        ) from error
    try:
        stream = container.streams.best("video")
        if not isinstance(stream, VideoStream) or stream.disposition & av.stream.Disposition.attached_pic:
            raise InputError(f"{path} has no video stream; expected a video file, this one has only sound or data")
        context = stream.codec_context
        if context is None or not context.width or not context.height:
            raise InputError(
                f"{path} states no frame size, one far above limits.max_pixels ({config.max_pixels:,}), or an unknown codec; "
                "expected a video that ffmpeg can decode"
            )
        check_limit(
            str(path), context.width * context.height, config.max_pixels, "pixels per frame", "limits.max_pixels"
        )
        context.options = {"max_pixels": decoder_limit}
        context.thread_count = config.num_threads
        stream.thread_type = "AUTO"
    except BaseException:
        container.close()
        raise
    return container, stream


def inspect_video(path: Path, config: DecodeConfig) -> tuple[VideoInfo, Packets]:
    """Reads the headers, all packets, and the first frame (only it knows the size and the orientation) of a video file.

    Raises InputError for what is not a video, holds no frame, is above a limit or is cut short. Costs one read of the
    file.
    """
    container, stream = open_container(path, config)
    with container:
        try:
            packets = _scan_packets(path, container, stream, config)
        except (av.FFmpegError, MemoryError) as error:
            raise InputError(f"{path} has packets that cannot be read ({_words(error)}); copy it again") from error
        name, codec = container.format.name, stream.codec_context.codec.canonical_name
        duration = container.duration / av.time_base if container.duration else None
        ratio = float(stream.sample_aspect_ratio or 1)
        ratio = ratio if 1 / MOST_ASPECT <= ratio <= MOST_ASPECT else 1.0
    frame = _first_frame(path, packets, config)
    turned = orientation.of_frame(frame)
    height, width = turned.size(frame.height, frame.width)
    ratio = 1 / ratio if turned.transposed else ratio
    check_limit(str(path), height * width, config.max_pixels, "pixels per frame", "limits.max_pixels")
    signal = signal_of(frame) if config.tone_map else None
    info = VideoInfo(
        str(path),
        packets.count,
        height,
        width,
        codec,
        name,
        duration,
        path.stat().st_size,
        orientation=turned,
        pixel_aspect=ratio,
        signal=signal,
        notes=(note_of(signal),) if signal else (),
    )
    return info, packets


def _scan_packets(path: Path, container: InputContainer, stream: VideoStream, config: DecodeConfig) -> Packets:
    shown: list[int | None] = []
    key_packets: list[int] = []
    places: list[int] = []
    flagged: list[int] = []
    transport = container.format.name == "mpegts"
    context = stream.codec_context
    hints = SizeHints(context.codec.canonical_name, context.extradata)
    discarded = end = 0
    keep = config.damaged == "keep"
    cut = False
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, MemoryError):
            if not keep:
                raise
            cut, packet = True, None
        if packet is None:
            break
        if not packet.size:  # the packet that PyAV adds at the end of the stream
            continue
        if packet.is_corrupt:
            # a transport stream goes on behind what was lost on its way; elsewhere the file ends inside the packet
            if not keep and not transport:
                raise _cut_short(path, len(shown))
            flagged.append(len(shown))
        if packet.is_discard:
            discarded += 1
            continue
        if packet.is_keyframe:
            key_packets.append(len(shown))
        hints.add(packet)
        shown.append(packet.pts)
        places.append(packet.pos or 0)
        end = (packet.pos or 0) + packet.size
        check_limit(str(path), len(shown), config.max_frames, "frames", "limits.max_frames")
    if not shown:
        raise InputError(f"{path} has no video frames; expected at least one")
    if transport:
        breaks = np.searchsorted(np.maximum.accumulate(places), interruptions(path, stream.id), "right") - 1
        flagged = np.unique(np.maximum(breaks, 0)).tolist()
    # the packet before may lack its end; a frame without its beginning has no time
    near = {number for place in flagged for number in (place - 1, place)} if transport else set()
    excused = frozenset([None, *(shown[number] for number in near)] if near else [])
    cut = cut or _is_cut_short(path, container, stream, len(shown) + discarded, end)
    if cut and not keep:
        raise _cut_short(path, len(shown))
    announced = stream.frames - len(shown) - discarded
    lost_end = 0 if not cut else announced if announced > 0 else None
    order, keys, open_groups, doubt = _in_order(shown, key_packets)
    if discarded:
        keys, open_groups, doubt = [], False, "edit list hides frames"
    base = float(stream.time_base or 0)
    return Packets(len(shown), order, base, keys, open_groups, doubt, flagged, excused, lost_end, hints.varies)


def _in_order(shown: list[int | None], key_packets: list[int]) -> tuple[np.ndarray, list[int], bool, str | None]:
    """`pts`, `keys`, `open_groups` and `doubt` of `Packets`, from the packets' times and the numbers of the keyframes."""
    known = [pts for pts in shown if pts is not None]
    order = np.sort(np.array(known, dtype=np.int64))
    if len(known) < len(shown):
        return order, [], False, "packets without time"
    if len(set(known)) < len(known):
        return order, [], False, "packets with equal times"
    if key_packets[:1] != [0] or known[0] != order[0]:
        return order, [], False, NO_KEYFRAME
    place = np.searchsorted(order, known)  # packet number -> presentation index
    keys = [int(place[packet]) for packet in key_packets[1:]]
    return order, keys, any(place[packet] > packet for packet in key_packets), None


def _is_cut_short(path: Path, container: InputContainer, stream: VideoStream, packets: int, end: int) -> bool:
    """Whether the container's own sizes say that its end is missing. Transport streams state no size: they cannot tell.

    Args:
        path, container, stream: the file.
        packets: number of its packets.
        end: place of the byte after the last packet.
    """
    size = path.stat().st_size
    name = container.format.name
    if name.startswith("mov"):
        return any(entry.pos + entry.size > size for entry in stream.index_entries)
    if name in ("yuv4mpegpipe", "dv"):  # frames of one size, and nothing behind them
        return end != size
    if name == "mxf":
        return packets < (stream.duration or 0)
    with path.open("rb") as file:
        head = file.read(4096)
    if name == "avi":  # the index at the end may be missing while all frames are there
        return int.from_bytes(head[4:8], "little") + 8 > size and packets < stream.frames
    if name.startswith("matroska"):
        return _matroska_end(head) > size
    return False


def _matroska_end(head: bytes) -> int:
    """Where the segment of a Matroska file must end, in bytes; 0 where it does not say (a live recording)."""

    def number(offset: int) -> tuple[int, int]:  # EBML: the leading zeros of the first byte give the length
        length = 9 - head[offset].bit_length()
        value = int.from_bytes(head[offset : offset + length], "big") & ((1 << 7 * length) - 1)
        return (0 if value == (1 << 7 * length) - 1 else value), offset + length

    try:
        header_size, start = number(4)
        segment = start + header_size
        if head[segment : segment + 4] != b"\x18\x53\x80\x67":
            return 0
        segment_size, start = number(segment + 4)
    except IndexError:
        return 0
    return start + segment_size if segment_size else 0


def _cut_short(path: Path, frames: int) -> InputError:
    return InputError(
        f"{path} is cut short after about {frames} frames; expected the whole file; copy it again, or read what is there "
        "with decode.damaged=keep"
    )


def _first_frame(path: Path, packets: Packets, config: DecodeConfig) -> av.VideoFrame:
    container, stream = open_container(path, config)

    def refuse(error: BaseException) -> None:
        if config.damaged == "refuse":
            raise broken_at(path, 0, packets.count, error) from error

    with container:
        frame = next(decoded(container, stream, refuse), None)
        if frame is None:
            raise InputError(f"{path} has no frame that can be decoded; expected at least one")
        return frame


def broken_at(path: Path, frame: int, frames: int, error: BaseException) -> InputError:
    """The error of a stream that stops decoding in the middle."""
    return InputError(
        f"{path} breaks at frame {frame} of {frames} ({_words(error)}); expected an intact stream; copy or re-encode it, or "
        "read what is left with decode.damaged=keep"
    )


def _words(error: BaseException) -> str:
    return str(getattr(error, "strerror", None) or error or type(error).__name__)

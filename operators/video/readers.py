"""The readers behind `vrshq.operators.decode.Video`: decord, PyAV and folders of images, and the check that chooses.

A reader gives the frame with a presentation index: its place in the order in which a full sequential decode yields
frames.
"""

from __future__ import annotations

import bisect
import itertools
import re
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import ImageOps

from vrshq.operators.batch import InputError
from vrshq.operators.video.files import (
    DecodeConfig,
    Packets,
    VideoInfo,
    broken_at,
    open_container,
    open_image,
    quarter_turns,
)

TRUSTED_CONTAINERS = ("mov", "matroska")  # decord is silently wrong on AVI and MPEG-TS
TRUSTED_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})  # one packet, one frame
CHECKED_HEAD = 6  # frames compared at the start
TOLERANCE = 3  # greatest difference of a channel (0 to 255) between two versions of ffmpeg that show the same frame
SHORT_SKIP = 16  # decoding this many frames is cheaper than a seek
SEEK_TRIES = 3  # keyframes to try before seeking is given up
RUN_FRAMES, RUN_BYTES = 64, 32 * 2**20  # short groups of pictures are read by decord in runs of up to so much


class ReaderError(RuntimeError):
    """A reader failed where another one may not."""


class DecodeCount:
    """Work of a reader: `passes`, how often it began anew before where it stood; `frames`, those taken from its decoder."""

    def __init__(self) -> None:
        self.passes = self.frames = 0
        self._next = -1

    def add(self, start: int, stop: int) -> None:
        """The frames start..stop-1 were decoded."""
        self.passes += self._next < 0 or start < self._next
        self.frames += stop - start
        self._next = stop


class Reader(Protocol):
    """Frames by presentation index; cheapest in ascending order."""

    name: str
    num_frames: int
    count: DecodeCount

    def read(self, index: int) -> np.ndarray:
        """The frame: a (height, width, 3) uint8 RGB array, which the reader may hand out again: not to be written to."""

    def close(self) -> None: ...


class FrameCache:
    """Keeps the first frames it is offered, up to a number of bytes, and never evicts one.

    A video is read front to back again and again; there, throwing out the oldest frame would throw out each one just
    before its next use.
    """

    def __init__(self, budget: int) -> None:
        self._frames: dict[int, np.ndarray] = {}
        self._left = budget
        self.full = False

    def get(self, index: int) -> np.ndarray | None:
        return self._frames.get(index)

    def offer(self, index: int, frame: np.ndarray) -> None:
        """Keeps the frame if it still fits. The cache owns it from then on: hand out copies."""
        if index in self._frames:
            return
        self.full = self.full or frame.nbytes > self._left
        if not self.full:
            self._frames[index] = frame
            self._left -= frame.nbytes

    def clear(self) -> None:
        self._frames.clear()


def decord_runs(info: VideoInfo, packets: Packets, config: DecodeConfig) -> list[int]:
    """Where the runs of frames begin that decord reads, each of one or more groups of pictures; last, the number of frames."""
    most = min(RUN_FRAMES, min(RUN_BYTES, config.decord_bytes) // (info.height * info.width * 3))
    starts = [0]
    for key, end in itertools.pairwise([*packets.keys, packets.count]):
        if end - starts[-1] > most:
            starts.append(key)
    return [*starts, packets.count]


class DecordReader:
    """Fast, but its frame times are those of the packets, never of the frames it shows: use it after `disagreement`.

    decord takes in all packets that it can reach while it waits for a frame, and its thread decodes them, whoever wants
    the frames. So it reads runs of whole groups of pictures and is stopped after each; the run that was read last is held.
    """

    name = "decord"

    def __init__(self, path: Path, info: VideoInfo, packets: Packets, config: DecodeConfig) -> None:
        decord = self._guard(_import_decord)
        decord.logging.set_level(decord.logging.QUIET)
        # fault_tol: by default decord repeats the last good frame where one is missing; any such frame is to be an error
        self._reader: Any = self._guard(
            lambda: decord.VideoReader(str(path), num_threads=config.num_threads, fault_tol=1e-9)
        )
        self.num_frames = len(self._reader)
        self.count = DecodeCount()
        self._runs = decord_runs(info, packets, config)
        self._held: list[np.ndarray] = []
        self._first = 0  # index of the first frame held

    @staticmethod
    def _guard(call: Any) -> Any:
        try:
            return call()
        except Exception as error:  # decord raises its own types, RuntimeError, AssertionError, ...
            words = re.sub(r"\[[\d:]+\] |\S+\.cc:\d+: ", "", str(error)).split()  # without times and source lines
            raise ReaderError(" ".join(words)[:200] or type(error).__name__) from error

    def start_times(self) -> np.ndarray:
        """Start of each frame in seconds: (num_frames,) float64."""
        times = self._guard(lambda: self._reader.get_frame_timestamp(range(self.num_frames)))
        return times[:, 0].astype(np.float64)

    def read(self, index: int) -> np.ndarray:
        if not 0 <= index - self._first < len(self._held):
            run = bisect.bisect_right(self._runs, index)
            self._held = []  # not beside the next ones
            self._first, stop = self._runs[run - 1], self._runs[run]
            self._held = self.decode(self._first, stop)
            self.count.add(self._first, stop)
        return self._held[index - self._first]

    def decode(self, start: int, stop: int) -> list[np.ndarray]:
        """The frames start..stop-1, of which the first is a keyframe."""
        frames = [self._guard(lambda index=index: self._reader[index].asnumpy()) for index in range(start, stop)]
        self._guard(lambda: self._reader.seek(0))  # ends the thread and throws away what it has decoded
        return frames

    def close(self) -> None:
        self._reader = None
        self._held = []


def _import_decord() -> Any:
    """decord, kept from loading CUDA.

    It loads whatever libraries it finds in torch's nvidia packages, some 600 MiB, and uses none of them. None as a module is
    Python's way to say that a package is not there.
    """
    hidden = sys.modules.get("nvidia")
    sys.modules["nvidia"] = None  # type: ignore[assignment]
    try:
        import decord  # here, because folders of images do not need it
    finally:
        del sys.modules["nvidia"]
        if hidden is not None:
            sys.modules["nvidia"] = hidden
    return decord


class PyavReader:
    """Right by construction: one full decode at opening counts the frames and notes a mark (time and checksum) of each.

    Frames that the decode passes are offered to the cache. Later reads go on from where the decoder stands, or seek to
    a keyframe; after a seek each frame must bear the mark that the full decode noted at its index, else seeking is
    given up for this file and reading starts again at the first frame. Raises InputError where the stream breaks or a
    frame is damaged.
    """

    name = "pyav"

    def __init__(self, path: Path, info: VideoInfo, packets: Packets, config: DecodeConfig, cache: FrameCache) -> None:
        self._path, self._info, self._config = path, info, config
        self._to_rgb, self._to_mark = VideoReformatter(), VideoReformatter()
        self._marks: list[tuple[int | None, int]] = []
        self._keys = [0]
        self.num_frames = packets.count
        self.count = DecodeCount()
        self._start()
        interlaced = False
        try:
            for index, frame in enumerate(self._frames):
                if index >= config.max_frames:
                    raise InputError(f"{path} has more than {config.max_frames:,} frames; raise decode.max_frames")
                if frame.is_corrupt:  # the decoder guessed a part of it, not the same way each time
                    raise broken_at(path, index, packets.count, ValueError("damaged frame"))
                self._marks.append(self._mark(frame))
                if frame.key_frame and index:
                    self._keys.append(index)
                interlaced = interlaced or frame.interlaced_frame
                if not cache.full:
                    cache.offer(index, self._rgb(frame))
            decoded = len(self._marks)
            if not decoded:
                raise InputError(f"{path} has no frame that can be decoded; expected at least one")
            # two fields of an interlaced frame may be two packets
            if decoded < packets.count and not packets.doubt and info.codec in TRUSTED_CODECS and not interlaced:
                missing = f"the decoder gives {decoded} frames for {packets.count} packets"
                raise broken_at(path, decoded, packets.count, ValueError(missing))
        except BaseException:
            self.close()
            raise
        self.num_frames = self._next = decoded
        self.count.add(0, decoded)
        self._places = {mark: index for index, mark in enumerate(self._marks)}
        self._times = [pts for pts, _ in self._marks if pts is not None]
        in_order = all(earlier < later for earlier, later in itertools.pairwise(self._times))
        self._seekable = in_order and len(self._times) == decoded

    def read(self, index: int) -> np.ndarray:
        self.count.add(index, index + 1)
        place = bisect.bisect_right(self._keys, index) if self._seekable else 1
        keys = self._keys[max(0, place - SEEK_TRIES) : place]
        if index < self._next or keys[-1] - self._next > SHORT_SKIP:
            if keys[-1]:
                self._seek(index, keys[::-1])
            elif index < self._next:
                self._restart()
        while True:
            try:
                frame = next(self._frames, None)
            except InputError:
                if not self._sought:
                    raise
                frame = None
            if frame is not None and not (self._sought and self._mark(frame) != self._marks[self._next]):
                self._next += 1
                if self._next > index:
                    return self._rgb(frame)
            elif self._sought:
                self._give_up_seeking()
            else:
                raise InputError(
                    f"{self._path} gave {self.num_frames} frames, then {self._next}; was the file changed?"
                )

    def close(self) -> None:
        self._container.close()

    def _start(self) -> None:
        self._container, self._stream = open_container(self._path, self._config)
        self._frames = self._decode()
        self._next = 0  # index of the frame that comes next from self._frames
        self._sought = False

    def _restart(self) -> None:
        self.close()
        self._start()

    def _give_up_seeking(self) -> None:
        self._seekable = False
        self._restart()

    def _seek(self, index: int, keys: list[int]) -> None:
        """Moves to some frame at or before `index`; some containers only find a place near the keyframe that was asked for."""
        for key in keys:
            try:
                self._container.seek(self._times[key], stream=self._stream)
                self._frames = self._decode()
                for frame in self._frames:
                    place = self._places.get(self._mark(frame), index + 1)
                    if place <= index:
                        self._frames = itertools.chain([frame], self._frames)
                        self._next, self._sought = place, True
                        return
                    if frame.pts is None or frame.pts >= self._times[index]:
                        break
            except (av.FFmpegError, InputError):
                continue
        self._give_up_seeking()

    def _decode(self) -> Iterator[av.VideoFrame]:
        try:
            yield from self._container.decode(self._stream)
        except (av.FFmpegError, MemoryError) as error:
            raise broken_at(self._path, len(self._marks), self.num_frames, error) from error

    def _mark(self, frame: av.VideoFrame) -> tuple[int | None, int]:
        small = self._to_mark.reformat(frame, width=64, height=64, format="gray")
        return frame.pts, zlib.crc32(small.to_ndarray().tobytes())

    def _rgb(self, frame: av.VideoFrame) -> np.ndarray:
        rgb = upright(self._to_rgb.reformat(frame, format="rgb24"), frame)
        if rgb.shape[:2] != (self._info.height, self._info.width):
            raise InputError(
                f"{self._path} changes its frame size to {rgb.shape[1]}x{rgb.shape[0]} in the middle; expected "
                f"{self._info.width}x{self._info.height} throughout; re-encode it"
            )
        return rgb


def upright(rgb: av.VideoFrame, source: av.VideoFrame) -> np.ndarray:
    """An rgb24 frame as an array, turned as the frame it was made from asks for: (height, width, 3) uint8."""
    return np.ascontiguousarray(np.rot90(rgb.to_ndarray(), quarter_turns(source)))


class ImageReader:
    """A folder of JPEG or PNG frames. Orientation in EXIF is applied; transparency is dropped."""

    name = "images"

    def __init__(self, files: list[Path], info: VideoInfo) -> None:
        self._files, self._info = files, info
        self.num_frames = len(files)
        self.count = DecodeCount()

    def read(self, index: int) -> np.ndarray:
        self.count.add(index, index + 1)
        file = self._files[index]
        try:
            with open_image(file) as image:
                if image.height * image.width != self._info.height * self._info.width:
                    raise InputError(f"{file} changed its size since the folder was opened")
                frame = np.array(ImageOps.exif_transpose(image).convert("RGB"))
        except (OSError, ValueError, SyntaxError) as error:
            if isinstance(error, InputError):
                raise
            words = f"frame {index} of {self.num_frames}, cannot be decoded ({error})"
            raise InputError(f"{file}, {words}; expected a sound JPEG or PNG; copy it again") from error
        return frame

    def close(self) -> None:
        pass


def open_reader(
    path: Path, info: VideoInfo, packets: Packets, config: DecodeConfig, cache: FrameCache
) -> tuple[Reader, str]:
    """Decord where it is known to be right, else PyAV; and the reason in a few words."""
    reason = distrust(info, packets, config)
    if reason is None:
        try:
            reader = DecordReader(path, info, packets, config)
            reason = disagreement(reader, path, packets, config)
            if reason is None:
                return reader, "agrees with PyAV"
            reader.close()
        except ReaderError as error:
            reason = f"decord fails: {error}"
    return PyavReader(path, info, packets, config, cache), reason


def distrust(info: VideoInfo, packets: Packets, config: DecodeConfig) -> str | None:
    """Why decord is not even tried; None where it may be."""
    if not config.decord:
        return "decord is switched off"
    if not info.container.startswith(TRUSTED_CONTAINERS):
        return f"container {info.container}"
    if info.codec not in TRUSTED_CODECS:
        return f"codec {info.codec}"
    # decord takes the packet number of a keyframe for its presentation index, and seeks wrong where they differ
    if packets.doubt or packets.open_groups:
        return packets.doubt or "open groups of pictures"
    longest = max(stop - start for start, stop in itertools.pairwise(decord_runs(info, packets, config)))
    return "long groups of pictures" if longest * info.height * info.width * 3 > config.decord_bytes else None


def disagreement(reader: DecordReader, path: Path, packets: Packets, config: DecodeConfig) -> str | None:
    """In what decord differs from PyAV on this file; None where no difference was found.

    Compares the number of frames, all frame times, and the pixels of a few frames: the first ones, and those at the
    last, the middle and the second keyframe, each time as `DecordReader.read` gets at them. Each reader decodes about 25
    frames, whatever the length of the video: 0.2 s for H.264 at 1280x720.
    """
    if reader.num_frames != packets.count:
        return f"decord counts {reader.num_frames} frames, the file has {packets.count}"
    times = reader.start_times()
    expected = (packets.pts - packets.pts[0]) * packets.time_base
    # decord's times are float32
    if not np.allclose(times - times[0], expected, rtol=1e-6, atol=2e-3):
        return "decord's frame times differ from the packets'"
    last = packets.count - 1
    keys = packets.keys
    runs = [
        (key, [key, key + 1, key + 4])
        for key in dict.fromkeys([keys[-1], keys[len(keys) // 2], keys[0]] if keys else [])
    ]
    runs.append((0, [0, 1, CHECKED_HEAD - 1]))
    for start, wanted in runs:
        inside = sorted({index for index in wanted if index <= last})
        truth = _decode_run(path, packets, config, start, inside)
        if truth is None:
            return "PyAV finds other frames than the packets announce"
        frames = reader.decode(start, inside[-1] + 1)
        for index in inside:
            frame = frames[index - start]
            if frame.shape != truth[index].shape:
                return f"decord gives frame {index} the shape {frame.shape}, not {truth[index].shape}"
            if (np.maximum(frame, truth[index]) - np.minimum(frame, truth[index])).max() > TOLERANCE:
                return f"decord shows other pixels at frame {index}"
    return None


def _decode_run(
    path: Path, packets: Packets, config: DecodeConfig, start: int, wanted: list[int]
) -> dict[int, np.ndarray] | None:
    """The wanted frames by PyAV, decoded from the keyframe at or before frame `start`; None where that fails.

    An index is only believed where the frame bears the time that the packets give it, so that a wrong seek cannot pass
    for the truth.
    """
    found: dict[int, np.ndarray] = {}
    container, stream = open_container(path, config)
    with container:
        try:
            if start:
                container.seek(int(packets.pts[start]), stream=stream)
            index = 0 if start == 0 else None
            for frame in container.decode(stream):
                if frame.pts is None:
                    return None
                if index is None:
                    index = int(np.searchsorted(packets.pts, frame.pts))
                if index > wanted[-1] or frame.pts != packets.pts[index]:
                    return None
                if index in wanted:
                    found[index] = upright(frame.reformat(format="rgb24"), frame)
                if index == wanted[-1]:
                    return found if len(found) == len(wanted) else None
                index += 1
        except (av.FFmpegError, MemoryError):
            return None
    return None

"""The readers behind `operators.decode.Video`: decord, PyAV and folders of images, and the check that chooses.

A reader gives the frame with a presentation index: its place in the order in which a full sequential decode yields
frames.
"""

from __future__ import annotations

import bisect
import itertools
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import av
import numpy as np
from av.video.reformatter import VideoReformatter
from PIL import ImageOps

from operators.batch import InputError
from operators.video_files import DecodeConfig, Packets, VideoInfo, broken_at, open_container, open_image, quarter_turns

TRUSTED_CONTAINERS = ("mov", "matroska")  # decord is silently wrong on AVI and MPEG-TS
TRUSTED_CODECS = frozenset({"h264", "hevc", "vp9", "av1"})  # one packet, one frame
CHECKED_HEAD = 6  # frames compared at the start
TOLERANCE = 3  # greatest difference of a channel (0 to 255) between two versions of ffmpeg that show the same frame
SHORT_SKIP = 16  # decoding this many frames is cheaper than a seek
SEEK_TRIES = 3  # keyframes to try before seeking is given up


class ReaderError(RuntimeError):
    """A reader failed where another one may not."""


class Reader(Protocol):
    """Frames by presentation index; cheapest in ascending order."""

    name: str
    num_frames: int

    def read(self, index: int) -> np.ndarray:
        """The frame: a fresh (height, width, 3) uint8 RGB array."""

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


class DecordReader:
    """Fast, but its frame times are those of the packets, never of the frames it shows: use it after `disagreement`."""

    name = "decord"

    def __init__(self, path: Path, config: DecodeConfig) -> None:
        import decord  # here, because loading it takes seconds and folders of images do not need it

        decord.logging.set_level(decord.logging.QUIET)
        # fault_tol: by default decord repeats the last good frame where one is missing; any such frame is to be an error
        self._reader: Any = self._guard(
            lambda: decord.VideoReader(str(path), num_threads=config.num_threads, fault_tol=1e-9)
        )
        self.num_frames = len(self._reader)

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
        return self._guard(lambda: self._reader[index].asnumpy())

    def close(self) -> None:
        self._reader = None


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
        self._places = {mark: index for index, mark in enumerate(self._marks)}
        self._times = [pts for pts, _ in self._marks if pts is not None]
        in_order = all(earlier < later for earlier, later in itertools.pairwise(self._times))
        self._seekable = in_order and len(self._times) == decoded

    def read(self, index: int) -> np.ndarray:
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

    def read(self, index: int) -> np.ndarray:
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
    """decord where it is known to be right, else PyAV; and the reason in a few words."""
    reason = distrust(info, packets, config)
    if reason is None:
        try:
            reader = DecordReader(path, config)
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
    if info.num_frames * info.height * info.width * 3 > config.decord_bytes:
        return "decord would decode far ahead"
    if not info.container.startswith(TRUSTED_CONTAINERS):
        return f"container {info.container}"
    if info.codec not in TRUSTED_CODECS:
        return f"codec {info.codec}"
    # decord takes the packet number of a keyframe for its presentation index, and seeks wrong where they differ
    return packets.doubt or ("open groups of pictures" if packets.open_groups else None)


def disagreement(reader: DecordReader, path: Path, packets: Packets, config: DecodeConfig) -> str | None:
    """In what decord differs from PyAV on this file; None where no difference was found.

    Compares the number of frames, all frame times, and the pixels of a few frames: the first ones, and those at the
    last, the middle and the second keyframe, visited backwards so that decord has to seek in both directions. Each
    reader decodes about 25 frames, whatever the length of the video: 0.2 s for H.264 at 1280x720.
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
        for index in dict.fromkeys([inside[-1], *inside]):  # the last one first: the next one makes decord turn back
            frame = reader.read(index)
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
